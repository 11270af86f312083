"""Diffusers schedulers that sample diffusion and flow-matching models with several times fewer model calls.

The model is called on some of the base sampler's steps; on the others its output is predicted from the last few
computed outputs (Adams-Bashforth extrapolation), and the steps between two calls fold into one linear combination.

    from ab_schedulers import ABCacheScheduler

    pipe.scheduler = ABCacheScheduler.from_config(pipe.scheduler.config)
    image = pipe(prompt, num_inference_steps=17).images[0]  # 17 model calls walk a 51-step grid
"""

from diffusers import SchedulerMixin as SchedulerMixin  # diffusers looks for it in the library of a saved pipeline

from ab_schedulers.caching import (
    ABCacheConfig,
    EBCacheConfig,
    EBTable,
    apply_ab_cache,
    apply_eb_cache,
    build_eb_table,
    remove_cache,
)
from ab_schedulers.calibration import Calibration, calibrate
from ab_schedulers.numerics import CachePlan
from ab_schedulers.schedulers import (
    ABCacheDDIMScheduler,
    ABCacheDPMSolverMultistepScheduler,
    ABCacheFlowMatchEulerScheduler,
    ABCacheScheduler,
)

__version__ = "0.1.0"

__all__ = [
    "ABCacheConfig",
    "ABCacheDDIMScheduler",
    "ABCacheDPMSolverMultistepScheduler",
    "ABCacheFlowMatchEulerScheduler",
    "ABCacheScheduler",
    "CachePlan",
    "Calibration",
    "EBCacheConfig",
    "EBTable",
    "__version__",
    "apply_ab_cache",
    "apply_eb_cache",
    "build_eb_table",
    "calibrate",
    "remove_cache",
]
