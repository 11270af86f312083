"""Every picture: where its numbers come from, how it is drawn, and in words what there is to see."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..rendering import picture
from . import drawings, series
from .canvas import PALETTES, Palette, svg
from .series import Numbers

FOLDER = "figures"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """One picture.

    Args:
        name: Its placeholder in the texts; with hyphens, its file name.
        alt: What it shows, for those who do not see it.
        caption: What there is to see, and with which settings.
        numbers: Computes what is drawn.
        draw: Draws the numbers on a figure with a palette.
        size: Inches across and up; 5.6 inches are legible on a telephone.
    """

    name: str
    alt: str
    caption: str
    numbers: Callable[[], Numbers]
    draw: Callable[[Any, Numbers, Palette], None]
    size: tuple[float, float] = (5.6, 3.7)

    @property
    def file_name(self) -> str:
        """Beginning of the names of its files."""
        return self.name.replace("_", "-")

    def markdown(self) -> str:
        """The picture on a page, with its caption."""
        return picture(FOLDER, self.file_name, self.alt, self.caption)

    def files(self) -> dict[str, bytes]:
        """The numbers, and the picture in both schemes, drawn from what is written of them."""
        text = json.dumps(self.numbers()) + "\n"
        pictures = {
            f"{self.file_name}-{scheme}.svg": svg(
                self.size, palette, partial(self.draw, numbers=json.loads(text), palette=palette)
            )
            for scheme, palette in PALETTES.items()
        }
        return {f"{self.file_name}.json": text.encode(), **pictures}


PLOTS = (
    Plot(
        name="similarity",
        alt="Relative change of the output between adjacent calls over the run, measured and by the formula: a U for "
        "the three bundled models, rising from noise to data for two mixtures",
        caption="The outputs of the models change most at both ends, and the formula for Gaussian data follows them "
        "but at the noisy end of dit-epsilon; the mixtures have one scale of detail and no U. Change is |Δu| / |u|, "
        "one minus the similarity; 50 calls of the stock scheduler, 64 trajectories of one seed, variances of 1,000 "
        "samples.",
        numbers=series.similarity,
        draw=drawings.similarity,
        size=(5.6, 5.6),
    ),
    Plot(
        name="skip_raster",
        alt="Four rows of base steps, the steps that call the model filled: uniform, with warm-up, on 50 steps, and "
        "denser at both ends",
        caption="17 calls walk about 50 base steps whatever the plan; the rest is predicted and costs nothing. The "
        "last row places calls with shift 1 and power 1.25 on a uniform flow grid.",
        numbers=series.skip_raster,
        draw=drawings.skip_raster,
        size=(5.6, 3.2),
    ),
    Plot(
        name="order_comparisons",
        alt="Error of an order-3 run against the length of a window: slope 1 to the flow, 2 to the base without "
        "warm-up, 3 to the base with warm-up, and 3 to the flow when the interval grows",
        caption="The same method shows slope 1, 2 or 3, as predicted (triangles), depending on what it is compared "
        "with. Order 3, three base steps a call, dz/dt = -z² over unit time, 12 to 192 calls; T grows as a square "
        "from 1 at 16 calls to 36 at 96.",
        numbers=series.order_comparisons,
        draw=drawings.order_comparisons,
        size=(5.6, 4.2),
    ),
    Plot(
        name="order_slopes",
        alt="Difference to the base sampler against the length of a window, orders 1 to 4 with and without corrector, "
        "each with a triangle of the predicted slope",
        caption="Order k falls with slope k, and with a corrector of k + 1 outputs with slope k + 1; the triangles "
        "have the predicted slopes. Three base steps a call, warm-up calls as each needs, dz/dt = -z² over unit time, "
        "12 to 192 calls.",
        numbers=series.order_slopes,
        draw=drawings.order_slopes,
        size=(5.6, 6.4),
    ),
    Plot(
        name="bound",
        alt="Measured error and proven bound over the number of calls for orders 1 to 3; every bound lies above its "
        "error, at order 3 by a growing factor",
        caption="No bound is below its error. At orders 1 and 2 it falls as the error does; at order 3 the sizes of "
        "the weights add up to more than the errors do, and it becomes loose. Against the exact flow dz/dt = -z², "
        "graded grids of 12 to 144 base steps, three a call after the warm-up.",
        numbers=series.bound,
        draw=drawings.bound,
    ),
    Plot(
        name="noise_gain",
        alt="Largest noise gain in a window over the interval for orders 1 to 5, rising to the limits 1, 3, 7, 15, 31",
        caption="Each order about doubles the gain; a longer interval raises it towards 2ᵏ - 1. Uniform plans of 2 to "
        "12 base steps a call.",
        numbers=series.noise_gain,
        draw=drawings.noise_gain,
    ),
    Plot(
        name="stability_by_order",
        alt="Regions of absolute stability in the complex plane for orders 1 to 4 at three base steps a call; each "
        "reaches further along the negative real axis than that of Adams-Bashforth",
        caption="The region shrinks with the order. From order 2 on it reaches further to the left than that of "
        "Adams-Bashforth on the same calls (dashed), and less far to the right at order 3. Rows of flow Euler on a "
        "uniform grid, windows of length H, f = μz.",
        numbers=series.stability_by_order,
        draw=drawings.stability_by_order,
        size=(5.6, 5.2),
    ),
    Plot(
        name="stability_by_interval",
        alt="Regions of absolute stability of order 3 for intervals 1, 2, 3 and 6, shrinking from Euler's circle to "
        "the region of Adams-Bashforth",
        caption="From the base's own circle at T = 1 the region shrinks to that of Adams-Bashforth, most of the way "
        "at once. Order 3, rows of flow Euler on a uniform grid, windows of length H.",
        numbers=series.stability_by_interval,
        draw=drawings.stability_by_interval,
        size=(5.6, 5.2),
    ),
)


def markdown() -> dict[str, str]:
    """What each placeholder stands for."""
    return {plot.name: plot.markdown() for plot in PLOTS}


def write(folder: Path) -> list[Path]:
    """Write all pictures and their numbers, and return the paths.

    Raises:
        ModuleNotFoundError: If matplotlib is missing.
    """
    if find_spec("matplotlib") is None:
        raise ModuleNotFoundError(
            'the pictures need matplotlib, which is not installed; install it with pip install "ab-schedulers[docs]"'
        )
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for plot in PLOTS:
        for name, content in plot.files().items():
            (folder / name).write_bytes(content)
            written.append(folder / name)
    return written
