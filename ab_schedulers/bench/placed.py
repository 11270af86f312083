"""The cached schedulers with their calls placed by `noise_ratios` instead of evenly on the stock grid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ab_schedulers.bench.methods import Contender
from ab_schedulers.numerics import flow_sigmas, place_calls
from ab_schedulers.schedulers import ABCacheScheduler

SHIFT, POWER = 1.0, 1.25
_BASE_STEPS = 500
_INTERVAL = 10
_SAMPLE: Mapping[str, Any] = {"cache_quantity": "sample", "cache_order": 2, "cache_corrector": 3}
_VELOCITY: Mapping[str, Any] = {"cache_quantity": "velocity", "cache_order": 2, "cache_corrector": 2}


def placed(stock: Any, calls: int) -> Contender:
    """Few base steps would spoil few calls, so there are many: 500 trailing DDIM steps, or 10 flow steps for each call.

    Models that predict a velocity cache the velocity, others the clean sample.
    """
    if "FlowMatch" in type(stock).__name__:
        options = {**_VELOCITY, "cache_variable": "timestep", "cache_interval": _INTERVAL, "shift": 1.0}
        scheduler = ABCacheScheduler.from_config(stock.config, **options)
        sigmas = list(flow_sigmas(calls, shift=SHIFT, power=POWER))
        return Contender(label="placed", scheduler=scheduler, num_inference_steps=calls, grid={"sigmas": sigmas})
    fine: dict[str, Any] = {"timestep_spacing": "trailing", "num_base_steps": _BASE_STEPS}
    base = ABCacheScheduler.from_config(stock.config, **fine)
    base.set_timesteps(calls)
    alphas_cumprod = base.alphas_cumprod.double()[base.base_timesteps.long()]
    ratios = ((1.0 - alphas_cumprod) / alphas_cumprod).sqrt().tolist()
    steps = list(place_calls(ratios, calls, shift=SHIFT, power=POWER))
    quantity = _VELOCITY if stock.config.prediction_type == "v_prediction" else _SAMPLE
    options = {**quantity, "cache_variable": "timestep", **fine, "compute_steps": steps}
    scheduler = ABCacheScheduler.from_config(stock.config, **options)
    return Contender(label="placed", scheduler=scheduler, num_inference_steps=calls)
