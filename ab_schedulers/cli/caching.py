"""What caching inside the model gains: adaptive skipping, exposure bias, EB-Cache taken apart."""

from __future__ import annotations

from .arguments import (
    Commands,
    add_command,
    add_count,
    add_counts,
    add_data,
    add_models,
    add_out,
    add_threads,
)


def add_benches(benches: Commands) -> None:
    """The measurements of this group."""
    _add_adaptive(benches)
    _add_exposure(benches)
    _add_ablation(benches)


def _add_adaptive(benches: Commands) -> None:
    parser = add_command(
        benches,
        "adaptive",
        "ab_schedulers.bench.adaptive:adaptive",
        "apply_ab_cache, fixed against adaptive; cost of the hooks",
    )
    add_models(parser)
    add_count(parser, "--samples", 8, "trajectories per set")
    add_count(parser, "--sets", 4, "sets of noises")
    add_counts(parser, "--intervals", (3,), "fixed intervals (default: 3)")
    add_count(parser, "--repeats", 10, "interleaved repeats")
    add_out(parser)
    add_threads(parser)


def _add_exposure(benches: Commands) -> None:
    parser = add_command(
        benches,
        "exposure",
        "ab_schedulers.bench.exposure:exposure",
        "exposure bias along sampling: uncached, cached, cached and scaled",
    )
    add_models(parser)
    add_count(parser, "--samples", 100, "trajectories")
    add_count(parser, "--steps", 50, "steps of a run")
    add_count(parser, "--interval", 2, "computed every so often")
    add_data(parser)
    add_out(parser)
    add_threads(parser)


def _add_ablation(benches: Commands) -> None:
    parser = add_command(
        benches,
        "ablation",
        "ab_schedulers.bench.ablation:ablation",
        "EB-Cache taken apart: table, scaling, both, uniform reuse",
    )
    parser.add_argument("--samplers", nargs="+", default=["ddpm", "ddim"], help="ddpm, ddim (default: both)")
    parser.add_argument(
        "--arms",
        dest="group",
        default="chosen",
        help="chosen, built as published, or explored on other seeds (default: chosen)",
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="ARM", help="run these beside the baseline")
    add_count(parser, "--seed-sets", 4, "sets of noises")
    add_count(parser, "--samples", 2000, "samples per set")
    add_count(parser, "--batch", 100, "samples per batch")
    add_data(parser)
    add_out(parser)
    add_threads(parser)
