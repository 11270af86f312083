"""How a command is declared: a parser, the function it calls, and arguments named as that function's parameters."""

from __future__ import annotations

import argparse
import pkgutil
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

from ab_schedulers.bench.processes import process_count

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

FOLDER = "ab_schedulers_bench"


def add_command(
    commands: Commands, name: str, function: str, about: str, shared: bool = False
) -> argparse.ArgumentParser:
    """A command that calls ``function``, given as ``module:name`` and imported when it runs: torch takes seconds.

    ``shared`` says that several processes may run it together, each with its share of the work.
    """
    parser = commands.add_parser(name, help=about)
    parser.set_defaults(function=function, shared=shared)
    return parser


def run(arguments: argparse.Namespace) -> str:
    """Call the function of the chosen command with its arguments; returns the text to print.

    Raises:
        ValueError: An unknown bundled model, several processes for a command of one, or whatever the function refuses.
    """
    values = dict(vars(arguments))
    function = pkgutil.resolve_name(values.pop("function"))
    shared = values.pop("shared")
    if process_count() > 1 and not shared:
        raise ValueError(f"this command runs in one process, not in {process_count()}; start it without a launcher")
    _set_threads(values.pop("threads", None))
    if "models" in values:
        values["models"] = _bundled(values["models"])
    if "data" in values:
        values["data"] = _data(values["data"])
    text: str = function(**values)
    return text


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def _bundled(names: Sequence[str]) -> list[str]:
    from ab_schedulers.models import BUNDLED

    unknown = [name for name in names if name not in BUNDLED]
    if unknown:
        raise ValueError(f"--models knows {', '.join(BUNDLED)}; received {', '.join(unknown)}")
    return list(names or BUNDLED)


def _data(folder: Path | None) -> Path:
    from ab_schedulers.models.fashion_mnist import DEBIAN_DIRECTORY

    return DEBIAN_DIRECTORY if folder is None else folder


def positive(text: str) -> int:
    """A whole number of at least 1."""
    value = int(text) if text.lstrip("-").isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, received {text!r}")
    return value


def fractions(text: str) -> list[Fraction]:
    """Exact numbers, parted by commas."""
    try:
        return [Fraction(part) for part in text.split(",")]
    except (ValueError, ZeroDivisionError) as error:
        raise argparse.ArgumentTypeError(f"expected numbers such as 0,-7/2,-6.5, received {text!r}") from error


def add_count(parser: argparse.ArgumentParser, name: str, default: Any, about: str, **options: Any) -> None:
    """A whole number of at least 1 whose default the help shows."""
    parser.add_argument(name, type=positive, default=default, help=f"{about} (default: %(default)s)", **options)


def add_counts(parser: argparse.ArgumentParser, name: str, default: Sequence[int], about: str) -> None:
    """Whole numbers of at least 1."""
    parser.add_argument(name, type=positive, nargs="+", default=list(default), help=about)


def add_models(parser: argparse.ArgumentParser) -> None:
    """``--models``: any of the bundled ones."""
    parser.add_argument("--models", nargs="+", default=[], metavar="NAME", help="bundled models (default: all)")


def add_subjects(parser: argparse.ArgumentParser, default: str, more: str = "") -> None:
    """``--subjects``: bundled models and exact mixtures; ``default`` says in words what none stands for."""
    about = f"bundled models or mixture-vp, mixture-flow{more} (default: {default})"
    parser.add_argument("--subjects", nargs="+", default=[], metavar="NAME", help=about)


def add_data(parser: argparse.ArgumentParser) -> None:
    """``--data``: where Fashion-MNIST lies."""
    about = "folder of Fashion-MNIST (default: that of Debian's dataset-fashion-mnist)"
    parser.add_argument("--data", type=Path, help=about)


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """``--inputs``: the runs of a pipeline."""
    about = "pipelines: JSON list of the runs' arguments, or a text file (*.txt) with one prompt per line"
    parser.add_argument("--inputs", type=Path, metavar="FILE", help=about)


def add_out(parser: argparse.ArgumentParser, folder: str = FOLDER) -> None:
    """``--out``: where results go."""
    parser.add_argument("--out", type=Path, default=Path(folder), help="folder for the results (default: %(default)s)")


def add_threads(parser: argparse.ArgumentParser) -> None:
    """``--threads``: how many of them torch uses."""
    parser.add_argument("--threads", type=positive, help="CPU threads (default: torch's choice)")
