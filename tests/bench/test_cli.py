"""The command line prints exact numbers, runs the demo, and says what is wrong with its input."""

from __future__ import annotations

import argparse
import csv
import importlib
import inspect
import io
import json
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from ab_schedulers.bench.coefficients import coefficients, corrector_table, plan_raster, predictor_table
from ab_schedulers.bench.extras import MissingExtraError, import_extra
from ab_schedulers.cli import command_parser, main
from ab_schedulers.numerics import CachePlan


def test_coefficients_are_exact_fractions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["coefficients", "--order", "2", "--interval", "3", "--corrector", "2"]) == 0
    printed = capsys.readouterr().out
    lines = [line.split() for line in printed.splitlines()]
    assert ["step", "1", "4/3", "-1/3", "5/3"] in lines
    assert ["Adams-Bashforth", "3/2", "-1/2", "2"] in lines
    assert ["step", "2", "2/3", "1/3", "1"] in lines


def test_coefficients_as_json_keep_the_fractions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["coefficients", "--order", "2", "--nodes", "0,-7/2", "--format", "json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["predictor"]["nodes"] == ["0", "-7/2"]
    assert printed["predictor"]["weights"]["step 1"] == ["9/7", "-2/7"]


def parsed_tex(text: str) -> Fraction:
    """A number as the LaTeX table writes it."""
    found = re.fullmatch(r"(-?)(?:\\frac\{(\d+)\}\{(\d+)\}|(\d+))", text)
    assert found is not None, text
    size = Fraction(int(found[4])) if found[4] else Fraction(int(found[2]), int(found[3]))
    return -size if found[1] else size


def test_latex_holds_the_same_fractions_as_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["coefficients", "--order", "3", "--nodes", "0,-7/2,-9", "--format", "latex"]) == 0
    first, header, *lines, last = capsys.readouterr().out.splitlines()
    assert (first, last) == (r"\begin{array}{lrrrr}", r"\end{array}")
    table = predictor_table(3, 3, [Fraction(0), Fraction(-7, 2), Fraction(-9)])
    assert header == r"\text{predictor} & f(0) & f(-\frac{7}{2}) & f(-9) & \text{noise gain} \\ \hline"
    assert len(lines) == len(table.rows)
    for line, (label, weights) in zip(lines, table.rows, strict=True):
        name, *cells = line.removesuffix(r" \\").split(" & ")
        assert name == rf"\text{{{label}}}"
        assert [parsed_tex(cell) for cell in cells] == [*weights, sum(map(abs, weights))]


def test_csv_holds_a_line_per_weight_of_both_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["coefficients", "--order", "2", "--corrector", "3", "--format", "csv"]) == 0
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    tables = {table.name: table for table in (predictor_table(2, 3), corrector_table(3, 3))}
    read = [(line["table"], line["row"], Fraction(line["node"]), Fraction(line["weight"])) for line in lines]
    assert read == [
        (name, label, node, weight)
        for name, table in tables.items()
        for label, weights in table.rows
        for node, weight in zip(table.nodes, weights, strict=True)
    ]


def test_a_style_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="--format must be one of text, json, csv, latex; received yaml"):
        coefficients(order=2, interval=3, nodes=None, corrector=None, style="yaml")


