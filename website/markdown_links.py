"""Links that work in the repository and on the site.

The pages of ``docs/`` are read in both places. In the repository a link from a function's name leads to its file,
``../../ab_schedulers/numerics/interpolation.py``; on the site it shall lead to its entry in the reference. And a
docstring names its page of theory as a path, ``docs/theory/01-adams.md``, which on the site shall be a link. This
extension of Python-Markdown translates before MkDocs checks the links, and the tests check the built links.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from markdown import Markdown
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor
from markdown.treeprocessors import Treeprocessor

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"

_SOURCE = re.compile(r"((?:\.\./)+)(ab_schedulers/[\w/]+)\.py")
_REFERENCED = re.compile(r"^::: (\S+)", re.MULTILINE)
_TITLE = re.compile(r"^# (.+)$", re.MULTILINE)


def reference_pages(docs: Path = DOCS) -> dict[str, str]:
    """The modules that the reference documents, each with its page below ``docs``."""
    return {
        module: page.relative_to(docs).as_posix()
        for page in sorted((docs / "reference").glob("*.md"))
        for module in _REFERENCED.findall(page.read_text(encoding="utf-8"))
    }


def reference_link(up: str, module: str, name: str, pages: dict[str, str]) -> str:
    """Link to ``module.name`` in the reference, from a page that reaches the root of the repository by ``up``.

    Raises:
        ValueError: If no page of the reference documents the module or a package above it.
    """
    package = module
    while package not in pages:
        package, dot, _ = package.rpartition(".")
        if not dot:
            raise ValueError(
                f"no page of docs/reference documents `{module}`, which a page links to; add `::: {module}` to one."
            )
    return f"{up.removeprefix('../')}{pages[package]}#{module}.{name}"


class _SourceLinks(Treeprocessor):
    """``[`name`](../ab_schedulers/package/module.py)`` becomes a link to the reference."""

    def __init__(self, md: Markdown, pages: dict[str, str]) -> None:
        super().__init__(md)
        self.pages = pages

    def run(self, root: Element) -> None:
        for link in root.iter("a"):
            found = _SOURCE.fullmatch(link.get("href", ""))
            if found:
                module = found[2].replace("/", ".")
                link.set("href", reference_link(found[1], module, "".join(link.itertext()), self.pages))


class _TheoryLinks(InlineProcessor):
    """``docs/theory/01-adams.md`` in a docstring becomes a link, with the title of the page as its text.

    Docstrings are shown on the pages of ``docs/reference`` alone, hence the relative link.
    """

    def handleMatch(self, m: re.Match[str], data: str) -> tuple[Element, int, int]:  # noqa: N802
        page = DOCS / "theory" / m[1]
        link = Element("a", href=f"../theory/{m[1]}")
        title = _TITLE.search(page.read_text(encoding="utf-8")) if page.is_file() else None
        link.text = f"Theory, {title[1]}" if title else m[0]
        return link, m.start(0), m.end(0)


class MarkdownLinks(Extension):
    """Registers both translations."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802
        """Called by Python-Markdown; runs before MkDocs looks at the links (its priority is 0)."""
        md.treeprocessors.register(_SourceLinks(md, reference_pages()), "source_links", 5)
        md.inlinePatterns.register(_TheoryLinks(r"docs/theory/([\w-]+\.md)", md), "theory_links", 170)


def makeExtension(**options: Any) -> MarkdownLinks:  # noqa: N802
    """The entry point that Python-Markdown looks for."""
    return MarkdownLinks(**options)
