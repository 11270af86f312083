"""Fitting rows and plans to a model, and measuring what that gains."""

from __future__ import annotations

from pathlib import Path

from .arguments import (
    Commands,
    add_command,
    add_count,
    add_counts,
    add_inputs,
    add_models,
    add_out,
    add_threads,
    positive,
)


def add_calibrate(commands: Commands) -> None:
    """``ab-schedulers calibrate``."""
    parser = add_command(
        commands,
        "calibrate",
        "ab_schedulers.bench.calibrated:calibrate_model",
        "fit rows and plans to a model, and write them to a JSON file",
    )
    parser.add_argument("model", help="a bundled model, or the folder of a saved pipeline")
    add_counts(parser, "--calls", (5, 6, 8, 10, 15, 20), "model calls")
    add_inputs(parser)
    add_count(parser, "--trajectories", 64, "bundled models")
    parser.add_argument("--seed", type=int, default=0, help="of the first run (default: %(default)s)")
    parser.add_argument(
        "--num-base-steps",
        type=positive,
        metavar="N",
        help="reproduce the N steps of the scheduler as a cache does, rather than the converged trajectory",
    )
    parser.add_argument("--max-model-calls", type=positive, help="stop improving before more calls are made")
    parser.add_argument("--references", type=Path, metavar="FILE", help="keep the reference trajectories here")
    parser.add_argument("--out", type=Path, default=Path("calibration.json"), help="default: %(default)s")
    add_threads(parser)


def add_benches(benches: Commands) -> None:
    """``ab-schedulers bench calibration`` and ``bench transfer``."""
    _add_calibration(benches)
    _add_transfer(benches)


def _add_calibration(benches: Commands) -> None:
    parser = add_command(
        benches,
        "calibration",
        "ab_schedulers.bench.calibrated:calibration",
        "calibrated schedulers against the best stock solver",
        shared=True,
    )
    add_models(parser)
    parser.add_argument(
        "--mixtures", nargs="+", default=[], metavar="KIND", help="exact mixtures instead of models: vp, sd, flow"
    )
    add_counts(parser, "--calls", (5, 6, 8, 10, 12, 15, 20), "model calls")
    add_count(parser, "--trajectories", 64, "of the calibration")
    add_count(parser, "--seed-sets", 4, "sets of noises", dest="sets")
    add_count(parser, "--samples", 16, "trajectories per set")
    add_count(parser, "--search-samples", 16, "trajectories that choose the best stock setting")
    parser.add_argument(
        "--frechet-samples",
        type=positive,
        help="samples per set for Fréchet distances of all sides (default: none are measured)",
    )
    add_out(parser)
    add_threads(parser)


def _add_transfer(benches: Commands) -> None:
    parser = add_command(
        benches,
        "transfer",
        "ab_schedulers.bench.transfer:transfer",
        "calibrations where they were not made: other guidance, model or number of calls, fewer trajectories",
    )
    add_models(parser)
    add_count(parser, "--calls", 8, "model calls")
    parser.add_argument("--guidance", type=float, default=3.0, help="other guidance scale (default: %(default)s)")
    add_count(parser, "--trajectories", 64, "of the calibrations")
    add_count(parser, "--seed-sets", 4, "sets of noises", dest="sets")
    add_count(parser, "--samples", 8, "trajectories per set")
    add_out(parser)
    add_threads(parser)
