"""The command `ab-schedulers`: `arguments` says how a command is declared, one module per group declares them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ab_schedulers.bench.extras import MissingExtraError
from ab_schedulers.bench.processes import leave, process_rank

from . import caching, formulas, own_models, schedulers
from .arguments import run


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns 0, or 2 after a message about bad input, a missing file or a missing extra."""
    arguments = command_parser().parse_args(argv)
    try:
        text = run(arguments)
        if process_rank() == 0:
            print(text)
    except (ValueError, OSError, MissingExtraError) as error:
        print(f"ab-schedulers: error: {error}", file=sys.stderr)
        return 2
    finally:
        leave()
    return 0


def command_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="ab-schedulers", description="Diffusers schedulers with several times fewer model calls."
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    schedulers.add_demo(commands)
    bench = commands.add_parser("bench", help="longer measurements on the bundled models and on exact flows")
    benches = bench.add_subparsers(required=True, metavar="measurement")
    schedulers.add_benches(benches)
    formulas.add_benches(benches)
    caching.add_benches(benches)
    own_models.add_benches(benches)
    own_models.add_calibrate(commands)
    formulas.add_commands(commands)
    return parser
