"""One function per picture: it draws the numbers it is given on a figure of matplotlib, and computes nothing else."""

from __future__ import annotations

import math
from typing import Any

from .canvas import Palette
from .series import Numbers


def stability_by_order(figure: Any, numbers: Numbers, palette: Palette) -> None:
    """Regions of four orders at one interval, with those of Adams-Bashforth."""
    axes = figure.subplots()
    for place, (order, found) in enumerate(numbers["cached"].items()):
        color = palette.lines[place]
        _region(axes, found, color=color, label=f"order {order}", fill=True)
        _region(axes, numbers["adams_bashforth"][order], color=color, linestyle="--")
    _complex_plane(axes, palette, f"solid: {numbers['interval']} base steps a call; dashed: Adams-Bashforth")


def stability_by_interval(figure: Any, numbers: Numbers, palette: Palette) -> None:
    """Regions of one order at several intervals."""
    axes = figure.subplots()
    for place, (interval, found) in enumerate(numbers["cached"].items()):
        _region(axes, found, color=palette.lines[place], label=f"T = {interval}", fill=True)
    _region(axes, numbers["adams_bashforth"], color=palette.ink, linestyle="--", label="Adams-Bashforth")
    _complex_plane(axes, palette, f"order {numbers['order']}, T base steps a call")


def _region(axes: Any, found: Numbers, *, fill: bool = False, **style: Any) -> None:
    real = [*found["real"], *reversed(found["real"])]
    imaginary = [*found["imaginary"], *(-y for y in reversed(found["imaginary"]))]
    axes.plot(real, imaginary, linewidth=1.6, **style)
    if fill:
        axes.fill(real, imaginary, color=style["color"], alpha=0.12, linewidth=0)


def _complex_plane(axes: Any, palette: Palette, title: str) -> None:
    axes.axhline(0, color=palette.ink, linewidth=0.6)
    axes.axvline(0, color=palette.ink, linewidth=0.6)
    axes.set(xlabel="real part of Hμ", ylabel="imaginary part of Hμ", aspect="equal", title=title)
    axes.set_xlim(-2.15, 0.45)
    axes.legend(loc="upper left")


def noise_gain(figure: Any, numbers: Numbers, palette: Palette) -> None:
    """Gain over the interval, one line per order, and the limits."""
    axes = figure.subplots()
    for place, (order, gain) in enumerate(numbers["gain"].items()):
        axes.plot(numbers["intervals"], gain, color=palette.lines[place], marker="o", markersize=3.5)
        axes.hlines(
            numbers["limit"][order], 2, numbers["intervals"][-1], color=palette.lines[place], linestyle=":", lw=1
        )
        _at_end(axes, numbers["intervals"][-1], gain[-1], f"order {order}", palette.lines[place])
    axes.set_yscale("log", base=2)
    axes.set(xlabel="base steps a call, T", ylabel="noise gain", title="largest in a window; dotted: limit")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlim(1.5, numbers["intervals"][-1] + 2.4)
    axes.set_xticks(numbers["intervals"][::2])


def _at_end(axes: Any, x: float, y: float, text: str, color: str, *, offset: tuple[float, float] = (6, 0)) -> None:
    axes.annotate(text, (x, y), offset, textcoords="offset points", color=color, va="center", fontsize=9)


def order_slopes(figure: Any, numbers: Numbers, palette: Palette) -> None:
    """Error over the length of a window for four orders, with and without corrector, and their slopes."""
    panels = figure.subplots(2, sharex=True)
    titles = {"base": "predictor of order k alone", "corrector": "with a corrector of k + 1 outputs"}
    for axes, (kind, title) in zip(panels, titles.items(), strict=True):
        for place, (order, line) in enumerate(numbers[kind].items()):
            color = palette.lines[place]
            axes.plot(line["window"], line["error"], color=color, marker="o", markersize=3.5, label=f"order {order}")
            _triangle(axes, line, color)
        _log_log(axes, "", "difference to the base", title)
    panels[0].legend(loc="lower right")
    panels[1].set_xlabel("length of a window, H")


