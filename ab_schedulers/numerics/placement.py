r"""Where to put few model calls along the path from noise to data.

With ``x_t = alpha_t x_0 + sigma_t epsilon`` and ``u`` falling evenly from 1 (noise) to ``1/n``, the calls stand at

``sigma / alpha = shift (u / (1 - u))^power``.

On flow-matching paths ``power = 1`` is the usual time shift (Esser et al. 2024, arXiv:2403.03206, section 5.3.2). In
``lambda = log(alpha / sigma)`` it is ``-log(shift) + power logit(1 - u)``: a larger ``power`` moves calls from the
middle of the path to both ends, and the more calls there are the nearer the last one comes to the data.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence


def noise_ratios(num_calls: int, *, shift: float, power: float) -> tuple[float, ...]:
    """``sigma / alpha`` at every call, falling; infinite at the first, which stands at pure noise.

    Why both ends of the path: docs/theory/02-linear-relation.md.

    Args:
        num_calls: Number of model calls.
        shift: Noise ratio at the middle of the path, positive.
        power: How far the calls spread to both ends, positive; 1 is the time shift of flow matching.

    Raises:
        ValueError: If an argument is not positive.

    Examples:
        >>> noise_ratios(4, shift=1.0, power=1.0)
        (inf, 3.0, 1.0, 0.3333333333333333)
    """
    if num_calls < 1 or not shift > 0 or not power > 0:
        raise ValueError(
            f"`num_calls`, `shift` and `power` must be positive, received {num_calls}, {shift} and {power}; correct "
            "them."
        )
    later = (shift * ((num_calls - i) / i) ** power for i in range(1, num_calls))
    return (math.inf, *later)


def flow_sigmas(num_calls: int, *, shift: float, power: float) -> tuple[float, ...]:
    """The same as sigmas of a flow-matching path, ``alpha = 1 - sigma``: what pipelines take as `sigmas`.

    Why both ends of the path: docs/theory/02-linear-relation.md.

    Raises:
        ValueError: If an argument is not positive.

    Examples:
        >>> flow_sigmas(4, shift=1.0, power=1.0)
        (1.0, 0.75, 0.5, 0.25)
    """
    return tuple(1.0 / (1.0 + 1.0 / ratio) for ratio in noise_ratios(num_calls, shift=shift, power=power))


def place_calls(base_ratios: Sequence[float], num_calls: int, *, shift: float, power: float) -> tuple[int, ...]:
    """The base steps that come nearest to these places, in ``lambda``, for `compute_steps`.

    Why both ends of the path: docs/theory/02-linear-relation.md.

    Args:
        base_ratios: ``sigma / alpha`` at the base steps, falling and positive; the first may be infinite.
        num_calls: Number of model calls, at most the number of base steps.
        shift: See `noise_ratios`.
        power: See `noise_ratios`.

    Returns:
        Rising indices that begin with 0, one per call; a place that is taken passes to the next step.

    Raises:
        ValueError: If an argument is not positive, or there are fewer base steps than calls.

    Examples:
        >>> place_calls([4.0, 3.0, 2.0, 1.0, 0.5, 0.25], 3, shift=1.0, power=1.0)
        (0, 2, 4)
    """
    if num_calls > len(base_ratios):
        raise ValueError(
            f"`base_ratios` has {len(base_ratios)} base steps, too few for {num_calls} calls; use a longer base grid."
        )
    lambdas = [-math.log(ratio) for ratio in base_ratios]
    steps: list[int] = [0]
    for call, ratio in enumerate(noise_ratios(num_calls, shift=shift, power=power)[1:], start=1):
        wanted = -math.log(ratio)
        after = min(max(bisect_left(lambdas, wanted), 1), len(lambdas) - 1)
        nearest = after if lambdas[after] - wanted < wanted - lambdas[after - 1] else after - 1
        last = len(lambdas) - (num_calls - call)
        steps.append(min(max(nearest, steps[-1] + 1), last))
    return tuple(steps)
