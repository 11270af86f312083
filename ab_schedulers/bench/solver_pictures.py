"""A grid of pictures for `ab-schedulers bench solvers`: the same noise, by each side at each number of calls."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from ab_schedulers.bench.competitors import Competitor
from ab_schedulers.bench.extras import import_extra
from ab_schedulers.bench.metrics import rmse
from ab_schedulers.bench.solver_results import OWN, STOCK, Entry, best
from ab_schedulers.bench.trials import PipelineTrial, Trial

_SHOWN = 3
_PLACED = "placed calls"
Row = tuple[str, dict[int, Entry]]


def write_solver_pictures(
    out: Path, trial: Trial, entries: Sequence[Entry], competitors: Sequence[Competitor]
) -> list[str]:
    """Write `solvers_NAME_grid.png` to `out`; a line for the report where that is not possible, nothing otherwise.

    Rows are the best stock setting of each number of calls, the best of our defaults and the placed calls, columns the
    numbers of calls, and the converged trajectory comes last. The samples are kept in `out/samples`.
    """
    shown = trial.first(min(_SHOWN, getattr(trial.subject, "shown", _SHOWN)))
    rows = picture_rows(entries)
    counts = sorted({count for _, row in rows for count in row})
    try:
        exact = as_pictures(shown, shown.converged)
        if not exact:
            return []
        cells = []
        for label, row in rows:
            finals = {count: _finals(out / "samples", shown, entry, competitors) for count, entry in row.items()}
            cells.append((label, {n: (row[n], finals[n], as_pictures(shown, finals[n])) for n in row}))
    except Exception as error:  # a pipeline may decode nothing, as one without an autoencoder
        return [f"No pictures of `{trial.subject.name}`: {type(error).__name__}: {error}"]
    _draw(out / f"solvers_{trial.subject.name}_grid.png", shown, exact, cells, counts)
    return []


def picture_rows(entries: Sequence[Entry]) -> list[Row]:
    """Label and entries by number of calls of the rows of the grid."""
    placed = [entry for entry in entries if entry.group == OWN and entry.solver == _PLACED]
    defaults = [entry for entry in entries if entry.group == OWN and entry.solver != _PLACED]
    sides = (
        ("best stock", best(entries, STOCK)),
        ("our defaults", best(defaults, OWN)),
        (_PLACED, best(placed, OWN)),
    )
    rows = [(label, {calls: found[0] for (_, calls), found in sorted(cells.items())}) for label, cells in sides]
    return [(label, row) for label, row in rows if row]


def as_pictures(trial: Trial, finals: torch.Tensor) -> list[Any]:
    """Samples as arrays (height, width) or (height, width, channels) in [0, 1]; none where they are no pictures."""
    if isinstance(trial, PipelineTrial):
        pictures: list[Any] = trial.subject.pictures(finals, trial.starts)
        return pictures
    decode = getattr(trial.subject, "decode", None)
    images = finals if decode is None else decode(finals)
    if images.ndim != 4:
        return []
    return list((images.float().clamp(-1, 1) * 0.5 + 0.5).permute(0, 2, 3, 1).numpy())


def _finals(folder: Path, trial: Trial, entry: Entry, competitors: Sequence[Competitor]) -> torch.Tensor:
    """Ends of the runs behind `entry` from the first starts, kept in `folder`."""
    path = folder / f"{trial.subject.name}_{entry.fingerprint}_{len(trial.converged)}.safetensors"
    if path.exists():
        return load_file(path)["images"]
    wanted = (entry.group, entry.solver, entry.setting)
    one = next(one for one in competitors if (one.group, one.solver, one.setting) == wanted)
    images = trial.run(one.make(entry.calls)).images
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"images": images.contiguous()}, str(path))
    return images


def _draw(path: Path, trial: Trial, exact: Sequence[Any], rows: Sequence[Any], counts: Sequence[int]) -> None:
    """Draw a block of rows for every sample."""
    figures = import_extra("matplotlib.figure", "writing pictures")
    height, width = exact[0].shape[:2]
    cell, caption, label, header, gap = 1.15, 0.3, 1.15, 0.85, 0.14
    tall = cell * height / width + caption
    block = tall * len(rows) + gap
    size = (label + cell * (len(counts) + 1) + 0.1, header + block * len(exact))
    figure = figures.Figure(figsize=size, dpi=130)
    title = f"{trial.subject.name}: the same noise by each side\nRMSE to the converged trajectory below each picture"
    figure.text(0.1 / size[0], 1 - 0.1 / size[1], title, fontsize=9, weight="bold", va="top")

    def show(picture: Any, column: int, top: float, text: str) -> None:
        box = (label + cell * column, size[1] - top - tall + caption, 0.95 * cell, 0.95 * (tall - caption))
        axes = figure.add_axes((box[0] / size[0], box[1] / size[1], box[2] / size[0], box[3] / size[1]))
        axes.imshow(picture.squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes.set_axis_off()
        middle = (box[0] + 0.5 * box[2]) / size[0]
        figure.text(middle, (box[1] - 0.03) / size[1], text, fontsize=5.5, ha="center", va="top", linespacing=1.1)

    names = [*[f"{count} calls" for count in counts], "converged"]
    for column, name in enumerate(names):
        middle = (label + cell * (column + 0.475)) / size[0]
        figure.text(middle, 1 - (header - 0.08) / size[1], name, fontsize=9, ha="center", va="bottom")
    for i, picture in enumerate(exact):
        for j, (name, row) in enumerate(rows):
            top = header + block * i + tall * j
            height_of_label = 1 - (top + 0.5 * (tall - caption)) / size[1]
            figure.text((label - 0.1) / size[0], height_of_label, name, fontsize=9, ha="right", va="center")
            for count, (entry, finals, pictures) in row.items():
                error = rmse(finals.chunk(len(exact))[i], trial.converged.chunk(len(exact))[i])
                show(
                    pictures[i],
                    counts.index(count),
                    top,
                    f"{error:.3f}\n{entry.solver.split(', ')[0]}, {entry.setting}",
                )
            show(picture, len(counts), top, "")
    figure.savefig(path)
