"""The base grid of a run, in float64 on the host."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from ab_schedulers.numerics import CachePlan, place_calls

PLACEMENT_POWER = 1.35
"""Power of `noise_ratios` where ``cache_placement`` asks for them, chosen by measurement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseGrid:
    """Timesteps of the ``N`` base steps, and signal and noise scales of their ``N + 1`` ends.

    ``x_t = alpha_t x_0 + sigma_t epsilon``; ``flow`` says that ``alpha = 1 - sigma`` and that velocity means
    ``epsilon - x_0``; ``shift`` is the factor of a time shift on ``sigma / alpha``.

    Raises:
        ValueError: If the noise level does not fall at every step (only the last one may stand still).
    """

    timesteps: tuple[float, ...]
    alphas: tuple[float, ...]
    sigmas: tuple[float, ...]
    flow: bool
    shift: float = 1.0

    def __post_init__(self) -> None:
        last = len(self.timesteps) - 1
        for i in range(last + 1):
            now, then = self.sigmas[i] * self.alphas[i + 1], self.sigmas[i + 1] * self.alphas[i]
            if not (then < now or (i == last and then == now)):
                raise ValueError(
                    f"the base grid of {last + 1} steps does not fall in noise at step {i} (timestep "
                    f"{self.timesteps[i]:g}); expected strictly falling noise levels. Use fewer base steps "
                    "(`cache_interval`, `num_base_steps`) or another timestep spacing."
                )

    def lambdas(self) -> tuple[float, ...]:
        """``log(alpha / sigma)`` at every end of a step, infinite where one of the two is zero."""
        return tuple(_log_ratio(alpha, sigma) for alpha, sigma in zip(self.alphas, self.sigmas, strict=True))

    def nodes(self, variable: str) -> tuple[float, ...]:
        """The interpolation variable at the ``N`` base nodes.

        Args:
            variable: ``"index"`` (of the base step), ``"timestep"`` or ``"lambda"``.

        Raises:
            ValueError: If it is infinite or repeated somewhere on the grid.
        """
        if variable == "index":
            return tuple(float(i) for i in range(len(self.timesteps)))
        nodes = self.timesteps if variable == "timestep" else self.lambdas()[:-1]
        for i, node in enumerate(nodes):
            if not math.isfinite(node):
                raise ValueError(
                    f'`cache_variable="{variable}"` is infinite at base step {i} (alpha {self.alphas[i]:g}, sigma '
                    f'{self.sigmas[i]:g}); use cache_variable="index" or "timestep" on this grid.'
                )
        if any(a == b for a, b in pairwise(nodes)):
            raise ValueError(
                f'`cache_variable="{variable}"` repeats a value on this grid; use cache_variable="index" or "lambda".'
            )
        return tuple(nodes)

    @property
    def count(self) -> int:
        """Number of base steps."""
        return len(self.timesteps)

    @property
    def angles(self) -> tuple[float, ...]:
        """``φ = atan2(σ, α)`` of every end."""
        return tuple(math.atan2(sigma, alpha) for alpha, sigma in zip(self.alphas, self.sigmas, strict=True))

    def same_levels(self, other: NoiseGrid) -> bool:
        """Whether the ends of the base steps have the same noise levels, to one part in ten thousand."""
        mine, theirs = (*self.alphas, *self.sigmas), (*other.alphas, *other.sigmas)
        return len(mine) == len(theirs) and all(
            math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-6) for a, b in zip(mine, theirs, strict=True)
        )

    def along(self, variable: str) -> Callable[[float], float]:
        """The interpolation variable as a function of ``φ``, linear between base nodes.

        Beyond the last node it goes on by as much as before it, a flow's timestep to zero.

        Args:
            variable: ``"index"`` (of the base step) or ``"timestep"``.
        """
        nodes = self.nodes(variable)
        last = nodes[-1]
        end = 2 * last - nodes[-2] if len(nodes) > 1 else last - 1
        if self.flow and variable == "timestep":
            end = 0.0
        angles, values = np.array(self.angles[::-1]), np.array([*nodes, end][::-1])
        return lambda angle: float(np.interp(angle, angles, values))

    def placed(self, num_calls: int) -> CachePlan:
        """The plan whose calls stand nearest to `noise_ratios`, times the grid's time shift.

        Their power is `PLACEMENT_POWER`, or less where so many calls would leave the grid at one of its ends.
        """
        ends = zip(self.alphas[:-1], self.sigmas[:-1], strict=True)
        ratios = [sigma / alpha if alpha > 0 else math.inf for alpha, sigma in ends]
        largest = max((ratio for ratio in ratios if ratio < math.inf), default=self.shift)
        room = max(min(largest / self.shift, self.shift / ratios[-1]), 1.0)
        power = PLACEMENT_POWER
        if num_calls > 2:
            power = min(power, max(math.log(room), 1.0) / math.log(num_calls - 1))
        steps = place_calls(ratios, num_calls, shift=self.shift, power=power)
        return CachePlan.from_steps(steps, num_base_steps=len(ratios))


