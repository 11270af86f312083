"""The page on pipelines says what the matrix holds, and has every pipeline of diffusers in exactly one place."""

from __future__ import annotations

import re
from pathlib import Path

import diffusers
import pytest
from tiny_pipelines import CASES, cached

PAGE = (Path(__file__).parents[2] / "docs" / "pipelines.md").read_text(encoding="utf-8")


def section(name: str) -> str:
    """The table between the marks of a section."""
    return PAGE.partition(f"<!-- {name} -->")[2].partition("<!-- end -->")[0]


def pipelines(text: str) -> list[str]:
    """Names of pipeline classes in a text."""
    return re.findall(r"`(\w*Pipeline\w*)`", text)


def test_the_verified_pipelines_are_those_of_the_matrix() -> None:
    rows = {line.split("|")[1].strip(" `"): line for line in section("verified").splitlines() if "Pipeline`" in line}
    assert sorted(rows) == sorted({case.pipeline for case in CASES})
    for case in CASES:
        row = rows[case.pipeline]
        assert case.mode == "image" or case.variant in row
        assert f"`{type(case.scheduler()).__name__}`" in row
        assert f"`{type(cached(case)).__name__}`" in row


def test_every_verified_pipeline_has_its_family_with_calls_and_limits() -> None:
    families = section("families")
    assert sorted(set(pipelines(families)) - {"LTXConditionPipeline"}) == sorted({case.pipeline for case in CASES})
    for family in families.split("### ")[1:]:
        assert all(f"- **{entry}**: " in family for entry in ("Calls", "Seen here", "Limits"))


def test_the_figures_to_reach_are_reached() -> None:
    assert len({case.pipeline for case in CASES if case.mode == "text"}) >= 20
    assert len({case.pipeline for case in CASES if case.mode == "image"}) >= 7


def test_no_pipeline_stands_in_two_tables() -> None:
    named = [name for part in ("verified", "expected", "refused") for name in pipelines(section(part))]
    assert len(named) == len(set(named))


newest_diffusers = pytest.mark.skipif(
    tuple(int(number) for number in diffusers.__version__.split(".")[:2]) < (0, 42),
    reason="the page lists the pipelines of diffusers 0.42",
)


@newest_diffusers
def test_every_pipeline_of_this_diffusers_stands_on_the_page() -> None:
    general = {"AutoPipelineForText2Image", "AutoPipelineForImage2Image", "AutoPipelineForInpainting"}
    general |= {"AutoPipelineForText2Audio", "DiffusionPipeline"}
    exported = {name for name in dir(diffusers) if re.search(r"Pipeline", name) and name[0].isupper()} - general
    skipped = re.compile(r"Onnx|Flax|Modular|Auto|Mixin|Output|Blocks|Config|PipelineQuantization|Legacy|Safe$")
    missing = {name for name in exported if not skipped.search(name)} - set(pipelines(PAGE))
    assert not missing


@newest_diffusers
@pytest.mark.parametrize("part", ["verified", "expected", "refused"])
def test_the_page_names_only_pipelines_that_diffusers_has(part: str) -> None:
    assert set(pipelines(section(part))) <= set(dir(diffusers))
