"""From statements to Markdown: formulas, tables, pages. Everything is deterministic."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import sympy as sp

from .statements import Part, Statement

NOTE = "<!-- Written by `python -m ab_schedulers.theory --write docs/theory`; edit the docstrings in theory/. -->"


def display(*formulas: str) -> str:
    """Displayed formulas, one below the other."""
    return "\n\n".join(f"$$\n{formula}\n$$" for formula in formulas)


def equation(left: str, right: Any) -> str:
    """Displayed ``left = right`` with ``right`` from sympy."""
    return display(f"{left} = {sp.latex(right)}")


def tex(value: Any) -> str:
    """A value inline."""
    return f"${sp.latex(sp.sympify(value))}$"


def row_tex(values: Iterable[Any]) -> str:
    """Weights inline, separated by commas."""
    return "$" + r",\ ".join(sp.latex(sp.sympify(value)) for value in values) + "$"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    unbroken = [title.replace("T = ", "T\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}") for title in header]
    lines = [unbroken, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def picture(folder: str, name: str, alt: str, caption: str) -> str:
    """A picture in its light and its dark version, of which the site shows one, with its caption."""
    versions = [f"![{alt}]({folder}/{name}-{scheme}.svg#only-{scheme})" for scheme in ("light", "dark")]
    return "\n".join(versions) + f"\n\n*{caption}* [Numbers]({folder}/{name}.json)"


def page_name(part: Part) -> str:
    """File name of a part's page."""
    return f"{part.number:02d}-{part.slug.replace('_', '-')}.md"


def section_titles(part: Part) -> list[str]:
    """Headings of a part's statements."""
    return [f"{part.number}.{place} {statement.title}" for place, statement in enumerate(part.statements, start=1)]


def anchor(title: str) -> str:
    """The anchor that Python-Markdown gives a heading; the site's strict build checks it."""
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower())


def page(part: Part, pictures: Mapping[str, str]) -> str:
    """The page of a part; ``<<name>>`` in a text stands for one of its formulas or for a picture."""
    sections = [f"# {part.number}. {part.title}", NOTE, part.opening.strip()]
    for statement, title in zip(part.statements, section_titles(part), strict=True):
        sections += [f"## {title}", *_section(statement, pictures)]
    return "\n\n".join(sections) + "\n"


def contents_page(parts: Sequence[Part]) -> str:
    """The list of parts and of everything they prove."""
    sections = ["# Theory", NOTE, _OPENING.strip()]
    for part in parts:
        lines = [f"## [{part.number}. {part.title}]({page_name(part)})", ""]
        for statement, title in zip(part.statements, section_titles(part), strict=True):
            lines.append(f"- [{statement.title}]({page_name(part)}#{anchor(title)}). {statement.claim}")
        sections.append("\n".join(lines))
    return "\n\n".join(sections) + "\n"


_OPENING = """
Each page states theorems about the functions of `ab_schedulers.numerics` that compute the coefficients at run
time. The functions use `+ - * /` alone, so the very same code is fed with sympy symbols or fractions here; no
coefficient is copied. `python -m ab_schedulers.theory --check` proves every statement below and prints a line
for each. Where a derivation holds for every order and the check runs over finitely many, the text says which
orders the function was checked for.
"""


def _section(statement: Statement, pictures: Mapping[str, str]) -> list[str]:
    formulas = {**pictures, **statement.formulas()}
    text = re.sub(r"<<(\w+)>>", lambda match: formulas[match[1]], statement.text)
    section = [f"**Statement.** {statement.claim}", text]
    if statement.functions:
        section.append("Computed by " + ", ".join(_link(function) for function in statement.functions) + ".")
    section.append(f"*Source:* {statement.source} · *Check:* `{statement.name}`")
    return section


def _link(function: Callable[..., Any]) -> str:
    """Markdown link from a page in ``docs/theory`` to the file that defines ``function``."""
    package, *inner = function.__module__.split(".")
    folder = Path(package, *inner[:-1]).as_posix()
    return f"[`{function.__qualname__}`](../../{folder}/{Path(inspect.getfile(function)).name})"
