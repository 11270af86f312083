"""Every statement is proved, a wrong coefficient is noticed, and the written pages are those of the code."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sympy")

from ab_schedulers.theory import __main__ as command
from ab_schedulers.theory import plots
from ab_schedulers.theory.contents import PARTS
from ab_schedulers.theory.statements import Part, Statement

from ab_schedulers import numerics

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "theory"
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
    """The pages and their pictures, written afresh."""
    pytest.importorskip("matplotlib", reason="the pictures need the extra `docs`")
    folder = tmp_path_factory.mktemp("pages")
    command.write(folder)
    return folder


def files(folder: Path, suffix: str) -> dict[str, bytes]:
    """Contents of the files below a folder by their relative paths."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob(f"*{suffix}")}


def differing(left: dict[str, bytes], right: dict[str, bytes]) -> list[str]:
    return sorted(name for name in left.keys() | right.keys() if left.get(name) != right.get(name))


def skip_unless_pinned(package: str, product: str) -> None:
    """Skip where another version than that of constraints.txt is installed."""
    pinned = re.search(rf"^{package}==(.+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    if pinned is not None and version(package) != pinned[1]:
        pytest.skip(f"{product} of {package} {pinned[1]} may differ from that of {version(package)}")


def test_the_committed_pages_are_byte_for_byte_those_of_the_code(written: Path) -> None:
    skip_unless_pinned("sympy", "the LaTeX")
    stale = differing(files(PAGES, ".md"), files(written, ".md"))
    assert not stale, f"run `python -m ab_schedulers.theory --write docs/theory`; these differ: {stale}"


def test_the_committed_numbers_of_the_pictures_are_those_of_the_code(written: Path) -> None:
    committed, fresh = files(PAGES, ".json"), files(written, ".json")
    assert committed.keys() == fresh.keys()
    for name, content in fresh.items():
        left, right = json.loads(committed[name]), json.loads(content)
        assert [*leaves(left)] == pytest.approx([*leaves(right)], rel=1e-3), f"{name} is stale: write the pages again"


def leaves(value: Any) -> Iterator[float]:
    """Every number of a JSON document, and the lengths of its lists."""
    if isinstance(value, dict):
        for key in sorted(value):
            yield from leaves(value[key])
    elif isinstance(value, list):
        yield len(value)
        for entry in value:
            yield from leaves(entry)
    else:
        yield float(value)


def test_the_committed_pictures_are_byte_for_byte_those_of_the_code(written: Path) -> None:
    skip_unless_pinned("matplotlib", "the SVG")
    assert len(files(written, ".svg")) == 2 * len(plots.PLOTS)
    stale = differing(files(PAGES, ".svg"), files(written, ".svg"))
    assert not stale, f"run `python -m ab_schedulers.theory --write docs/theory`; these differ: {stale}"


def test_every_picture_stands_on_a_page_in_both_schemes_with_a_description_and_a_caption(written: Path) -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in written.glob("*.md"))
    for plot in plots.PLOTS:
        for scheme in ("light", "dark"):
            assert f"![{plot.alt}](figures/{plot.file_name}-{scheme}.svg#only-{scheme})" in text
        assert f"\n\n*{plot.caption}* [Numbers]" in text
        assert len(plot.alt) > 40 and plot.caption.endswith(".") and not set(plot.alt) & set("[]$\n")


def test_the_light_and_the_dark_version_differ_in_colours_alone(written: Path) -> None:
    for plot in plots.PLOTS:
        light, dark = ((written / "figures" / f"{plot.file_name}-{s}.svg").read_text() for s in ("light", "dark"))
        assert set(re.findall("#[0-9a-f]{6}", light)).isdisjoint(re.findall("#[0-9a-f]{6}", dark))
        shapes = re.compile(r' d="([^"]+)"|<text[^>]*>([^<]*)')
        assert sorted(shapes.findall(light)) == sorted(shapes.findall(dark))


def test_without_matplotlib_the_command_says_what_to_install_and_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plots.catalogue, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        command.main(["--write", str(tmp_path / "pages")])
    assert 'pip install "ab-schedulers[docs]"' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_every_link_of_a_page_leads_to_a_page_or_a_file(written: Path) -> None:
    for page in written.glob("*.md"):
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            there = PAGES / target if target.startswith("..") else written / target
            assert there.exists(), f"{page.name}: {target}"


def test_no_placeholder_is_left_on_a_page(written: Path) -> None:
    assert not [page.name for page in written.glob("*.md") if "<<" in page.read_text(encoding="utf-8")]
