"""The pages of the site: links, formulas and functions that point at each other."""

from __future__ import annotations

import inspect
import re
import subprocess
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ab_schedulers.theory.contents import PARTS
from ab_schedulers.theory.rendering import page_name

import ab_schedulers
from ab_schedulers import numerics

ROOT = Path(__file__).parents[2]
NOTATION = (ROOT / "docs" / "notation.md").read_text(encoding="utf-8")

PUBLIC = set(ab_schedulers.__all__)
NOT_DERIVED = {"QUANTITIES", "Number", "check_nodes", "__version__", "remove_cache"}


def functions_with_pages() -> list[Any]:
    """Every function that a statement of the theory is about, with the pages of these statements."""
    pages: defaultdict[Callable[..., Any], set[str]] = defaultdict(set)
    for part in PARTS:
        for statement in part.statements:
            for function in statement.functions:
                pages[function].add(f"docs/theory/{page_name(part)}")
    return [pytest.param(function, names, id=function.__qualname__) for function, names in pages.items()]


def write_site(folder: Path, body: str, style: str = "") -> Path:
    (folder / "index.html").write_text(f"<h1 id='top'>x</h1>{body}", encoding="utf-8")
    (folder / "site.css").write_text(style, encoding="utf-8")
    return folder


@pytest.mark.parametrize(("function", "pages"), functions_with_pages())
def test_a_function_that_a_page_of_theory_is_about_names_such_a_page(
    function: Callable[..., Any], pages: set[str]
) -> None:
    named = set(re.findall(r"docs/theory/[\w-]+\.md", inspect.getdoc(function) or ""))
    assert named & pages, f"add to its docstring: Derived in {min(pages)}."
    assert all((ROOT / page).is_file() for page in named)


@pytest.mark.parametrize(
    ("page", "warning"),
    [
        ("# x\n\n[gone](gone.md)\n", "'gone.md', but the target is not found"),
        ("# x\n\n[0, 1, 4][]\n", "Could not find cross-reference target '0, 1, 4'"),
        ("# x\n\n::: ab_schedulers.unknown\n", "ab_schedulers.unknown could not be found"),
    ],
)
def test_a_warning_makes_the_build_fail(
    strict_build: Callable[[Path, Path], subprocess.CompletedProcess[str]], tmp_path: Path, page: str, warning: str
) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(page, encoding="utf-8")
    configuration = tmp_path / "mkdocs.yml"
    nav = "nav:\n  - Home: index.md\n"
    configuration.write_text(f"INHERIT: {ROOT / 'mkdocs.yml'}\ndocs_dir: docs\n{nav}", encoding="utf-8")
    done = strict_build(configuration, tmp_path / "site")
    assert done.returncode != 0
    assert warning in done.stdout + done.stderr


@pytest.mark.parametrize("name", sorted({*numerics.__all__, *PUBLIC} - NOT_DERIVED))
def test_a_public_function_or_class_names_its_page_of_theory(name: str) -> None:
    documented = getattr(numerics, name, None) or getattr(ab_schedulers, name)
    named = re.findall(r"docs/theory/[\w-]+\.md", inspect.getdoc(documented) or "")
    assert named and all((ROOT / page).is_file() for page in named)


def test_every_link_of_the_site_leads_somewhere(site: Path) -> None:
    from website.built_links import broken_links

    assert broken_links(site) == []


@pytest.mark.parametrize(
    ("body", "style", "problem"),
    [
        ("<a href='gone/'>x</a>", "", "gone/ leads nowhere"),
        ("<a href='#gone'>x</a>", "", "#gone leads to a page without this anchor"),
        ("<img src='gone.svg'>", "", "gone.svg is not part of the site"),
        ("<script src='https://example.org/a.js'></script>", "", "loaded from another host"),
        ("", "a { background: url(gone.woff2) }", "gone.woff2 is not part of the site"),
        ("", "a { background: url(https://example.org/a.woff2) }", "is not part of the site"),
    ],
)
def test_a_broken_link_is_found(tmp_path: Path, body: str, style: str, problem: str) -> None:
    from website.built_links import broken_links

    (line,) = broken_links(write_site(tmp_path, body, style))
    assert problem in line


def test_sound_links_pass(tmp_path: Path) -> None:
    from website.built_links import broken_links

    body = "<a href='#top'>x</a><a href='site.css'>x</a><a href='https://example.org/'>x</a><a href='/'>x</a>"
    assert broken_links(write_site(tmp_path, body, "a { background: url(index.html) }")) == []


def test_a_page_of_theory_links_its_functions_to_the_reference_and_back(site: Path) -> None:
    theory = (site / "theory" / "01-adams" / "index.html").read_text(encoding="utf-8")
    anchor = "ab_schedulers.numerics.interpolation.lagrange_weights"
    assert f'<a href="../../reference/numerics/#{anchor}"><code>lagrange_weights</code></a>' in theory
    reference = (site / "reference" / "numerics" / "index.html").read_text(encoding="utf-8")
    assert re.search(r'<a href="\.\./\.\./theory/01-adams/">Theory, 1\. [^<]+</a>', reference)


def test_a_link_to_a_module_without_reference_is_refused() -> None:
    links = pytest.importorskip("website.markdown_links", reason="needs Python-Markdown, part of the extra `docs`")
    with pytest.raises(ValueError, match=r"no page of docs/reference documents `ab_schedulers\.unknown`"):
        links.reference_link("../", "ab_schedulers.unknown", "f", {"ab_schedulers.numerics": "reference/numerics.md"})


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`\"?(\w+)\"?`", NOTATION.replace("`_next`", "")))))
def test_a_name_of_the_notation_stands_in_the_code(name: str) -> None:
    sources = (ROOT / "ab_schedulers").rglob("*.py")
    assert any(re.search(rf"\b{name}\b", file.read_text(encoding="utf-8")) for file in sources)
