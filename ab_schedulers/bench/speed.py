"""`ab-schedulers bench speed`: wall clock of the loop, cost of `step` and `set_timesteps`, latents kept between calls.

Both sides of every ratio run in turn within one process; the median over the repeats is printed with the quartiles.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler

from ab_schedulers.bench.environment import environment, write_json
from ab_schedulers.bench.extras import import_extra
from ab_schedulers.bench.methods import DEFAULTS, base, cached
from ab_schedulers.bench.pipeline_overhead import overhead_ratios
from ab_schedulers.bench.sampling import sample, seeded_noise, start_grid
from ab_schedulers.bench.tables import markdown_table, text_table
from ab_schedulers.models import load
from ab_schedulers.schedulers import ABCacheScheduler

_BATCH = 16
_LATENTS = (1, 16, 128, 128)
_STEP_CALLS = 20
_PIPELINE_LATENTS = ((64, 4), (128, 16))
_HEADERS = ("measurement", "median", "quartiles", "unit")
_STOCK: dict[str, Any] = {
    "DDIM": DDIMScheduler(timestep_spacing="trailing", clip_sample=False),
    "DPM-Solver++": DPMSolverMultistepScheduler(timestep_spacing="trailing"),
    "flow Euler": FlowMatchEulerDiscreteScheduler(),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Median and quartiles of repeated measurements."""

    measurement: str
    median: float
    lower: float
    upper: float
    unit: str

    def cells(self) -> list[str]:
        """The row as text."""
        return [self.measurement, f"{self.median:.3g}", f"{self.lower:.3g} to {self.upper:.3g}", self.unit]


def spread(measurement: str, values: Sequence[float], unit: str) -> Spread:
    """Median and quartiles of `values`, at least two of them."""
    lower, middle, upper = quantiles(values, n=4, method="inclusive")
    return Spread(measurement=measurement, median=middle, lower=lower, upper=upper, unit=unit)


def loop_speedup(name: str, repeats: int, on_call: Callable[[], object], calls: int = 17, interval: int = 3) -> Spread:
    """How many times faster the denoising loop of 16 samples gets, defaults against the base's whole grid."""
    subject = load(name)
    noise, labels = seeded_noise(subject, _BATCH, 0)
    slow, fast = base(subject.scheduler, calls * interval), cached(subject.scheduler, DEFAULTS, calls, interval)
    sample(subject, fast.scheduler, 1, noise, labels)  # warms up the processor's caches and torch's
    ratios = []
    for _ in range(repeats):
        seconds = [
            sample(subject, side.scheduler, side.num_inference_steps, noise, labels, on_call=on_call).seconds
            for side in (slow, fast)
        ]
        ratios.append(seconds[0] / seconds[1])
    return spread(f"loop, {name}, batch {_BATCH}: {calls * interval} base steps / {calls} calls", ratios, "x")


@torch.inference_mode()
def step_ratio(name: str, dtype: torch.dtype, repeats: int) -> Spread:
    """Time of the cached `step` over that of stock DPM-Solver++ on one large latent, by medians over a run."""
    sides = (ABCacheScheduler.from_config(_STOCK[name].config), _STOCK["DPM-Solver++"])
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(_LATENTS, generator=generator).to(dtype)
    outputs = [torch.randn(_LATENTS, generator=generator).to(dtype) for _ in range(4)]
    ratios = []
    for repeat in range(repeats + 1):
        for side in sides:
            start_grid(side, _STEP_CALLS)
        samples = [latent, latent]
        seconds: tuple[list[float], list[float]] = ([], [])
        for call in range(_STEP_CALLS):
            for i, side in enumerate(sides):
                started = time.perf_counter()
                samples[i] = side.step(outputs[call % 4], side.timesteps[call], samples[i], return_dict=False)[0]
                seconds[i].append(time.perf_counter() - started)
        if repeat:  # the first run warms up
            ratios.append(median(seconds[0]) / median(seconds[1]))
    short = str(dtype).removeprefix("torch.")
    return spread(f"step, {name}, {short}: own / stock DPM-Solver++", ratios, "x")


