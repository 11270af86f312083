"""What the scheduler costs inside a real pipeline: the time of `step` in diffusers' `DiTPipeline`."""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import torch
from diffusers import AutoencoderKL, DiTPipeline, DiTTransformer2DModel, DPMSolverMultistepScheduler

from ab_schedulers.schedulers import ABCacheScheduler

CALLS = 20


def small_pipeline(latent_size: int, channels: int) -> Any:
    """A `DiTPipeline` with one small random layer, for latents (1, channels, latent_size, latent_size)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = DiTTransformer2DModel(
            num_attention_heads=1,
            attention_head_dim=8,
            in_channels=channels,
            out_channels=channels,
            num_layers=1,
            norm_num_groups=1,
            sample_size=latent_size,
            patch_size=latent_size // 8,
        )
        vae = AutoencoderKL(block_out_channels=(1,), latent_channels=channels, norm_num_groups=1, sample_size=8)
    pipe = DiTPipeline(transformer.eval(), vae.eval(), DPMSolverMultistepScheduler())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def run_times(pipe: Any) -> tuple[float, float]:
    """Median seconds of `step` in one run of the pipeline, and seconds of its `set_timesteps`."""
    scheduler = pipe.scheduler
    step, set_timesteps = scheduler.step, scheduler.set_timesteps
    steps: list[float] = []
    grids: list[float] = []

    def timed(function: Any, seconds: list[float]) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            result = function(*args, **kwargs)
            seconds.append(time.perf_counter() - started)
            return result

        return call

    scheduler.step, scheduler.set_timesteps = timed(step, steps), timed(set_timesteps, grids)
    try:
        generator = torch.Generator().manual_seed(0)
        pipe([0], guidance_scale=1.0, generator=generator, num_inference_steps=CALLS, output_type="np")
    finally:
        del scheduler.step, scheduler.set_timesteps
    return median(steps), sum(grids)


def overhead_ratios(latent_size: int, channels: int, repeats: int) -> tuple[list[float], list[float]]:
    """Ratios of our defaults to stock DPM-Solver++, of `step` alone and with `set_timesteps` spread over the calls.

    Args:
        latent_size: Height and width of the latent, a multiple of 8.
        channels: Channels of the latent.
        repeats: Interleaved runs of both sides; one more run each warms up.
    """
    pipe = small_pipeline(latent_size, channels)
    stock = DPMSolverMultistepScheduler(timestep_spacing="trailing")
    sides = (ABCacheScheduler.from_config(stock.config), stock)
    alone, spread_out = [], []
    for repeat in range(repeats + 1):
        times = []
        for side in sides:
            pipe.scheduler = side
            times.append(run_times(pipe))
        if repeat:
            (own_step, own_grid), (stock_step, stock_grid) = times
            alone.append(own_step / stock_step)
            spread_out.append((own_step + own_grid / CALLS) / (stock_step + stock_grid / CALLS))
    return alone, spread_out
