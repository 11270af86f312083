"""Skipping inside the model, on diffusers' hooks: the pipeline keeps its scheduler, steps and strength."""

from .ab_cache import ABCache, apply_ab_cache
from .ab_config import ABCacheConfig
from .eb_cache import EBCache, EBCacheConfig, apply_eb_cache
from .eb_table import NAMED_TABLES, EBTable
from .families import EBFamily, register_eb_family
from .placement import remove_cache

__all__ = [
    "NAMED_TABLES",
    "ABCache",
    "ABCacheConfig",
    "EBCache",
    "EBCacheConfig",
    "EBFamily",
    "EBTable",
    "apply_ab_cache",
    "apply_eb_cache",
    "register_eb_family",
    "remove_cache",
]
