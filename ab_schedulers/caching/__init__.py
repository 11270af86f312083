"""Skipping inside the model, on diffusers' hooks: the pipeline keeps its scheduler, steps and strength."""

from .ab_cache import ABCache, apply_ab_cache
from .ab_config import ABCacheConfig
from .building import build_eb_table
from .eb_cache import EBCache, EBCacheConfig, apply_eb_cache
from .eb_table import NAMED_TABLES, EBTable
from .families import EBFamily, register_eb_family
from .noise_scaling import FittedNoiseScaling, apply_noise_scaling, fit_noise_scaling, remove_noise_scaling
from .placement import remove_cache

__all__ = [
    "NAMED_TABLES",
    "ABCache",
    "ABCacheConfig",
    "EBCache",
    "EBCacheConfig",
    "EBFamily",
    "EBTable",
    "FittedNoiseScaling",
    "apply_ab_cache",
    "apply_eb_cache",
    "apply_noise_scaling",
    "build_eb_table",
    "fit_noise_scaling",
    "register_eb_family",
    "remove_cache",
    "remove_noise_scaling",
]
