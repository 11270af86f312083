"""Picture grids and plan rasters as PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ab_schedulers.bench.extras import import_extra

_LINES = ("#1f2a44", "#c77a3a", "#3a7d7c", "#8a4f7d")
_DASHES = ("-", "--", "-.", ":")
_CALLED = "#1f2a44"
_PREDICTED = ("#f6e3b8", "#eec77a", "#dfa24b", "#c77a3a", "#a2542f", "#743525")


def _figure(width: float, height: float) -> Any:
    figure = import_extra("matplotlib.figure", "writing pictures")
    return figure.Figure(figsize=(width, height), dpi=150)


def write_image_grid(
    path: Path,
    title: str,
    rows: Sequence[tuple[str, torch.Tensor]],
    column_names: Sequence[str],
) -> None:
    """Write a grid of grey pictures with a label on every row and column.

    Args:
        path: PNG file to write.
        title: line above the grid.
        rows: label and images (columns, 1, height, width) in [-1, 1] of every row.
        column_names: one name per column.
    """
    count = len(column_names)
    cell, label_width, header = 0.72, 2.1, 0.55
    width, height = label_width + cell * count + 0.15, header + cell * len(rows) + 0.1
    figure = _figure(width, height)
    figure.text(0.1 / width, 1.0 - 0.12 / height, title, fontsize=10, weight="bold", va="top")
    for i, (label, images) in enumerate(rows):
        bottom = (height - header - cell * (i + 1)) / height
        figure.text(
            (label_width - 0.1) / width, bottom + 0.5 * cell / height, label, fontsize=8, ha="right", va="center"
        )
        for j in range(count):
            left = (label_width + cell * j) / width
            axes = figure.add_axes((left, bottom, 0.95 * cell / width, 0.95 * cell / height))
            axes.imshow(_grey(images[j]), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set_axis_off()
            if i == 0:
                axes.set_title(column_names[j], fontsize=7, pad=3)
    figure.savefig(path)


def write_plan_raster(path: Path, title: str, rows: Sequence[tuple[str, Sequence[int]]]) -> None:
    """Write which base steps call the model, one row per plan.

    Args:
        path: PNG file to write.
        title: line above the raster.
        rows: label and one code per base step: 0 where the model is called, otherwise the number of computed outputs
            that the skipped step is predicted from.
    """
    colors = import_extra("matplotlib.colors", "writing pictures")
    patches = import_extra("matplotlib.patches", "writing pictures")
    codes = np.array([row for _, row in rows])
    palette = (_CALLED, *_PREDICTED)
    if codes.max() >= len(palette):
        raise ValueError(f"the raster has colours for up to {len(_PREDICTED)} outputs; received {codes.max()}")
    columns = codes.shape[1]
    height = 1.15 + 0.3 * len(rows)
    figure = _figure(10.5, height)
    axes = figure.add_axes((0.2, 0.42 / height, 0.78, 0.3 * len(rows) / height))
    axes.pcolormesh(
        np.arange(columns + 1) - 0.5,
        np.arange(len(rows) + 1) - 0.5,
        codes,
        cmap=colors.ListedColormap(palette),
        vmin=-0.5,
        vmax=len(palette) - 0.5,
        edgecolors="white",
        linewidth=1.2,
    )
    axes.invert_yaxis()
    axes.set_yticks(range(len(rows)), [label for label, _ in rows], fontsize=8)
    axes.set_xticks(range(0, columns, 5))
    axes.tick_params(labelsize=8, length=0)
    axes.set_xlabel("base step (noise on the left, data on the right)", fontsize=8)
    for spine in axes.spines.values():
        spine.set_visible(False)
    figure.text(0.02, 1 - 0.1 / height, title, fontsize=10, weight="bold", va="top")
    names = ["model called", *[f"from {k} output{'s' if k > 1 else ''}" for k in range(1, len(palette))]]
    handles = [patches.Patch(color=palette[k], label=names[k]) for k in sorted(set(codes.ravel().tolist()))]
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0.19, 1 - 0.34 / height),
        ncols=len(handles),
        fontsize=8,
        frameon=False,
    )
    figure.savefig(path)


def _grey(image: torch.Tensor) -> Any:
    return (image.float().clamp(-1, 1) * 0.5 + 0.5).squeeze(0).numpy()


def write_curves(
    path: Path,
    title: str,
    rows: Sequence[tuple[str, Sequence[tuple[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]]]]],
    *,
    x_label: str,
) -> None:
    """Write a grid of line plots over falling timesteps, one row per subject.

    Args:
        path: PNG file to write.
        title: line above the grid.
        rows: label of each row, and for each of its panels a title and the curves `(x, y)` by name.
        x_label: label below the last row.
    """
    panels = len(rows[0][1])
    cell_width, cell_height, header, footer, margin = 3.6, 1.9, 0.35, 0.25, 0.65
    width, height = margin + cell_width * panels, header + cell_height * len(rows) + footer
    figure = _figure(width, height)
    figure.text(0.1 / width, 1 - 0.1 / height, title, fontsize=10, weight="bold", va="top")
    handles: dict[str, Any] = {}
    for i, (label, row) in enumerate(rows):
        for j, (panel, curves) in enumerate(row):
            bottom = (height - header - cell_height * (i + 1) + 0.35) / height
            left = (margin + cell_width * j) / width
            axes = figure.add_axes((left, bottom, 0.8 * cell_width / width, (cell_height - 0.65) / height))
            for k, (name, (x, y)) in enumerate(curves.items()):
                (line,) = axes.plot(x, y, color=_LINES[k], linewidth=1.4, linestyle=_DASHES[k])
                handles.setdefault(name, line)
            axes.invert_xaxis()
            axes.tick_params(labelsize=7)
            axes.grid(linewidth=0.3)
            axes.set_title(f"{label}: {panel}" if j == 0 else panel, fontsize=7, loc="left", pad=3)
            if i == len(rows) - 1:
                axes.set_xlabel(x_label, fontsize=7)
    figure.legend(
        handles=list(handles.values()),
        labels=list(handles),
        loc="upper left",
        bbox_to_anchor=(0.0, 1 - 0.28 / height),
        ncols=len(handles),
        fontsize=8,
        frameon=False,
    )
    figure.savefig(path)
