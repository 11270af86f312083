"""Colours of the two schemes, and an SVG whose bytes depend on the numbers and the version of matplotlib alone."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Palette:
    """Colours of one scheme of the site.

    Args:
        paper: Background of the page.
        ink: Text and axes.
        faint: Grid, and what is skipped.
        lines: Colours of the curves, told apart also by readers who do not see red or green (Okabe and Ito).
    """

    paper: str
    ink: str
    faint: str
    lines: tuple[str, ...]


PALETTES = {
    "light": Palette(
        paper="#ffffff", ink="#3a3a3a", faint="#d4d4d4", lines=("#0072b2", "#d55e00", "#009e73", "#b0487f", "#a37500")
    ),
    "dark": Palette(
        paper="#1e2129", ink="#d3d6de", faint="#454a57", lines=("#5bb8f0", "#ff9350", "#3fd0a0", "#eb9ac8", "#f0d25a")
    ),
}


def settings(palette: Palette) -> dict[str, Any]:
    """Settings of matplotlib for one scheme."""
    inks = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    papers = ("figure.facecolor", "axes.facecolor", "savefig.facecolor", "legend.facecolor")
    return {
        **dict.fromkeys(inks, palette.ink),
        **dict.fromkeys(papers, palette.paper),
        "axes.grid": True,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlesize": 10,
        "font.family": "sans-serif",
        "font.size": 10,
        "grid.color": palette.faint,
        "grid.linewidth": 0.5,
        "legend.edgecolor": palette.faint,
        "legend.fontsize": 9,
        "legend.framealpha": 0.9,
        "svg.fonttype": "none",
        "svg.hashsalt": "ab_schedulers",
    }


def svg(size: tuple[float, float], palette: Palette, draw: Callable[[Any], None]) -> bytes:
    """The picture that ``draw`` makes on an empty figure of ``size`` inches.

    Raises:
        ModuleNotFoundError: If matplotlib is missing.
    """
    matplotlib, figures = import_module("matplotlib"), import_module("matplotlib.figure")
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever the user's own file says
        matplotlib.rcParams.update(settings(palette))
        figure = figures.Figure(figsize=size, layout="constrained")
        draw(figure)
        written = io.BytesIO()
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    return written.getvalue()
