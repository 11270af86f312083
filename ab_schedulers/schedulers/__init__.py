"""The diffusers face: three cached schedulers and their common base."""

from .base import ABCacheScheduler
from .ddim import ABCacheDDIMScheduler
from .dpmsolver import ABCacheDPMSolverMultistepScheduler
from .flow_match import ABCacheFlowMatchEulerScheduler

# A saved pipeline records the module of its scheduler; this one stays, whatever file a class moves to.
for _class in (
    ABCacheScheduler,
    ABCacheDDIMScheduler,
    ABCacheDPMSolverMultistepScheduler,
    ABCacheFlowMatchEulerScheduler,
):
    _class.__module__ = "ab_schedulers"
del _class

__all__ = [
    "ABCacheDDIMScheduler",
    "ABCacheDPMSolverMultistepScheduler",
    "ABCacheFlowMatchEulerScheduler",
    "ABCacheScheduler",
]
