"""Several processes share the work: same table as one, no file written by two, nothing lost when they stop."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler

from ab_schedulers.bench.pipeline_overhead import small_pipeline
from ab_schedulers.bench.processes import own_path, process_count, process_rank, shared_map, written_paths
from ab_schedulers.bench.solver_results import STOCK, Entry, Results
from ab_schedulers.cli import main

_TIMES = ("scheduler_ms", "model_ms")


def _entry(solver: str) -> Entry:
    return Entry(subject="s", group=STOCK, solver=solver, setting="a", calls=5, fingerprint="", errors=(0.5,))


def test_one_process_does_everything_without_a_launcher() -> None:
    assert (process_rank(), process_count()) == (0, 1)
    assert shared_map(lambda task: 2 * task, [1, 2, 3]) == [2, 4, 6]


@pytest.mark.parametrize("names", [("RANK", "WORLD_SIZE"), ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE")])
def test_another_process_writes_beside_the_common_file(
    names: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(names[0], "1")
    monkeypatch.setenv(names[1], "2")
    assert (process_rank(), process_count()) == (1, 2)
    assert own_path(tmp_path / "solvers.json") == tmp_path / "solvers.process1.json"


def test_what_an_interrupted_process_left_is_read_and_becomes_part_of_the_common_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "solvers.json"
    Results.read(path).add(_entry("first"))
    with monkeypatch.context() as other:
        other.setenv("RANK", "1")
        Results(path=path).add(_entry("second"))
    assert [part.name for part in written_paths(path)] == ["solvers.process1.json", "solvers.json"]
    found = Results.read(path)
    assert {entry.solver for entry in found.entries.values()} == {"first", "second"}
    found.merge([_entry("third")])
    assert written_paths(path) == [path]
    assert {entry.solver for entry in Results.read(path).entries.values()} == {"first", "second", "third"}


def test_a_command_of_one_process_refuses_a_launcher(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["bench", "agreement"]) == 2
    assert "runs in one process, not in 2" in capsys.readouterr().err


def _measured(out: Path) -> Any:
    content = json.loads((out / "solvers.json").read_text(encoding="utf-8"))
    entries = [{key: value for key, value in entry.items() if key not in _TIMES} for entry in content["entries"]]
    ordered = sorted(entries, key=lambda entry: json.dumps(entry))
    return json.dumps([content["references"], ordered])  # as text, since NaN does not equal itself


@pytest.fixture
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def _launched(count: int, arguments: list[str]) -> str:
    """What the command prints when `count` processes run it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    fixed = {"num_processes": str(count), "num_machines": "1", "mixed_precision": "no", "dynamo_backend": "no"}
    options = [part for key, value in {**fixed, "main_process_port": port}.items() for part in (f"--{key}", value)]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", *options, "-m", "ab_schedulers"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run([*launcher, *arguments], capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    return run.stdout


@pytest.mark.slow
@pytest.mark.usefixtures("_one_thread")
def test_two_processes_write_the_table_and_the_numbers_of_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("accelerate")
    pipe = small_pipeline(8, 1)
    pipe.scheduler = DDIMScheduler(timestep_spacing="trailing", clip_sample=False)
    pipe.save_pretrained(tmp_path / "boots")
    (tmp_path / "runs.json").write_text(json.dumps([{"class_labels": [3]}, {"class_labels": [7]}]), encoding="utf-8")
    arguments = ["bench", "solvers", "--subjects", "mixture-flow", "--pipeline", str(tmp_path / "boots")]
    arguments += ["--inputs", str(tmp_path / "runs.json"), "--calls", "4", "--seed-sets", "2", "--samples", "2"]
    arguments += ["--search-samples", "1", "--reference-steps", "8", "--threads", "1", "--out"]
    two = _launched(2, [*arguments, str(tmp_path / "two")])
    capsys.readouterr()
    assert main([*arguments, str(tmp_path / "one")]) == 0
    assert capsys.readouterr().out.replace(str(tmp_path / "one"), "") == two.replace(str(tmp_path / "two"), "")
    assert "## `boots`" in two and "## `mixture-flow`" in two
    assert (tmp_path / "one/solvers.md").read_bytes() == (tmp_path / "two/solvers.md").read_bytes()
    assert _measured(tmp_path / "one") == _measured(tmp_path / "two")
    assert not list((tmp_path / "two").glob("*.process*")) and not list((tmp_path / "two").glob("*.part"))
