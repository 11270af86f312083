"""Every statement is proved, a wrong coefficient is noticed, and the written pages are those of the code."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sympy")

from ab_schedulers.theory import __main__ as command
from ab_schedulers.theory.contents import PARTS
from ab_schedulers.theory.statements import Part, Statement

from ab_schedulers import numerics

ROOT = Path(__file__).parents[2]
STATEMENTS = [statement for part in PARTS for statement in part.statements]


@pytest.mark.parametrize("statement", STATEMENTS, ids=lambda statement: statement.name)
def test_the_statement_holds(statement: Statement) -> None:
    statement.prove()


def wrong(result: Any) -> Any:
    """The result of a coefficient function with its last coefficient, and the weight of the sample, off by one."""
    if isinstance(result, numerics.QuantityMap):
        return replace(result, x0_output=result.x0_output + 1)
    if isinstance(result, numerics.BaseStep):
        return replace(result, outputs=wrong(result.outputs), sample=result.sample + 1)
    if isinstance(result, numerics.Row):
        return replace(result, history=wrong(result.history), sample=result.sample + 1)
    if isinstance(result, tuple):
        return (*result[:-1], wrong(result[-1]))
    return result + 1


@pytest.mark.parametrize(
    ("statement", "name"),
    [(statement, function.__name__) for statement in STATEMENTS for function in statement.functions],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_a_wrong_coefficient_in_a_function_the_statement_names_is_noticed(
    statement: Statement, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = getattr(numerics, name)
    monkeypatch.setattr(numerics, name, lambda *args, **kwargs: wrong(right(*args, **kwargs)))
    with pytest.raises(Exception):  # noqa: B017, PT011 - a wrong coefficient may also break the algebra of the check
        statement.prove()


def test_a_refuted_statement_makes_the_command_fail(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = numerics.binomial_weights
    monkeypatch.setattr(numerics, "binomial_weights", lambda order: wrong(right(order)))
    assert command.main(["--check", "--part", "linear_relation"]) == 1
    assert "REFUTED" in capsys.readouterr().out


def test_a_statement_that_cannot_be_checked_counts_as_failed(capsys: pytest.CaptureFixture[str]) -> None:
    part = Part(number=1, slug="broken", title="Broken", opening="")

    @part.proves("Broken", source="none")
    def divides_by_zero() -> None:
        """Nothing."""
        _ = 1 / 0

    assert command.check(part.statements) == 1
    assert "ZeroDivisionError" in capsys.readouterr().out


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
