"""`ab-schedulers bench latency`: wall clock and peak memory of released architectures against the number of calls.

The weights are random: what is timed is the pipeline's own loop at the size it is used at, not a picture. Both
schedulers run in turn within one process, at equal model calls, and stock also at its usual number of steps.
"""

from __future__ import annotations

import gc
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from ab_schedulers.bench.architectures import ARCHITECTURES, Architecture
from ab_schedulers.bench.environment import chosen_device, environment, read_json, write_json
from ab_schedulers.bench.extras import import_extra
from ab_schedulers.bench.latency_tables import GIB, HEADERS, latency_report, latency_rows
from ab_schedulers.bench.tables import text_table
from ab_schedulers.schedulers import ABCacheScheduler

_SHARES = (1, 2, 3, 5)
# Activations at the sizes of `ARCHITECTURES` need a few GiB beside the weights.
_ROOM = 6 * GIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Runs of one scheduler at one number of calls.

    Args:
        scheduler: "stock" or "cached".
        calls: Model calls of a run.
        base_steps: Steps of the grid that they walk.
        seconds: Wall clock of every repeat.
        step_seconds: Median time of the scheduler's ``step`` in a further run that waits for the device around it.
        peak_bytes: Most memory allocated on the device, weights included; None on the processor.
    """

    scheduler: str
    calls: int
    base_steps: int
    seconds: tuple[float, ...]
    step_seconds: float
    peak_bytes: int | None


def device_name(device: torch.device) -> str:
    """What the device is called in results."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()


