"""Checks of the cache options, before any work."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ab_schedulers.numerics import CachePlan
from ab_schedulers.numerics.noise_scales import published_noise_scale

MAX_ORDER = 8
PREDICTORS = ("extrapolate", "hold")
VARIABLES = ("index", "timestep", "lambda")
PLACEMENTS = ("even", "noise_ratio")
CACHE_QUANTITIES = ("model_output", "epsilon", "sample", "velocity")


def check_options(config: Mapping[str, Any]) -> None:
    """Raise unless every cache option of ``config`` is valid by itself.

    Raises:
        TypeError: If an option has the wrong type.
        ValueError: If an option has a value out of range.
    """
    check_integer(config, "cache_interval", 1, None)
    check_integer(config, "cache_order", 1, MAX_ORDER)
    check_integer(config, "cache_corrector", 1, MAX_ORDER, optional=True)
    check_integer(config, "warmup_calls", 0, None)
    check_integer(config, "num_base_steps", 1, None, optional=True)
    check_choice(config, "cache_predictor", PREDICTORS)
    check_choice(config, "cache_variable", VARIABLES)
    if config["cache_quantity"] is not None:
        check_choice(config, "cache_quantity", CACHE_QUANTITIES)
    if config["compute_steps"] is not None:
        if config["num_base_steps"] is None:
            raise ValueError(
                "`compute_steps` needs `num_base_steps`, received None; pass the number of base steps that the "
                "plan walks."
            )
        steps = config["compute_steps"]
        if isinstance(steps, (str, bytes)) or not isinstance(steps, Sequence):
            raise TypeError(f"`compute_steps` must be a list of base step indices, received {steps!r}; pass a list.")
        CachePlan.from_steps(steps, num_base_steps=config["num_base_steps"])
    _check_placement(config)
    noise_scale_function(config["noise_scaling"])


def _check_placement(config: Mapping[str, Any]) -> None:
    check_choice(config, "cache_placement", PLACEMENTS)
    if config["cache_placement"] == "even":
        return
    for name, unset in (("compute_steps", None), ("warmup_calls", 0)):
        if config[name] != unset:
            raise ValueError(
                f'`cache_placement="noise_ratio"` places the calls itself, but `{name}` is {config[name]!r}, expected '
                f"{unset}; drop one of the two."
            )


def check_integer(
    config: Mapping[str, Any], name: str, minimum: int, maximum: int | None, *, optional: bool = False
) -> None:
    """Raise unless ``config[name]`` is an integer within ``minimum`` and ``maximum``, or None where ``optional``."""
    value = config[name]
    if optional and value is None:
        return
    span = f"at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
    expected = f"an integer {span}{' or None' if optional else ''}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"`{name}` must be {expected}, received {value!r}; pass a whole number.")
    if value < minimum or (maximum is not None and value > maximum):
        raise ValueError(f"`{name}` must be {expected}, received {value}; choose a value in that range.")


def check_choice(config: Mapping[str, Any], name: str, choices: Sequence[str]) -> None:
    """Raise ``ValueError`` unless ``config[name]`` is one of ``choices``."""
    if config[name] not in choices:
        raise ValueError(f"`{name}` must be one of {list(choices)}, received {config[name]!r}; choose one of them.")


def resolve_plan(config: Mapping[str, Any], num_calls: int) -> CachePlan:
    """The plan that ``config`` means for ``num_calls`` model calls.

    Raises:
        ValueError: If ``compute_steps`` has another number of entries, or the calls cannot be placed.
    """
    if config["compute_steps"] is not None:
        plan = CachePlan.from_steps(config["compute_steps"], num_base_steps=config["num_base_steps"])
        if plan.num_calls != num_calls:
            raise ValueError(
                f"`compute_steps` holds {plan.num_calls} model calls, but `num_inference_steps` (which counts model "
                f"calls) is {num_calls}; pass num_inference_steps={plan.num_calls} or another plan."
            )
        return plan
    steps = config["num_base_steps"]
    if config["cache_placement"] != "even" and steps is None:
        steps = config["num_train_timesteps"] // 2 - 1  # the longest grid that reaches the noisy end with any spacing
    return CachePlan.uniform(
        num_calls=num_calls,
        cache_interval=config["cache_interval"],
        warmup_calls=config["warmup_calls"],
        num_base_steps=steps,
    )


def check_number(config: Mapping[str, Any], name: str, low: float, high: float) -> None:
    """Raise ``ValueError`` unless ``config[name]`` is a number strictly between ``low`` and ``high``."""
    value = config[name]
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (number and low < value < high):
        raise ValueError(f"`{name}` must be a number above {low:g} and below {high:g}, received {value!r}; correct it.")


def noise_scale_function(scaling: Mapping[str, Any] | None) -> Callable[[float], float] | None:
    """The factor ``b(t)`` on the predicted noise, a function of the timestep's fraction ``t`` in [0, 1].

    Three forms: ``{"value": b}``, a constant; ``{"high": b_h, "low": b_l, "threshold": tau}``, the published b(t) of
    EB-Cache; ``{"t": [...], "values": [...]}``, a table with rising ``t``, linear in between and constant outside.

    Raises:
        TypeError: If ``scaling`` is no mapping.
        ValueError: If its keys or values fit none of the forms.
    """
    if scaling is None:
        return None
    if not isinstance(scaling, Mapping):
        raise TypeError(f"`noise_scaling` must be a dict or None, received {scaling!r}; {_SCALING_FORMS}")
    keys = set(scaling)
    if keys == {"value"}:
        value = _positive(scaling["value"], "value")
        return lambda t: value
    if keys == {"high", "low", "threshold"}:
        high, low, threshold = (_positive(scaling[key], key) for key in ("high", "low", "threshold"))
        if threshold >= 1:
            raise ValueError(f"`noise_scaling['threshold']` must lie between 0 and 1, received {threshold}; lower it.")
        return lambda t: float(published_noise_scale(t, high=high, low=low, threshold=threshold))
    if keys == {"t", "values"}:
        return _table(scaling["t"], scaling["values"])
    raise ValueError(f"`noise_scaling` has keys {sorted(map(str, keys))}; {_SCALING_FORMS}")


_SCALING_FORMS = (
    'expected {"value": b}, {"high": b_h, "low": b_l, "threshold": tau} or {"t": [...], "values": [...]}; '
    "pass one of these forms."
)


def _positive(value: Any, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
        raise ValueError(f"`noise_scaling[{key!r}]` must be a positive finite number, received {value!r}; correct it.")
    return float(value)


def _table(times: Any, values: Any) -> Callable[[float], float]:
    if not isinstance(times, Sequence) or not isinstance(values, Sequence) or len(times) != len(values) or not times:
        raise ValueError("`noise_scaling` needs lists `t` and `values` of one positive length; correct the table.")
    numbers = [t for t in times if isinstance(t, (int, float)) and not isinstance(t, bool) and 0 <= t <= 1]
    grid = [float(t) for t in numbers]
    scales = [_positive(value, "values") for value in values]
    if len(grid) < len(times) or sorted(set(grid)) != grid:
        raise ValueError(f"`noise_scaling['t']` must rise strictly within [0, 1], received {times!r}; correct it.")

    def scale(t: float) -> float:
        if t <= grid[0]:
            return scales[0]
        for i in range(1, len(grid)):
            if t <= grid[i]:
                share = (t - grid[i - 1]) / (grid[i] - grid[i - 1])
                return scales[i - 1] + share * (scales[i] - scales[i - 1])
        return scales[-1]

    return scale