def order_comparisons(figure: Any, numbers: Numbers, palette: Palette) -> None:
    """The error of one order, compared with four things."""
    names = {
        "flow": "to the flow, T = 3",
        "plain start": "to the base, no warm-up",
        "base": "to the base, warm-up",
        "refined": "to the flow, T grows",
    }
    axes = figure.subplots()
    for place, (kind, name) in enumerate(names.items()):
        line, color = numbers[kind], palette.lines[place]
        axes.plot(line["window"], line["error"], color=color, marker="o", markersize=3.5, label=name)
        _triangle(axes, line, color)
    _log_log(axes, "length of a window, H", "error", "order 3 in four comparisons")
    axes.legend(loc="lower right")


def _triangle(axes: Any, line: Numbers, color: str) -> None:
    """The predicted slope below the two finest points of a line."""
    (left, right), start = sorted(line["window"][-2:]), line["error"][-1] / 2
    order = line["predicted_order"]
    top = start * (right / left) ** order
    axes.plot([left, right, right, left], [start, start, top, start], color=color, linewidth=0.8)
    axes.annotate(
        str(order),
        (right, math.sqrt(start * top)),
        (3, 0),
        textcoords="offset points",
        color=color,
        fontsize=8,
        va="center",
    )


def _log_log(axes: Any, across: str, up: str, title: str) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set(xlabel=across, ylabel=up, title=title)


def bound(figure: Any, numbers: Numbers, palette: Palette) -> None:
    """Error and bound over the calls."""
    axes = figure.subplots()
    for place, (order, line) in enumerate(numbers.items()):
        color = palette.lines[place]
        axes.plot(line["calls"], line["error"], color=color, marker="o", markersize=3.5, label=f"order {order}")
        axes.plot(line["calls"], line["bound"], "--", color=color, marker="o", markersize=3.5)
    _log_log(axes, "model calls", "error at the end", "solid: measured error; dashed: proven bound")
    axes.set_xticks([5, 10, 20, 50], ["5", "10", "20", "50"])
    axes.xaxis.set_minor_formatter(lambda *_: "")
    axes.set_ylim(top=0.8)
    axes.legend(loc="upper right", ncols=3)


def skip_raster(figure: Any, numbers: Numbers, palette: Palette) -> None:
    """A row of base steps per plan; those that call the model are filled."""
    axes = figure.subplots(len(numbers), sharex=True)
    names = {
        "uniform": "uniform, 3 base steps a call",
        "warm-up": "3 warm-up calls, then 3 base steps a call",
        "50 steps": "50 base steps, as even as possible",
        "placed": "more calls at both ends",
    }
    widest = max(plan["steps"] for plan in numbers.values())
    for row, (name, plan) in zip(axes, numbers.items(), strict=True):
        calls = set(plan["calls"])
        skipped = [step for step in range(plan["steps"]) if step not in calls]
        for steps, color in ((sorted(calls), palette.lines[0]), (skipped, palette.faint)):
            row.broken_barh([(step - 0.42, 0.84) for step in steps], (0, 1), facecolor=color, linewidth=0)
        row.set_title(f"{names[name]}: {len(calls)} calls, {plan['steps']} steps", loc="left", fontsize=9)
        row.set(yticks=[], xlim=(-0.6, widest - 0.4), ylim=(0, 1))
        row.grid(False)
        row.spines[:].set_visible(False)
        row.tick_params(axis="x", length=0)
    axes[-1].set_xlabel("base step, from noise (left) to data")


def similarity(figure: Any, numbers: Numbers, palette: Palette) -> None:
    """Change of the output between adjacent calls, models above, mixtures below."""
    upper, lower = figure.subplots(2, sharex=True)
    for place, (name, curve) in enumerate(numbers["curves"].items()):
        axes = lower if name.startswith("mixture") else upper
        color = palette.lines[place]
        axes.plot(curve["r"], curve["measured"], color=color, linewidth=1.6, label=name)
        axes.plot(curve["r"], curve["formula"], color=color, linewidth=1.2, linestyle="--")
    upper.set_title("bundled models: measured (solid), formula (dashed)")
    lower.set_title("Gaussian mixtures")
    for axes, place in ((upper, "lower center"), (lower, "lower right")):
        axes.set_yscale("log")
        axes.set_ylabel("relative change")
        axes.legend(loc=place)
    lower.set_xlabel("r = σ/(α + σ): noise at 1 (left), data at 0")
    lower.set_xlim(1, 0)
