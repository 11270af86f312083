"""Real pipelines of diffusers with small random components: the matrix that the tests run."""

from . import conditioned, image_transformers, unets, videos
from .case import Case, components_of
from .running import CALLS, Watch, as_tensor, cached, counterpart, difference, sample, watched

CASES: list[Case] = [*unets.CASES, *image_transformers.CASES, *videos.CASES, *conditioned.CASES]

__all__ = [
    "CALLS",
    "CASES",
    "Case",
    "Watch",
    "as_tensor",
    "cached",
    "components_of",
    "counterpart",
    "difference",
    "sample",
    "watched",
]
