"""Calibrated rows and plans as they stand in a scheduler's config."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ab_schedulers.numerics import CachePlan, Row

from .options import CACHE_QUANTITIES

_KEYS = ("num_base_steps", "compute_steps", "cache_quantity", "timesteps", "sigmas", "rows")


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibratedPlan:
    """A plan with fitted rows for one number of calls on one grid.

    Args:
        plan: Base grid and calls.
        quantity: The cached quantity that the rows weight.
        timesteps: Timesteps of the calls on the grid of the fit.
        sigmas: Noise scales of the calls and of the end on the grid of the fit.
        rows: One fitted row per call.
        scheduler: Name of the class that was fitted, where the entry says it.
        prediction: The quantity that the fitted model predicts, where the entry says it.
    """

    plan: CachePlan
    quantity: str
    timesteps: tuple[float, ...]
    sigmas: tuple[float, ...]
    rows: tuple[Row, ...]
    scheduler: str | None = None
    prediction: str | None = None

    def matches(self, timesteps: Sequence[float], sigmas: Sequence[float]) -> bool:
        """Whether a run's calls stand on the grid of the fit, to one part in ten thousand."""
        mine, theirs = (*self.timesteps, *self.sigmas), (*timesteps, *sigmas)
        return len(mine) == len(theirs) and all(
            math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-6) for a, b in zip(mine, theirs, strict=True)
        )


def parse_calibrations(calibrations: Any) -> dict[int, CalibratedPlan]:
    """Read the config's ``calibrations``: ``{"8": {"num_base_steps": ..., "rows": [...], ...}, ...}``.

    Each entry, keyed by its number of model calls, holds ``num_base_steps``, ``compute_steps``, ``cache_quantity``,
    ``timesteps`` (of the calls), ``sigmas`` (of the calls and of the end) and ``rows``, a list of
    ``{"sample": a, "history": [b_0, b_1, ...]}``. It may name the ``scheduler`` class of the fit and the ``prediction``
    of its model. Further keys (provenance) are kept and not read.

    Raises:
        TypeError: If it or an entry is no dict.
        ValueError: If a key is missing or a value malformed; the message names the entry.
    """
    if calibrations is None:
        return {}
    if not isinstance(calibrations, Mapping):
        raise TypeError(f"`calibrations` must be a dict or None, received {type(calibrations).__name__}; pass a dict.")
    return {_number_of_calls(key): _parse_entry(key, entry) for key, entry in calibrations.items()}


def _number_of_calls(key: Any) -> int:
    try:
        calls = int(key)
    except (TypeError, ValueError):
        calls = 0
    if calls < 1:
        raise ValueError(f"`calibrations` is keyed by the number of model calls, received key {key!r}; correct it.")
    return calls


def _parse_entry(key: Any, entry: Any) -> CalibratedPlan:
    name = f"calibrations[{key!r}]"
    if not isinstance(entry, Mapping):
        raise TypeError(f"`{name}` must be a dict, received {type(entry).__name__}; calibrate again.")
    missing = [wanted for wanted in _KEYS if wanted not in entry]
    if missing:
        raise ValueError(f"`{name}` lacks {missing}, expected the keys {list(_KEYS)}; calibrate again.")
    try:
        plan = CachePlan.from_steps(entry["compute_steps"], num_base_steps=entry["num_base_steps"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"`{name}` has no valid plan: {error}") from error
    calls = plan.num_calls
    if calls != int(key):
        raise ValueError(f"`{name}` has a plan of {calls} calls; its key must be the number of calls, so correct it.")
    if entry["cache_quantity"] not in CACHE_QUANTITIES:
        raise ValueError(
            f"`{name}['cache_quantity']` must be one of {list(CACHE_QUANTITIES)}, received "
            f"{entry['cache_quantity']!r}; calibrate again."
        )
    rows = entry["rows"]
    if not isinstance(rows, Sequence) or len(rows) != calls:
        raise ValueError(f"`{name}['rows']` must hold {calls} rows, one per call; calibrate again.")
    return CalibratedPlan(
        plan=plan,
        quantity=entry["cache_quantity"],
        timesteps=_numbers(entry["timesteps"], calls, f"{name}['timesteps']"),
        sigmas=_numbers(entry["sigmas"], calls + 1, f"{name}['sigmas']"),
        rows=tuple(_parse_row(row, call, name) for call, row in enumerate(rows)),
        scheduler=entry.get("scheduler"),
        prediction=entry.get("prediction"),
    )


def check_origin(calibrations: Mapping[int, CalibratedPlan], scheduler: str, prediction: str) -> None:
    """Raise unless every entry that names its origin was fitted for this scheduler class and prediction.

    Raises:
        ValueError: If one was fitted for another.
    """
    for calls, calibrated in calibrations.items():
        for what, theirs, ours in (
            ("scheduler", calibrated.scheduler, scheduler),
            ("prediction", calibrated.prediction, prediction),
        ):
            if theirs is not None and theirs != ours:
                raise ValueError(
                    f"`calibrations['{calls}']` was fitted with {what} {theirs!r}, expected {ours!r}; calibrate this "
                    "pipeline itself, or drop the entry."
                )


def _parse_row(row: Any, call: int, name: str) -> Row:
    place = f"{name}['rows'][{call}]"
    if not isinstance(row, Mapping) or set(row) != {"sample", "history"}:
        raise ValueError(
            f"`{place}` must be {{'sample': a, 'history': [b_0, ...]}}, received {row!r}; calibrate again."
        )
    history = _numbers(row["history"], None, f"{place}['history']")
    if len(history) > call + 1:
        raise ValueError(
            f"`{place}['history']` weights {len(history)} outputs, but only {call + 1} are known at call {call}; "
            "calibrate again."
        )
    (sample,) = _numbers([row["sample"]], 1, f"{place}['sample']")
    return Row(sample=sample, history=history, order=len(history))


def _numbers(values: Any, length: int | None, name: str) -> tuple[float, ...]:
    """``values`` as finite floats, ``length`` of them (at least one if None)."""
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence) or not values:
        raise ValueError(f"`{name}` must be a list of numbers, received {values!r}; calibrate again.")
    if length is not None and len(values) != length:
        raise ValueError(f"`{name}` must hold {length} numbers, received {len(values)}; calibrate again.")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"`{name}` must hold finite numbers, received {value!r}; calibrate again.")
    return tuple(float(value) for value in values)