def set_timesteps_overhead(name: str, repeats: int, calls: int = 50, interval: int = 10) -> Spread:
    """Milliseconds of `set_timesteps` beyond what the stock class takes for the same base grid."""
    stock = _STOCK[name]
    own = ABCacheScheduler.from_config(stock.config, cache_interval=interval)
    differences = []
    for repeat in range(repeats + 1):
        own_time, stock_time = (_grid_time(side, steps) for side, steps in ((own, calls), (stock, calls * interval)))
        if repeat:
            differences.append(1000 * (own_time - stock_time))
    return spread(f"set_timesteps({calls}), {name}, interval {interval}: beyond stock's grid", differences, "ms")


def _grid_time(scheduler: Any, steps: int) -> float:
    started = time.perf_counter()
    start_grid(scheduler, steps)
    return time.perf_counter() - started


def pipeline_spreads(latent_size: int, channels: int, repeats: int) -> list[Spread]:
    """Cost of our defaults inside a real pipeline over that of stock DPM-Solver++ there."""
    place = f"in DiTPipeline, latent {channels}x{latent_size}x{latent_size}"
    alone, spread_out = overhead_ratios(latent_size, channels, repeats)
    return [
        spread(f"step {place}: own / stock DPM-Solver++", alone, "x"),
        spread(f"the same with set_timesteps spread over the calls, {place}", spread_out, "x"),
    ]


@torch.inference_mode()
def kept_latents(name: str) -> Spread:
    """Most latents that a run keeps alive between two calls besides the sample, and the row depth as upper bound."""
    scheduler = ABCacheScheduler.from_config(_STOCK[name].config)
    start_grid(scheduler, _STEP_CALLS)
    depth = max(len(row.history) + len(row.base_history) for row in scheduler.rows)
    current = torch.randn(_LATENTS, generator=torch.Generator().manual_seed(0))
    before = _living_storages(current.numel())
    most = 0
    for timestep in scheduler.timesteps:
        output = torch.randn(_LATENTS)
        current = scheduler.step(output, timestep, current, return_dict=False)[0]
        del output
        most = max(most, len(_living_storages(current.numel()) - before - {current.untyped_storage().data_ptr()}))
    return Spread(
        measurement=f"latents kept between calls, {name} (row depth {depth})",
        median=most,
        lower=most,
        upper=most,
        unit="latents",
    )


def _living_storages(numel: int) -> set[int]:
    """Addresses of the storages of all living tensors of at least `numel` entries."""
    gc.collect()
    living = (item for item in gc.get_objects() if type(item) is torch.Tensor)
    return {tensor.untyped_storage().data_ptr() for tensor in living if tensor.numel() >= numel}


def speed(*, models: Sequence[str], repeats: int, out: Path) -> str:
    """Run all measurements, write `speed.json` and `speed.md` to `out`, return the table as text.

    Args:
        models: names of bundled models for the loop.
        repeats: interleaved repeats of every measurement, at least 2.
        out: folder of the results.

    Raises:
        ValueError: fewer than two repeats.
    """
    if repeats < 2:
        raise ValueError(f"--repeats must be at least 2 for a spread; received {repeats}")
    tqdm = import_extra("tqdm", "the progress bar").tqdm
    results: list[Spread] = []
    with tqdm(total=len(models) * repeats * 68, unit="call", desc="loops", dynamic_ncols=True) as progress:
        results += [loop_speedup(name, repeats, progress.update) for name in models]
    for dtype in (torch.float32, torch.bfloat16):
        results += [step_ratio(name, dtype, repeats) for name in _STOCK]
    for latent_size, channels in _PIPELINE_LATENTS:
        results += pipeline_spreads(latent_size, channels, repeats)
    results += [set_timesteps_overhead(name, repeats) for name in _STOCK]
    results += [kept_latents(name) for name in _STOCK]
    write_json(out / "speed.json", {"environment": environment(), "results": [asdict(item) for item in results]})
    rows = [item.cells() for item in results]
    (out / "speed.md").write_text(markdown_table(_HEADERS, rows) + "\n", encoding="utf-8")
    note = f"{repeats} interleaved repeats, {torch.get_num_threads()} threads."
    return f"{text_table(_HEADERS, rows)}\n\n{note}\nResults: {out / 'speed.json'}"
