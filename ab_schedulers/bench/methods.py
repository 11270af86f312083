"""The cached samplers that the tables compare, as options of `ABCacheScheduler.from_config`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ab_schedulers.schedulers import ABCacheScheduler

REUSE_OPTIONS: Mapping[str, Any] = {
    "cache_predictor": "extrapolate",
    "cache_order": 1,
    "cache_corrector": None,
    "cache_quantity": "model_output",
}
HOLD_OPTIONS: Mapping[str, Any] = {**REUSE_OPTIONS, "cache_predictor": "hold", "cache_order": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A label for the tables, and scheduler options that override the defaults."""

    label: str
    options: Mapping[str, Any] = field(default_factory=dict)


REUSE = Method(label="plain reuse", options=REUSE_OPTIONS)
HOLD = Method(label="hold", options=HOLD_OPTIONS)
DEFAULTS = Method(label="defaults")
PLACED = Method(label="placed calls", options={"cache_placement": "noise_ratio"})


def order_methods(orders: tuple[int, ...] = (2, 3, 4)) -> list[Method]:
    """Every order without and with the corrector one order above it; quantity and variable at their defaults."""
    methods = []
    for order in orders:
        for corrector in (None, order + 1):
            label = f"order {order}" if corrector is None else f"order {order} + corrector {corrector}"
            methods.append(Method(label=label, options={"cache_order": order, "cache_corrector": corrector}))
    return methods


def compared_methods() -> list[Method]:
    """Plain reuse, `hold`, orders 2 to 4 with and without corrector, and the defaults."""
    return [REUSE, HOLD, *order_methods(), DEFAULTS]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Contender:
    """A scheduler, the number that its `set_timesteps` gets, and what else it gets."""

    label: str
    scheduler: Any
    num_inference_steps: int
    grid: Mapping[str, Any] = field(default_factory=dict)


def cached(stock: Any, method: Method, calls: int, interval: int) -> Contender:
    """The cached counterpart of the scheduler `stock`, with the options of `method`, at `calls` model calls."""
    options = {"cache_interval": interval, **method.options}
    scheduler = ABCacheScheduler.from_config(stock.config, **options)
    return Contender(label=method.label, scheduler=scheduler, num_inference_steps=calls)


def base(stock: Any, steps: int) -> Contender:
    """The base sampler of the cached schedulers, the same class at interval 1, on `steps` steps."""
    scheduler = ABCacheScheduler.from_config(stock.config, cache_interval=1)
    return Contender(label=f"base, {steps} steps", scheduler=scheduler, num_inference_steps=steps)
