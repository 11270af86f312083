"""Every statement is proved, a wrong coefficient is noticed, and the written pages are those of the code."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import pytest

pytest.importorskip("sympy")

from ab_schedulers.theory import __main__ as command
from ab_schedulers.theory.contents import PARTS
from ab_schedulers.theory.statements import Statement

ROOT = Path(__file__).parents[2]
STATEMENTS = [statement for part in PARTS for statement in part.statements]


@pytest.mark.parametrize("statement", STATEMENTS, ids=lambda statement: statement.name)
def test_the_statement_holds(statement: Statement) -> None:
    statement.prove()


def test_every_statement_has_a_name_of_its_own_a_claim_a_derivation_a_meaning_and_a_source() -> None:
    assert len({statement.name for statement in STATEMENTS}) == len(STATEMENTS)
    for statement in STATEMENTS:
        assert statement.claim.endswith(".") and "\n" not in statement.claim, statement.name
        assert "**Derivation.**" in statement.text and "**What it means.**" in statement.text, statement.name
        assert statement.source and statement.title, statement.name


def test_the_parts_are_numbered_in_order_and_named_apart() -> None:
    numbers = [part.number for part in PARTS]
    assert numbers == sorted(set(numbers))
    assert len({part.slug for part in PARTS}) == len(PARTS)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages, written afresh."""
    folder = tmp_path_factory.mktemp("pages")
    command.write(folder)
    return folder


def test_the_committed_pages_are_byte_for_byte_those_of_the_code(written: Path) -> None:
    pinned = re.search(r"^sympy==(.+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    if pinned is not None and version("sympy") != pinned[1]:
        pytest.skip(f"pages are written with sympy {pinned[1]}, whose LaTeX may differ from that of {version('sympy')}")
    committed = {page.name: page.read_bytes() for page in (ROOT / "docs" / "theory").iterdir()}
    fresh = {page.name: page.read_bytes() for page in written.iterdir()}
    stale = sorted(name for name in committed.keys() | fresh.keys() if committed.get(name) != fresh.get(name))
    assert not stale, f"run `python -m ab_schedulers.theory --write docs/theory`; these differ: {stale}"


def test_every_link_of_a_page_leads_to_a_page_or_a_file(written: Path) -> None:
    for page in written.iterdir():
        for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text(encoding="utf-8")):
            there = ROOT / "docs" / "theory" / target if target.startswith("..") else written / target
            assert there.exists(), f"{page.name}: {target}"


def test_no_placeholder_is_left_on_a_page(written: Path) -> None:
    assert not [page.name for page in written.iterdir() if "<<" in page.read_text(encoding="utf-8")]
