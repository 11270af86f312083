"""The small linear system behind fitted rows."""

from __future__ import annotations

from collections.abc import Sequence

from .interpolation import Number


def ridge_solution(gram: Sequence[Sequence[Number]], right: Sequence[Number], penalty: Number) -> tuple[Number, ...]:
    """``argmin_c |m - Σ_p c_p f_p|² + penalty |c|²``, from inner products.

    The unique solution of ``(G + penalty I) c = r`` for ``penalty > 0`` (Hoerl and Kennard 1970, *Technometrics* 12).
    By elimination without pivoting, which symmetric positive definite systems do not need.

    Derived in docs/theory/10-fitted-rows.md.

    Args:
        gram: ``G``, inner products ``f_p . f_q`` of the features.
        right: ``r``, inner products ``f_p . m`` with what the row misses.
        penalty: Strength of the pull toward no change; not negative.

    Raises:
        ValueError: If the shapes disagree, or the system is singular (``penalty`` zero and dependent features).
    """
    size = len(right)
    if size == 0 or len(gram) != size or any(len(line) != size for line in gram):
        raise ValueError(
            f"`gram` must be square and as long as `right`, received {[len(line) for line in gram]} and {size}; give "
            "one line and one entry per feature."
        )
    lines = [[*gram[p], right[p]] for p in range(size)]
    for p in range(size):
        lines[p][p] = lines[p][p] + penalty
    for p in range(size):
        if lines[p][p] == 0:
            raise ValueError("the features are linearly dependent and `penalty` is 0; pass a positive penalty.")
        for q in range(p + 1, size):
            factor = lines[q][p] / lines[p][p]
            lines[q] = [b - factor * a for a, b in zip(lines[p], lines[q], strict=True)]
    solution: list[Number] = []
    for p in reversed(range(size)):
        known = sum((lines[p][p + 1 + i] * c for i, c in enumerate(solution)), start=0 * right[p])
        solution.insert(0, (lines[p][size] - known) / lines[p][p])
    return tuple(solution)