def commands_of(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parsers of all commands and measurements."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        yield parser
    for group in groups:
        for command in group.choices.values():
            yield from commands_of(command)


@pytest.mark.parametrize(
    "command", list(commands_of(command_parser())), ids=lambda command: command.prog.partition(" ")[2]
)
def test_every_argument_of_a_command_is_a_parameter_of_its_function(command: argparse.ArgumentParser) -> None:
    parameters = inspect.signature(pkgutil.resolve_name(command.get_default("function"))).parameters
    given = {action.dest for action in command._actions} - {"help", "threads"}
    needed = {name for name, parameter in parameters.items() if parameter.default is parameter.empty}
    assert needed <= given <= set(parameters)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("interval", [1, 3, 50])
def test_printed_weights_sum_to_one(order: int, interval: int) -> None:
    for table in (predictor_table(order, interval), corrector_table(order, interval)):
        for _, weights in table.rows:
            assert sum(weights) == 1


def test_window_mean_tends_to_the_adams_bashforth_weights() -> None:
    rows = dict(predictor_table(3, 400).rows)
    for mean, limit in zip(rows["window mean"], rows["Adams-Bashforth"], strict=True):
        assert abs(mean - limit) < Fraction(1, 100)


def test_plan_shows_the_calls(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--calls", "5", "--interval", "3", "--warmup", "2"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "5 model calls walk 11 base steps (# call, . skipped)",
        "    0  ###..#..#..",
    ]
    assert main(["plan", "--calls", "4", "--base-steps", "10"]) == 0
    assert "#..#.#..#." in capsys.readouterr().out


def test_plan_raster_breaks_long_plans_into_lines() -> None:
    lines = plan_raster(CachePlan.uniform(num_calls=40, cache_interval=2), width=60).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["0", "60"]
    assert sum(line.count("#") for line in lines[1:]) == 40


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "--calls", "4", "--warmup", "5"], "warmup_calls"),
        (["plan", "--calls", "9", "--base-steps", "3"], "num_base_steps"),
        (["coefficients", "--order", "2", "--nodes", "0"], "one node per output, 2 for --order 2; received 1"),
        (["coefficients", "--order", "2", "--nodes", "1,1"], "pairwise different"),
        (["coefficients", "--order", "3", "--nodes=0,-6,-3"], "and fall, newest output first, such as 0,-3,-6"),
        (["coefficients", "--order", "2", "--nodes=-3,0", "--format", "latex"], "received -3,0. Sort them, and drop"),
        (["demo", "--models", "dit"], "--models knows dit-epsilon, dit-flow, unet-v; received dit"),
        (["bench", "defaults", "--subjects", "sd3"], "mixture-flow; received sd3"),
        (["bench", "speed", "--repeats", "1"], "at least 2"),
    ],
)
def test_bad_input_ends_with_code_2_and_names_the_argument(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["calibrate"],
        ["plan", "--calls", "0"],
        ["plan", "--calls", "many"],
        ["coefficients", "--order", "0"],
        ["coefficients", "--order", "2", "--corrector", "0"],
        ["coefficients", "--order", "2", "--format", "yaml"],
        ["coefficients", "--order", "2", "--nodes", "0,x"],
        ["coefficients", "--order", "2", "--nodes", "0,1/0"],
    ],
)
def test_arguments_that_do_not_parse_end_with_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: ab-schedulers" in capsys.readouterr().err


def test_missing_extra_names_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    real_import = importlib.import_module

    def refuse(module: str, package: str | None = None) -> Any:
        if module.partition(".")[0] == "matplotlib":
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)
        return real_import(module, package)

    monkeypatch.setattr("importlib.import_module", refuse)
    with pytest.raises(
        MissingExtraError, match=r'matplotlib is needed for writing pictures .* "ab-schedulers\[bench\]"'
    ):
        import_extra("matplotlib.figure", "writing pictures")
    assert main(["demo", "--models", "dit-flow", "--samples", "2", "--calls", "2", "--out", str(tmp_path)]) == 2
    assert 'pip install "ab-schedulers[bench]"' in capsys.readouterr().err


def test_demo_prints_its_table_and_writes_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["demo", "--models", "dit-flow", "--samples", "4", "--calls", "4", "--out", str(tmp_path)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    for method in (
        "base, 12 steps",
        "stock FlowMatchEulerDiscrete",
        "plain reuse",
        "hold",
        "order 4 + corrector 5",
        "defaults",
    ):
        assert method in printed
    for name in ("dit-flow.png", "dit-flow_differences.png", "dit-flow_plans.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_module_runs_as_the_command() -> None:
    command = [sys.executable, "-m", "ab_schedulers", "plan", "--calls", "2"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[1].strip() == "0  #..#.."


@pytest.mark.slow
def test_calibrate_writes_a_calibration_and_keeps_its_references(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from ab_schedulers import Calibration
    from ab_schedulers.calibration import Trajectories

    out, kept = tmp_path / "c.json", tmp_path / "t.safetensors"
    command = ["calibrate", "dit-flow", "--calls", "3", "--trajectories", "4", "--max-model-calls", "150"]
    assert main([*command, "--references", str(kept), "--out", str(out)]) == 0
    assert "3 calls: mean RMSE" in capsys.readouterr().out
    assert set(Calibration.load(out).entries) == {"3"} and Trajectories.load(kept).count == 4
    assert main([*command, "--references", str(kept), "--out", str(out)]) == 0
    assert Calibration.load(out).report["model_calls"] <= 150


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["calibrate", "no-such-model"], "neither a bundled model"),
        (["calibrate", "dit-flow", "--calls", "1"], "from 2 to 100"),
        (["calibrate", "dit-flow", "--max-model-calls", "10"], "too small"),
        (["calibrate", "dit-flow", "--trajectories", "1"], "at least two trajectories"),
    ],
)
def test_calibrate_says_what_is_wrong_before_any_work(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--out", str(tmp_path / "c.json")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "c.json").exists()