def _log_ratio(alpha: float, sigma: float) -> float:
    if alpha <= 0:
        return -math.inf
    return math.log(alpha / sigma) if sigma > 0 else math.inf


def check_number_of_calls(num_calls: Any) -> None:
    """Raise ``ValueError`` unless ``num_calls`` is a positive integer."""
    if isinstance(num_calls, bool) or not isinstance(num_calls, int) or num_calls < 1:
        raise ValueError(
            f"`num_inference_steps` must be a positive integer (the number of model calls), received {num_calls!r}. "
            "Pass 17, say."
        )


def check_mu(mu: Any, time_shift_type: str) -> None:
    """Raise ``ValueError`` unless ``mu`` is a finite number, above 0 for the linear shift."""
    try:
        value = float(mu)
    except (TypeError, ValueError):
        value = math.nan
    linear = time_shift_type == "linear"
    if not math.isfinite(value) or (linear and value <= 0):
        raise ValueError(
            f"`mu` must be a finite number{' above 0' if linear else ''}, received {mu!r}; pass the shift that the "
            "pipeline computes from the image size."
        )


def call_nodes(name: str, values: Any, low: float, high: float, *, integers: bool = False) -> list[float]:
    """The user's own call nodes as floats, checked.

    Args:
        name: Name of the argument, for the message.
        values: A sequence of numbers.
        low: Least value.
        high: Largest value.
        integers: Whether the values must be whole numbers.

    Raises:
        ValueError: Unless there is at least one node, and they fall strictly within ``[low, high]``.
    """
    try:
        nodes = [] if isinstance(values, (str, bytes)) else [float(value) for value in values]
    except (TypeError, ValueError):
        nodes = []
    within = all(low <= node <= high for node in nodes)
    if not nodes or not within or any(b >= a for a, b in pairwise(nodes)) or (integers and any(n % 1 for n in nodes)):
        raise ValueError(
            f"`{name}` must be a list of strictly falling {'whole ' if integers else ''}numbers from {low:g} to "
            f"{high:g}, one per model call, received {values!r}; correct it."
        )
    return nodes


def fit_plan(plan: CachePlan, values: Sequence[float], *, integers: bool = False) -> CachePlan:
    """The plan with no more base steps in a window than have room between its call node and the next.

    Args:
        plan: Base steps and calls as they are wanted.
        values: The call nodes, falling; after the last one there is 0.
        integers: Whether the base nodes are whole numbers, of which a gap holds only so many.
    """
    lengths = []
    for start, stop, window in zip(values, [*values[1:], 0.0], plan.windows, strict=True):
        room = max(1, round(start - stop)) if integers or start == stop else len(window)
        lengths.append(min(len(window), room))
    steps = tuple(accumulate(lengths[:-1], initial=0))
    return CachePlan(num_base_steps=sum(lengths), compute_steps=steps)


def refine(values: Sequence[float], plan: CachePlan, *, integers: bool = False) -> list[float]:
    """Insert points linearly between the given call nodes and from the last one toward 0, as many as the plan skips.

    Args:
        values: The call nodes, falling.
        plan: Base steps and calls, see `fit_plan`.
        integers: Round to integers.

    Returns:
        The nodes of the base grid.
    """
    refined: list[float] = []
    for start, stop, window in zip(values, [*values[1:], 0.0], plan.windows, strict=True):
        steps = len(window)
        points = [start + (stop - start) * (i / steps) for i in range(steps)]
        refined += [float(round(point)) for point in points] if integers else points
    return refined


def uniform_sigmas(count: int) -> list[float]:
    """``linspace(1, 1/n, n)``, the unshifted sigmas that flow pipelines pass for ``n`` calls."""
    return [1 - i / count for i in range(count)]


def is_uniform(sigmas: Sequence[float]) -> bool:
    """Whether ``sigmas`` are `uniform_sigmas`, up to the rounding of float32."""
    return all(abs(a - b) <= 1e-6 for a, b in zip(sigmas, uniform_sigmas(len(sigmas)), strict=True))
