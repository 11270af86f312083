"""``python -m ab_schedulers.theory``: prove the statements, write the pages."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from . import plots
from .contents import PARTS
from .rendering import contents_page, page, page_name
from .statements import RefutedError, Statement


def check(statements: Sequence[Statement]) -> int:
    """Prove every statement, print a line for each, and return how many did not hold or could not be checked."""
    failures, started = 0, time.perf_counter()
    for statement in statements:
        began = time.perf_counter()
        try:
            statement.prove()
            verdict, remark = "proved ", statement.claim
        except RefutedError as refutation:
            verdict, remark = "REFUTED", str(refutation)
            failures += 1
        except Exception as error:
            verdict, remark = "FAILED ", f"{type(error).__name__}: {error}"
            failures += 1
        print(f"{verdict} {time.perf_counter() - began:6.2f} s  {statement.name}: {remark}", flush=True)
    print(f"{len(statements) - failures} of {len(statements)} proved in {time.perf_counter() - started:.1f} s")
    return failures


def write(folder: Path) -> list[Path]:
    """Write the page of every part, the contents and the pictures, and return their paths."""
    pictures = plots.markdown()
    pages = {page_name(part): page(part, pictures) for part in PARTS} | {"index.md": contents_page(PARTS)}
    drawn = plots.write(folder / plots.FOLDER)
    for name, text in pages.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    return [*(folder / name for name in pages), *drawn]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    names = [part.slug for part in PARTS]
    parser = argparse.ArgumentParser(prog="python -m ab_schedulers.theory", description=__doc__)
    parser.add_argument("--check", action="store_true", help="prove every statement; exit code 1 if one fails")
    parser.add_argument("--part", choices=names, help="only this part, with --check")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="write the pages and their pictures")
    options = parser.parse_args(arguments)
    if not options.check and options.write is None:
        parser.error("nothing to do; pass --check to prove the statements or --write FOLDER for the pages")
    if options.write is not None:
        try:
            written = write(options.write)
        except ModuleNotFoundError as error:
            parser.error(str(error))
        print(*written, sep="\n")
    if not options.check:
        return 0
    chosen = [s for part in PARTS if options.part in (None, part.slug) for s in part.statements]
    return 1 if check(chosen) else 0


if __name__ == "__main__":
    sys.exit(main())
