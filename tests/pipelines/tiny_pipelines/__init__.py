"""Real pipelines of diffusers with small random components: the matrix that the tests run."""

from .case import Case, components_of, placed
from .running import CALLS, Watch, as_tensor, cached, counterpart, difference, own_components, rounding, sample, watched
from .selection import BY_NAME, CASES, named, of

__all__ = [
    "BY_NAME",
    "CALLS",
    "CASES",
    "Case",
    "Watch",
    "as_tensor",
    "cached",
    "components_of",
    "counterpart",
    "difference",
    "named",
    "of",
    "own_components",
    "placed",
    "rounding",
    "sample",
    "watched",
]
