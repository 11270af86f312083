"""The demo, and what the cached schedulers gain: quality, error, agreement with stock, speed, peers."""

from __future__ import annotations

import argparse
from pathlib import Path

from .arguments import (
    Commands,
    add_command,
    add_count,
    add_counts,
    add_data,
    add_inputs,
    add_models,
    add_out,
    add_subjects,
    add_threads,
)


def add_demo(commands: Commands) -> None:
    """``ab-schedulers demo``."""
    parser = add_command(
        commands, "demo", "ab_schedulers.bench.demo:demo", "sample the bundled models at a third of their model calls"
    )
    add_models(parser)
    add_count(parser, "--samples", 64, "pictures per method")
    _add_plan(parser)
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise (default: %(default)s)")
    add_out(parser, "ab_schedulers_demo")
    add_threads(parser)


def add_benches(benches: Commands) -> None:
    """The measurements of this group."""
    _add_quality(benches)
    _add_defaults(benches)
    _add_solvers(benches)
    _add_caches(benches)
    _add_speed(benches)
    _add_latency(benches)
    _add_jumps(benches)
    add_command(
        benches,
        "agreement",
        "ab_schedulers.bench.agreement:agreement",
        "largest difference to the stock schedulers at interval 1",
    )


def _add_plan(parser: argparse.ArgumentParser) -> None:
    add_count(parser, "--calls", 17, "model calls")
    add_count(parser, "--interval", 3, "base steps per call")


def _add_device(parser: argparse.ArgumentParser, about: str) -> None:
    parser.add_argument("--device", default="auto", help=f"{about}cuda, cpu, ... (default: CUDA where there is one)")


def _add_quality(benches: Commands) -> None:
    parser = add_command(
        benches,
        "quality",
        "ab_schedulers.bench.quality:quality",
        "paired Fréchet distances of base, defaults and plain reuse",
    )
    add_models(parser)
    add_count(parser, "--seed-sets", 8, "sets of noises")
    add_count(parser, "--samples", 2000, "samples per set")
    _add_plan(parser)
    add_out(parser)
    add_threads(parser)


def _add_defaults(benches: Commands) -> None:
    parser = add_command(
        benches,
        "defaults",
        "ab_schedulers.bench.defaults:defaults",
        "error of every quantity, variable, order and corrector",
    )
    add_subjects(parser, "all")
    add_counts(parser, "--calls", (5, 8, 10, 15, 20, 25), "model calls")
    add_count(parser, "--samples", 16, "trajectories")
    add_out(parser)
    add_threads(parser)


def _add_solvers(benches: Commands) -> None:
    parser = add_command(
        benches,
        "solvers",
        "ab_schedulers.bench.solvers:solvers",
        "all stock solvers and ours at equal model calls",
        shared=True,
    )
    add_subjects(parser, "the bundled models", ", fashion-vp, fashion-flow, and -sd for Stable Diffusion's betas")
    add_data(parser)
    add_counts(parser, "--calls", (5, 6, 8, 10, 12, 15, 20), "model calls")
    add_count(parser, "--seed-sets", 4, "sets of noises", dest="sets")
    add_count(parser, "--samples", 8, "trajectories per set")
    add_count(parser, "--search-samples", 8, "trajectories that choose settings")
    parser.add_argument(
        "--pipeline", type=Path, metavar="PATH", help="folder of a saved pipeline, measured alone or too"
    )
    add_inputs(parser)
    parser.add_argument("--guidance", type=float, metavar="G", help="guidance_scale of the pipeline's runs")
    add_count(parser, "--reference-steps", 500, "steps of the pipeline's converged trajectory")
    _add_device(parser, "where the pipeline runs: ")
    add_out(parser)
    add_threads(parser)


def _add_caches(benches: Commands) -> None:
    parser = add_command(
        benches, "caches", "ab_schedulers.bench.caches:caches", "caches on one base run at equal computed steps"
    )
    add_models(parser)
    add_counts(parser, "--calls", (10, 17), "computed steps")
    add_count(parser, "--steps", 50, "steps of the base")
    add_count(parser, "--seed-sets", 4, "sets of noises", dest="sets")
    add_count(parser, "--samples", 8, "trajectories per set")
    add_count(parser, "--trajectories", 64, "of the calibration")
    add_out(parser)
    add_threads(parser)


def _add_speed(benches: Commands) -> None:
    parser = add_command(
        benches, "speed", "ab_schedulers.bench.speed:speed", "wall clock, cost of step and set_timesteps, memory"
    )
    add_models(parser)
    add_count(parser, "--repeats", 20, "interleaved repeats")
    add_out(parser)
    add_threads(parser)


def _add_latency(benches: Commands) -> None:
    parser = add_command(
        benches,
        "latency",
        "ab_schedulers.bench.latency:latency",
        "released architectures with random weights: wall clock and memory against the number of calls",
    )
    parser.add_argument(
        "--architectures", nargs="+", default=[], metavar="NAME", help="SDXL, SD3, FLUX.1-dev, ... (default: all)"
    )
    add_counts(parser, "--calls", (), "model calls (default: a half, a third and a fifth of the usual steps)")
    parser.add_argument(
        "--scale", choices=("full", "tiny"), default="full", help="size of the models (default: %(default)s)"
    )
    _add_device(parser, "")
    add_count(parser, "--repeats", 3, "interleaved repeats")
    add_out(parser)
    add_threads(parser)


def _add_jumps(benches: Commands) -> None:
    parser = add_command(
        benches,
        "jumps",
        "ab_schedulers.bench.jumps:jumps",
        "guidance that changes in mid run, with and without reset_history",
    )
    add_models(parser)
    add_counts(parser, "--calls", (10, 17, 25), "model calls")
    add_count(parser, "--samples", 16, "trajectories")
    add_out(parser)
    add_threads(parser)
