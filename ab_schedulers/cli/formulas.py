"""What needs no model: exact weights, plans, and formulas beside what is measured."""

from __future__ import annotations

from pathlib import Path

from ab_schedulers.bench.coefficients import FORMATS

from .arguments import Commands, add_command, add_count, add_subjects, add_threads, fractions, positive


def add_commands(commands: Commands) -> None:
    """``ab-schedulers coefficients`` and ``plan``."""
    _add_coefficients(commands)
    _add_plan(commands)


def add_benches(benches: Commands) -> None:
    """The measurements of this group."""
    parser = add_command(
        benches, "bounds", "ab_schedulers.bench.bounds:bounds", "error on exact flows beside the proven bound"
    )
    add_count(parser, "--calls", 17, "model calls")
    add_count(parser, "--interval", 3, "base steps per call")
    _add_similarity(benches)


def _add_similarity(benches: Commands) -> None:
    parser = add_command(
        benches,
        "similarity",
        "ab_schedulers.bench.similarity:similarity",
        "how alike adjacent outputs are along a run, beside the formula",
    )
    add_subjects(parser, "all")
    add_count(parser, "--steps", 50, "calls of the stock scheduler")
    add_count(parser, "--trajectories", 64, "trajectories")
    add_count(parser, "--spectrum-samples", 1000, "samples for the variances")
    add_threads(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", dest="json_file", help="also write the curves as JSON")


def _add_coefficients(commands: Commands) -> None:
    parser = add_command(
        commands,
        "coefficients",
        "ab_schedulers.bench.coefficients:coefficients",
        "exact weights of cached outputs, as fractions",
    )
    parser.add_argument("--order", type=positive, required=True, help="number of cached outputs")
    add_count(parser, "--interval", 3, "base steps per call")
    parser.add_argument("--corrector", type=positive, help="also the weights of a corrector of this order")
    parser.add_argument(
        "--nodes",
        type=fractions,
        metavar="X,X,…",
        help="where outputs are known, newest first, in base steps after the call (default: 0,-INTERVAL,…)",
    )
    parser.add_argument("--format", choices=FORMATS, default="text", dest="style", help="default: %(default)s")


def _add_plan(commands: Commands) -> None:
    parser = add_command(
        commands, "plan", "ab_schedulers.bench.coefficients:uniform_plan", "which base steps call the model"
    )
    parser.add_argument("--calls", type=positive, required=True, help="model calls")
    add_count(parser, "--interval", 3, "base steps per call")
    parser.add_argument("--warmup", type=int, default=0, help="calls that walk one base step (default: %(default)s)")
    parser.add_argument("--base-steps", type=positive, help="base steps, instead of what --interval gives")
