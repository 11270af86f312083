"""Latency of released architectures: their configs are the released ones, and the command times what it says."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tqdm import tqdm

from ab_schedulers import ABCacheScheduler
from ab_schedulers.bench.architectures import ARCHITECTURES, Architecture
from ab_schedulers.bench.latency import calls_to_time, run_once, time_architecture, weight_bytes
from ab_schedulers.cli import main

pytest.importorskip("transformers", reason="pipelines of diffusers import transformers")

CPU, META = torch.device("cpu"), torch.device("meta")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:diffusers")
every_architecture = pytest.mark.parametrize(
    "architecture", [pytest.param(architecture, id=architecture.name) for architecture in ARCHITECTURES]
)
without_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")


@pytest.fixture(autouse=True)
def _same_randomness() -> Any:
    with torch.random.fork_rng(devices=[]):
        yield


@every_architecture
def test_the_config_has_the_published_number_of_parameters_in_bfloat16(architecture: Architecture) -> None:
    model = architecture.model("full", META)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count / 1e9 == pytest.approx(architecture.parameters, rel=0.03)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert weight_bytes(architecture, "full") == 2 * count


@every_architecture
def test_the_loop_takes_the_embeddings_and_the_size_at_full_size(
    architecture: Architecture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On shapes alone, without values; hence the scheduler lays out its grid elsewhere and looks up no value."""
    pipe = architecture.build("full", META)
    scheduler, set_timesteps = pipe.scheduler, pipe.scheduler.set_timesteps

    @functools.wraps(set_timesteps)
    def on_the_cpu(*arguments: Any, device: Any = None, **keywords: Any) -> None:
        set_timesteps(*arguments, device="cpu", **keywords)
        scheduler.timesteps = scheduler.timesteps.to(META)

    monkeypatch.setattr(scheduler, "set_timesteps", on_the_cpu)
    monkeypatch.setattr(scheduler, "index_for_timestep", lambda *_, **__: 0)
    latents = pipe(**architecture.call_arguments("full", META), num_inference_steps=1, output_type="latent")[0]
    assert latents.numel() > 16_000


@every_architecture
def test_the_tiny_scale_runs_the_same_loop_and_calls_the_model_as_often(architecture: Architecture) -> None:
    pipe = architecture.build("tiny", CPU)
    arguments = architecture.call_arguments("tiny", CPU)
    called: list[int] = []
    getattr(pipe, architecture.denoiser[0]).register_forward_pre_hook(lambda *_: called.append(1))
    counts = []
    for scheduler in (pipe.scheduler, ABCacheScheduler.from_config(pipe.scheduler.config)):
        pipe.scheduler = scheduler
        called.clear()
        assert run_once(pipe, arguments, 3, CPU) > 0
        counts.append(len(called))
    assert counts[0] == counts[1]
    assert counts[0] % 3 == 0


@every_architecture
def test_stock_is_timed_at_its_usual_steps_and_both_at_equal_calls(architecture: Architecture) -> None:
    short = replace(architecture, steps=4)
    with tqdm(disable=True) as progress:
        timings = time_architecture(short, scale="tiny", device=CPU, calls=[2], repeats=2, progress=progress)
    rows = [(timing.scheduler, timing.calls, timing.base_steps) for timing in timings]
    assert rows == [("stock", 4, 4), ("stock", 2, 2), ("cached", 2, 6)]
    for timing in timings:
        assert len(timing.seconds) == 2
        assert 0 < timing.step_seconds < min(timing.seconds)
        assert timing.peak_bytes is None


def test_without_numbers_of_calls_a_half_a_third_and_a_fifth_are_timed() -> None:
    flux = next(item for item in ARCHITECTURES if item.name == "FLUX.1-dev")
    numbers = [number for name, number in calls_to_time(flux, []) if name == "cached"]
    assert numbers == [25, 17, 10]


def test_the_command_keeps_what_other_runs_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["bench", "latency", "--scale", "tiny", "--device", "cpu", "--calls", "2", "--repeats", "1"]
    command += ["--architectures", "SD3", "--out", str(tmp_path)]
    results = tmp_path / "latency.json"
    assert main(command) == 0
    assert "random weights, bfloat16" in capsys.readouterr().out
    here = json.loads(results.read_text(encoding="utf-8"))
    elsewhere = [{**entry, "device": "another device"} for entry in here]
    results.write_text(json.dumps(here + elsewhere), encoding="utf-8")
    assert main(command) == 0
    entries = json.loads(results.read_text(encoding="utf-8"))
    assert [entry["device"] for entry in entries] == ["another device", here[0]["device"]]
    assert all(entry["scale"] == "tiny" and entry["device"] for entry in entries)
    report = (tmp_path / "latency.md").read_text(encoding="utf-8")
    assert report.startswith("another device, scale tiny, torch ")
    rows = [line.split(" | ")[1:4] for line in report.splitlines() if line.startswith("| SD3")]
    assert rows == 2 * [["stock", "28", "28"], ["stock", "2", "2"], ["cached", "2", "6"]]


@without_cuda
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "cpu"], "--scale full needs a CUDA device"),
        pytest.param(
            ["--device", "cuda"],
            "sees no CUDA device",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device"),
        ),
        (["--scale", "tiny", "--architectures", "SD9"], "--architectures knows SDXL, SD3, FLUX.1-dev"),
    ],
)
def test_what_cannot_be_measured_here_is_refused_before_any_work(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "latency", *arguments, "--out", str(tmp_path / "results")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


@pytest.mark.gpu
@pytest.mark.slow
@every_architecture
def test_latency_and_peak_memory_at_full_size(architecture: Architecture) -> None:
    device = torch.device("cuda")
    needed = weight_bytes(architecture, "full") + 6 * 2**30
    if needed > torch.cuda.mem_get_info()[0]:
        pytest.skip(f"{architecture.name} does not fit into {torch.cuda.get_device_name()}")
    short = replace(architecture, steps=6)
    with tqdm(disable=True) as progress:
        timings = time_architecture(short, scale="full", device=device, calls=[2], repeats=1, progress=progress)
    torch.cuda.empty_cache()
    stock, _, cached = timings
    assert cached.seconds[0] < stock.seconds[0]
    assert all(timing.peak_bytes is not None and timing.peak_bytes > needed - 6 * 2**30 for timing in timings)