def weight_bytes(architecture: Architecture, scale: str) -> int:
    """Memory of the weights, counted without allocating them."""
    model = architecture.model(scale, torch.device("meta"))
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def calls_to_time(architecture: Architecture, calls: Sequence[int]) -> list[tuple[str, int]]:
    """Scheduler and number of calls of every row: stock at its usual steps first, then both at equal calls."""
    steps = architecture.steps
    numbers = sorted({*(calls or (-(-steps // share) for share in _SHARES))} - {steps}, reverse=True)
    return [("stock", steps), *((name, number) for number in numbers for name in ("stock", "cached"))]


def run_once(pipe: Any, arguments: dict[str, Any], calls: int, device: torch.device) -> float:
    """Seconds of one run of the pipeline.

    Raises:
        ValueError: The result is not finite.
    """
    generator = torch.Generator("cpu").manual_seed(0)
    _wait(device)
    started = time.perf_counter()
    latents = pipe(**arguments, num_inference_steps=calls, generator=generator, output_type="latent")[0]
    _wait(device)
    seconds = time.perf_counter() - started
    if not bool(torch.isfinite(latents).all()):
        raise ValueError(f"{type(pipe).__name__} returned latents that are not finite at {calls} calls")
    return seconds


def step_seconds(pipe: Any, arguments: dict[str, Any], calls: int, device: torch.device) -> float:
    """Median seconds of ``step`` in one run, the device waited for before and after each."""
    scheduler, seconds = pipe.scheduler, []
    step = scheduler.step

    def timed(*positional: Any, **keywords: Any) -> Any:
        _wait(device)
        started = time.perf_counter()
        result = step(*positional, **keywords)
        _wait(device)
        seconds.append(time.perf_counter() - started)
        return result

    scheduler.step = timed
    try:
        run_once(pipe, arguments, calls, device)
    finally:
        del scheduler.step
    return median(seconds)


def time_architecture(
    architecture: Architecture, *, scale: str, device: torch.device, calls: Sequence[int], repeats: int, progress: Any
) -> list[Timing]:
    """Time every row of an architecture, the rows in turn within each repeat; one short run warms up."""
    pipe = architecture.build(scale, device)
    arguments = architecture.call_arguments(scale, device)
    stock = pipe.scheduler
    schedulers = {"stock": stock, "cached": ABCacheScheduler.from_config(stock.config)}
    rows = calls_to_time(architecture, calls)
    run_once(pipe, arguments, 2, device)
    seconds: dict[tuple[str, int], list[float]] = {row: [] for row in rows}
    peaks: dict[tuple[str, int], int | None] = {}
    for _ in range(repeats):
        for name, number in rows:
            pipe.scheduler = schedulers[name]
            _forget_peak(device)
            seconds[name, number].append(run_once(pipe, arguments, number, device))
            peaks[name, number] = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
            progress.update(number)
    timings = []
    for name, number in rows:
        pipe.scheduler = schedulers[name]
        in_step = step_seconds(pipe, arguments, number, device)
        progress.update(number)
        plan = None if name == "stock" else pipe.scheduler.plan
        timings.append(
            Timing(
                scheduler=name,
                calls=number,
                base_steps=number if plan is None else plan.num_base_steps,
                seconds=tuple(seconds[name, number]),
                step_seconds=in_step,
                peak_bytes=peaks[name, number],
            )
        )
    return timings


def latency(
    *, architectures: Sequence[str], calls: Sequence[int], scale: str, device: str, repeats: int, out: Path
) -> str:
    """Time the architectures, write `latency.json` and `latency.md` to `out`, return the table as text.

    Results of other architectures, scales and devices that `out` already holds are kept. An architecture whose weights
    do not fit into the device is left out, and the text says so.

    Args:
        architectures: Names from `ARCHITECTURES`; none for all.
        calls: Numbers of model calls; none for a half, a third and a fifth of the usual steps.
        scale: "full", or "tiny": the same code with fewer and narrower layers and small latents.
        device: "auto", "cpu", "cuda" or "cuda:0" and the like.
        repeats: Runs of every row.
        out: Folder of the results.

    Raises:
        ValueError: Unknown names, a missing device, or full size without CUDA.
    """
    known = {architecture.name: architecture for architecture in ARCHITECTURES}
    unknown = [name for name in architectures if name not in known]
    if unknown:
        raise ValueError(f"--architectures knows {', '.join(known)}; received {', '.join(unknown)}")
    place = chosen_device(device)
    if scale == "full" and place.type != "cuda":
        raise ValueError(
            "--scale full needs a CUDA device (up to 27 GiB of weights, hours on a processor), received device "
            f"{place}; use --scale tiny to see the same code run here"
        )
    reasons = {name: _no_room(known[name], scale, place) for name in (architectures or known)}
    fitting = [known[name] for name, reason in reasons.items() if reason is None]
    left_out = [reason for reason in reasons.values() if reason is not None]
    entries = list(read_json(out / "latency.json") or [])
    runs = sum(number * (repeats + 1) for item in fitting for _, number in calls_to_time(item, calls))
    tqdm = import_extra("tqdm", "the progress bar").tqdm
    measured = []
    with tqdm(total=runs, unit="call", desc=f"{scale} on {place}", dynamic_ncols=True) as progress:
        for architecture in fitting:
            try:
                timings = time_architecture(
                    architecture, scale=scale, device=place, calls=calls, repeats=repeats, progress=progress
                )
            except torch.OutOfMemoryError as error:
                left_out.append(f"{architecture.name} left out: {error}")
                continue
            finally:
                _give_back(place)
            entry = _entry(architecture, scale, place, timings)
            measured.append(entry)
            entries = [item for item in entries if _key(item) != _key(entry)] + [entry]
            write_json(out / "latency.json", entries)
            (out / "latency.md").write_text(latency_report(entries), encoding="utf-8")
    lines = [text_table(HEADERS, [row for entry in measured for row in latency_rows(entry)])] if measured else []
    lines += left_out
    lines.append(
        f"{repeats} repeats in turn, random weights, bfloat16, {device_name(place)}. Results: {out}/latency.json"
    )
    return "\n".join(lines)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _give_back(device: torch.device) -> None:
    """Free a model before the next one is made."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _no_room(architecture: Architecture, scale: str, device: torch.device) -> str | None:
    if device.type != "cuda":
        return None
    needed = weight_bytes(architecture, scale) + (_ROOM if scale == "full" else 0)
    free, _ = torch.cuda.mem_get_info(device)
    if needed <= free:
        return None
    return f"{architecture.name} left out: needs about {needed / GIB:.0f} GiB, {free / GIB:.0f} GiB are free."


def _entry(architecture: Architecture, scale: str, device: torch.device, timings: Sequence[Timing]) -> dict[str, Any]:
    return {
        "architecture": architecture.name,
        "released": architecture.released,
        "scale": scale,
        "device": device_name(device),
        "environment": environment() | {"cuda": torch.version.cuda if device.type == "cuda" else None},
        "arguments": {**architecture.arguments, **(architecture.tiny_arguments if scale == "tiny" else {})},
        "weight_bytes": weight_bytes(architecture, scale),
        "timings": [asdict(timing) for timing in timings],
    }


def _key(entry: dict[str, Any]) -> tuple[str, str, str]:
    return entry["architecture"], entry["scale"], entry["device"]
