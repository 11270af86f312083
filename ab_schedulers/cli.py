"""The command `ab-schedulers`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

from ab_schedulers.bench.coefficients import FORMATS, coefficients, plan_raster
from ab_schedulers.bench.extras import MissingExtraError
from ab_schedulers.numerics import CachePlan

Command = Callable[[argparse.Namespace], str]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns 0, or 2 after a message about bad input, a missing file or a missing extra."""
    arguments = _parser().parse_args(argv)
    command: Command = arguments.command
    try:
        print(command(arguments))
    except (ValueError, OSError, MissingExtraError) as error:
        print(f"ab-schedulers: error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ab-schedulers", description="Diffusers schedulers with several times fewer model calls."
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    _add_demo(commands)
    bench = commands.add_parser("bench", help="longer measurements on the bundled models and on exact flows")
    benches = bench.add_subparsers(required=True, metavar="measurement")
    _add_quality(benches)
    _add_defaults(benches)
    _add_solvers(benches)
    _add_caches(benches)
    _add_speed(benches)
    _add_agreement(benches)
    _add_bounds(benches)
    _add_jumps(benches)
    _add_similarity(benches)
    _add_adaptive(benches)
    _add_exposure(benches)
    _add_ablation(benches)
    _add_calibration(benches)
    _add_calibrate(commands)
    _add_coefficients(commands)
    _add_plan(commands)
    return parser


def _positive(text: str) -> int:
    value = int(text) if text.lstrip("-").isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, received {text!r}")
    return value


def _fractions(text: str) -> list[Fraction]:
    try:
        return [Fraction(part) for part in text.split(",")]
    except (ValueError, ZeroDivisionError) as error:
        raise argparse.ArgumentTypeError(f"expected numbers such as 0,-7/2,-6.5, received {text!r}") from error


def _bundled(names: Sequence[str]) -> list[str]:
    from ab_schedulers.models import BUNDLED

    unknown = [name for name in names if name not in BUNDLED]
    if unknown:
        raise ValueError(f"--models knows {', '.join(BUNDLED)}; received {', '.join(unknown)}")
    return list(names or BUNDLED)


def _set_threads(arguments: argparse.Namespace) -> None:
    if arguments.threads is not None:
        import torch

        torch.set_num_threads(arguments.threads)


def _add_shared(parser: argparse.ArgumentParser, out: str) -> None:
    parser.add_argument("--out", type=Path, default=Path(out), help="folder for the results (default: %(default)s)")
    parser.add_argument("--threads", type=_positive, help="CPU threads (default: torch's choice)")


def _add_models(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", nargs="+", default=[], metavar="NAME", help="bundled models (default: all)")


def _add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("demo", help="sample the bundled models at a third of their model calls")
    _add_models(parser)
    parser.add_argument("--samples", type=_positive, default=64, help="pictures per method (default: %(default)s)")
    parser.add_argument("--calls", type=_positive, default=17, help="model calls (default: %(default)s)")
    parser.add_argument("--interval", type=_positive, default=3, help="base steps per call (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise (default: %(default)s)")
    _add_shared(parser, "ab_schedulers_demo")
    parser.set_defaults(command=_demo)


def _demo(arguments: argparse.Namespace) -> str:
    from ab_schedulers.bench.demo import demo

    _set_threads(arguments)
    return demo(
        models=_bundled(arguments.models),
        samples=arguments.samples,
        calls=arguments.calls,
        interval=arguments.interval,
        seed=arguments.seed,
        out=arguments.out,
    )


def _add_quality(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("quality", help="paired Fréchet distances of base, defaults and plain reuse")
    _add_models(parser)
    parser.add_argument("--seed-sets", type=_positive, default=8, help="sets of noises (default: %(default)s)")
    parser.add_argument("--samples", type=_positive, default=2000, help="samples per set (default: %(default)s)")
    parser.add_argument("--calls", type=_positive, default=17, help="model calls (default: %(default)s)")
    parser.add_argument("--interval", type=_positive, default=3, help="base steps per call (default: %(default)s)")
    _add_shared(parser, "ab_schedulers_bench")
    parser.set_defaults(command=_quality)


def _quality(arguments: argparse.Namespace) -> str:
    from ab_schedulers.bench.quality import quality

    _set_threads(arguments)
    return quality(
        models=_bundled(arguments.models),
        seed_sets=arguments.seed_sets,
        samples=arguments.samples,
        calls=arguments.calls,
        interval=arguments.interval,
        out=arguments.out,
    )


def _add_defaults(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("defaults", help="error of every quantity, variable, order and corrector")
    parser.add_argument(
        "--subjects",
        nargs="+",
        default=[],
        metavar="NAME",
        help="bundled models or mixture-vp, mixture-flow (default: all)",
    )
    parser.add_argument("--calls", type=_positive, nargs="+", default=[5, 8, 10, 15, 20, 25], help="model calls")
    parser.add_argument("--samples", type=_positive, default=16, help="trajectories (default: %(default)s)")
    _add_shared(parser, "ab_schedulers_bench")
    parser.set_defaults(command=_defaults)


def _defaults(arguments: argparse.Namespace) -> str:
    from ab_schedulers.bench.defaults import defaults

    _set_threads(arguments)
    return defaults(subjects=arguments.subjects, calls=arguments.calls, samples=arguments.samples, out=arguments.out)


def _add_solvers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("solvers", help="all stock solvers and ours at equal model calls")
    parser.add_argument(
        "--subjects",
        nargs="+",
        default=[],
        metavar="NAME",
        help="bundled models or mixture-vp, mixture-flow (default: the bundled models)",
    )
    parser.add_argument("--calls", type=_positive, nargs="+", default=[5, 6, 8, 10, 12, 15, 20], help="model calls")
    parser.add_argument("--seed-sets", type=_positive, default=4, help="sets of noises (default: %(default)s)")
    parser.add_argument("--samples", type=_positive, default=8, help="trajectories per set (default: %(default)s)")
    parser.add_argument(
        "--search-samples", type=_positive, default=8, help="trajectories that choose settings (default: %(default)s)"
    )
    _add_shared(parser, "ab_schedulers_bench")
    parser.set_defaults(command=_solvers)


def _solvers(arguments: argparse.Namespace) -> str:
    from ab_schedulers.bench.solvers import solvers

    _set_threads(arguments)
    return solvers(
        subjects=arguments.subjects,
        calls=arguments.calls,
        sets=arguments.seed_sets,
        samples=arguments.samples,
        search_samples=arguments.search_samples,
        out=arguments.out,
    )


def _add_caches(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("caches", help="caches on one base run at equal computed steps")
    _add_models(parser)
    parser.add_argument("--calls", type=_positive, nargs="+", default=[10, 17], help="computed steps")
    parser.add_argument("--steps", type=_positive, default=50, help="steps of the base (default: %(default)s)")
    parser.add_argument("--seed-sets", type=_positive, default=4, help="sets of noises (default: %(default)s)")
    parser.add_argument("--samples", type=_positive, default=8, help="trajectories per set (default: %(default)s)")
    _add_shared(parser, "ab_schedulers_bench")
    parser.set_defaults(command=_caches)


def _caches(arguments: argparse.Namespace) -> str:
    from ab_schedulers.bench.caches import caches

    _set_threads(arguments)
    return caches(
        models=_bundled(arguments.models),
        calls=arguments.calls,
        steps=arguments.steps,
        sets=arguments.seed_sets,
        samples=arguments.samples,
        out=arguments.out,
    )


def _add_speed(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("speed", help="wall clock, cost of step and set_timesteps, memory")
    _add_models(parser)
    parser.add_argument("--repeats", type=_positive, default=20, help="interleaved repeats (default: %(default)s)")
    _add_shared(parser, "ab_schedulers_bench")
    parser.set_defaults(command=_speed)


def _speed(arguments: argparse.Namespace) -> str:
    from ab_schedulers.bench.speed import speed

    _set_threads(arguments)
    return speed(models=_bundled(arguments.models), repeats=arguments.repeats, out=arguments.out)


def _add_bounds(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("bounds", help="error on exact flows beside the proven bound")
    parser.add_argument("--calls", type=_positive, default=17, help="model calls (default: %(default)s)")
    parser.add_argument("--interval", type=_positive, default=3, help="base steps per call (default: %(default)s)")
    parser.set_defaults(command=_bounds)


def _bounds(arguments: argparse.Namespace) -> str:
    from ab_schedulers.bench.bounds import bounds

    return bounds(calls=arguments.calls, interval=arguments.interval)


def _add_jumps(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("jumps", help="guidance that changes in mid run, with and without reset_history")
    _add_models(parser)
    parser.add_argument("--calls", type=_positive, nargs="+", default=[10, 17, 25], help="model calls")
    parser.add_argument("--samples", type=_positive, default=16, help="trajectories (default: %(default)s)")
    _add_shared(parser, "ab_schedulers_bench")
    parser.set_defaults(command=_jumps)


def _jumps(arguments: argparse.Namespace) -> str:
    from ab_schedulers.bench.jumps import jumps

    _set_threads(arguments)
    return jumps(models=_bundled(arguments.models), calls=arguments.calls, samples=arguments.samples, out=arguments.out)


def _add_similarity(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("similarity", help="how alike adjacent outputs are along a run, beside the formula")
    parser.add_argument(
        "--subjects",
        nargs="+",
        default=[],
        metavar="NAME",
        help="bundled models or mixture-vp, mixture-flow (default: all)",
    )
    parser.add_argument(
        "--steps", type=_positive, default=50, help="calls of the stock scheduler (default: %(default)s)"
    )
    parser.add_argument("--trajectories", type=_positive, default=64, help="trajectories (default: %(default)s)")
    parser.add_argument(
        "--spectrum-samples", type=_positive, default=1000, help="samples for the variances (default: %(default)s)"
    )
    parser.add_argument("--threads", type=_positive, help="CPU threads (default: torch's choice)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the curves as JSON")
    parser.set_defaults(command=_similarity)


def _similarity(arguments: argparse.Namespace) -> str:
    from ab_schedulers.bench.similarity import similarity

    _set_threads(arguments)
    return similarity(
        subjects=arguments.subjects,
        steps=arguments.steps,
        trajectories=arguments.trajectories,
        spectrum_samples=arguments.spectrum_samples,
        json_file=arguments.json,
    )


def _add_adaptive(benches: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = benches.add_parser("adaptive", help="apply_ab_cache, fixed against adaptive; cost of the hooks")
    _add_models(parser)
    parser.add_argument("--samples", type=_positive, default=8, help="trajectories per set (default: %(default)s)")
    parser.add_argument("--sets", type=_positive, default=4, help="sets of noises (default: %(default)s)")
    parser.add_argument("--intervals", type=_positive, nargs="+", default=[3], help="fixed intervals (default: 3)")
    parser.add_argument("--repeats", type=_positive, default=10, help="interleaved repeats (default: %(default)s)")
    _add_shared(parser, "ab_schedulers_bench")
    parser.set_defaults(command=_adaptive)


def _adaptive(arguments: argparse.Namespace) -> str:
    from ab_schedulers.bench.adaptive import adaptive

    _set_threads(arguments)
    return adaptive(
        models=_bundled(arguments.models),
        samples=arguments.samples,
        sets=arguments.sets,
        intervals=arguments.intervals,
        repeats=arguments.repeats,
        out=arguments.out,
    )


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", type=Path, help="folder of Fashion-MNIST (default: that of Debian's dataset-fashion-mnist)"
    )


def _data(arguments: argparse.Namespace) -> Path:
    from ab_schedulers.models.fashion_mnist import DEBIAN_DIRECTORY

    return DEBIAN_DIRECTORY if arguments.data is None else Path(arguments.data)


def _add_exposure(benches: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = benches.add_parser("exposure", help="exposure bias along sampling: uncached, cached, cached and scaled")
    _add_models(parser)
    parser.add_argument("--samples", type=_positive, default=100, help="trajectories (default: %(default)s)")
    parser.add_argument("--steps", type=_positive, default=50, help="steps of a run (default: %(default)s)")
    parser.add_argument("--interval", type=_positive, default=2, help="computed every so often (default: %(default)s)")
    _add_data(parser)
    _add_shared(parser, "ab_schedulers_bench")
    parser.set_defaults(command=_exposure)


def _exposure(arguments: argparse.Namespace) -> str:
    from ab_schedulers.bench.exposure import exposure

    _set_threads(arguments)
    return exposure(
        models=_bundled(arguments.models),
        samples=arguments.samples,
        steps=arguments.steps,
        interval=arguments.interval,
        data=_data(arguments),
        out=arguments.out,
    )


def _add_ablation(benches: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = benches.add_parser("ablation", help="EB-Cache taken apart: table, scaling, both, uniform reuse")
    parser.add_argument("--samplers", nargs="+", default=["ddpm", "ddim"], help="ddpm, ddim (default: both)")
    parser.add_argument("--seed-sets", type=_positive, default=4, help="sets of noises (default: %(default)s)")
    parser.add_argument("--samples", type=_positive, default=2000, help="samples per set (default: %(default)s)")
    parser.add_argument("--batch", type=_positive, default=100, help="samples per batch (default: %(default)s)")
    _add_data(parser)
    _add_shared(parser, "ab_schedulers_bench")
    parser.set_defaults(command=_ablation)


def _ablation(arguments: argparse.Namespace) -> str:
    from ab_schedulers.bench.ablation import ablation

    _set_threads(arguments)
    return ablation(
        samplers=arguments.samplers,
        seed_sets=arguments.seed_sets,
        samples=arguments.samples,
        batch=arguments.batch,
        data=_data(arguments),
        out=arguments.out,
    )


def _add_calibration(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("calibration", help="calibrated schedulers against the best stock solver")
    _add_models(parser)
    parser.add_argument("--calls", type=_positive, nargs="+", default=[5, 6, 8, 10, 12, 15, 20], help="model calls")
    parser.add_argument("--trajectories", type=_positive, default=64, help="of the calibration (default: %(default)s)")
    parser.add_argument("--seed-sets", type=_positive, default=4, help="sets of noises (default: %(default)s)")
    parser.add_argument("--samples", type=_positive, default=16, help="trajectories per set (default: %(default)s)")
    parser.add_argument(
        "--search-samples", type=_positive, default=16, help="trajectories that choose the best stock setting"
    )
    _add_shared(parser, "ab_schedulers_bench")
    parser.set_defaults(command=_calibration)


def _calibration(arguments: argparse.Namespace) -> str:
    from ab_schedulers.bench.calibrated import calibration

    _set_threads(arguments)
    return calibration(
        models=_bundled(arguments.models),
        calls=arguments.calls,
        trajectories=arguments.trajectories,
        sets=arguments.seed_sets,
        samples=arguments.samples,
        search_samples=arguments.search_samples,
        out=arguments.out,
    )


def _add_calibrate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("calibrate", help="fit rows and plans to a model, and write them to a JSON file")
    parser.add_argument("model", help="a bundled model, or the folder of a saved pipeline")
    parser.add_argument("--calls", type=_positive, nargs="+", default=[5, 6, 8, 10, 15, 20], help="model calls")
    parser.add_argument("--inputs", type=Path, metavar="FILE", help="pipelines: JSON list of the runs' arguments")
    parser.add_argument("--trajectories", type=_positive, default=64, help="bundled models (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the first run (default: %(default)s)")
    parser.add_argument("--max-model-calls", type=_positive, help="stop improving before more calls are made")
    parser.add_argument("--references", type=Path, metavar="FILE", help="keep the reference trajectories here")
    parser.add_argument("--out", type=Path, default=Path("calibration.json"), help="default: %(default)s")
    parser.add_argument("--threads", type=_positive, help="CPU threads (default: torch's choice)")
    parser.set_defaults(command=_calibrate)


def _calibrate(arguments: argparse.Namespace) -> str:
    from ab_schedulers.bench.calibrated import calibrate_model

    _set_threads(arguments)
    return calibrate_model(
        model=arguments.model,
        calls=arguments.calls,
        inputs=arguments.inputs,
        trajectories=arguments.trajectories,
        seed=arguments.seed,
        max_model_calls=arguments.max_model_calls,
        references=arguments.references,
        out=arguments.out,
    )


def _add_agreement(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("agreement", help="largest difference to the stock schedulers at interval 1")
    parser.set_defaults(command=_agreement)


def _agreement(arguments: argparse.Namespace) -> str:
    from ab_schedulers.bench.agreement import agreement

    return agreement()


def _add_coefficients(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("coefficients", help="exact weights of cached outputs, as fractions")
    parser.add_argument("--order", type=_positive, required=True, help="number of cached outputs")
    parser.add_argument("--interval", type=_positive, default=3, help="base steps per call (default: %(default)s)")
    parser.add_argument("--corrector", type=_positive, help="also the weights of a corrector of this order")
    parser.add_argument(
        "--nodes",
        type=_fractions,
        metavar="X,X,…",
        help="where outputs are known, newest first, in base steps after the call (default: 0,-INTERVAL,…)",
    )
    parser.add_argument("--format", choices=FORMATS, default="text", help="default: %(default)s")
    parser.set_defaults(command=_coefficients)


def _coefficients(arguments: argparse.Namespace) -> str:
    return coefficients(
        order=arguments.order,
        interval=arguments.interval,
        nodes=arguments.nodes,
        corrector=arguments.corrector,
        style=arguments.format,
    )


def _add_plan(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("plan", help="which base steps call the model")
    parser.add_argument("--calls", type=_positive, required=True, help="model calls")
    parser.add_argument("--interval", type=_positive, default=3, help="base steps per call (default: %(default)s)")
    parser.add_argument("--warmup", type=int, default=0, help="calls that walk one base step (default: %(default)s)")
    parser.add_argument("--base-steps", type=_positive, help="base steps, instead of what --interval gives")
    parser.set_defaults(command=_plan)


def _plan(arguments: argparse.Namespace) -> str:
    return plan_raster(
        CachePlan.uniform(
            num_calls=arguments.calls,
            cache_interval=arguments.interval,
            warmup_calls=arguments.warmup,
            num_base_steps=arguments.base_steps,
        )
    )


if __name__ == "__main__":
    sys.exit(main())
