"""Which base steps call the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


def _require_int(name: str, value: object, minimum: int) -> int:
    """Return ``value`` if it is an integer of at least ``minimum``, else raise."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"`{name}` must be an integer, received {value!r}; pass a whole number of at least {minimum}.")
    if value < minimum:
        raise ValueError(f"`{name}` must be at least {minimum}, received {value}; pass a larger number.")
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePlan:
    """A base grid of ``num_base_steps`` steps and the steps among them that call the model.

    The other steps are answered from the cache. A *window* is a call together with the skipped steps after it.

    Theory: docs/theory/04-folding.md.

    Args:
        num_base_steps: Number of steps of the base sampler, at least 1.
        compute_steps: Indices of the base steps that call the model, rising, starting with 0.

    Raises:
        TypeError: If an index is no integer.
        ValueError: If the steps are empty, unsorted, repeated, out of range or do not start with 0.

    Examples:
        >>> CachePlan.uniform(num_calls=3, cache_interval=2).compute_steps
        (0, 2, 4)
    """

    num_base_steps: int
    compute_steps: tuple[int, ...]

    def __post_init__(self) -> None:
        _require_int("num_base_steps", self.num_base_steps, 1)
        steps = tuple(_require_int("compute_steps[i]", step, 0) for step in self.compute_steps)
        object.__setattr__(self, "compute_steps", steps)
        if not steps or steps[0] != 0:
            raise ValueError(
                f"`compute_steps` must start with 0, received {list(steps)}; the first step has no cached output "
                "to go by, so put 0 first."
            )
        if any(later <= earlier for earlier, later in pairwise(steps)):
            raise ValueError(
                f"`compute_steps` must rise strictly, received {list(steps)}; sort them and drop repeated ones."
            )
        if steps[-1] >= self.num_base_steps:
            raise ValueError(
                f"`compute_steps` must lie below `num_base_steps`={self.num_base_steps}, received {steps[-1]}; "
                "drop the steps past the grid or raise `num_base_steps`."
            )

    @classmethod
    def uniform(
        cls,
        *,
        num_calls: int,
        cache_interval: int = 1,
        warmup_calls: int = 0,
        num_base_steps: int | None = None,
    ) -> CachePlan:
        """Plan whose first ``warmup_calls`` calls walk one base step each, and the others evenly many.

        Args:
            num_calls: Number of model calls ``n``.
            cache_interval: Base steps ``T`` a call walks after the warm-up, which gives
                ``w + (n - w) T`` base steps.
            warmup_calls: Calls ``w`` that walk one base step each, at most ``n``.
            num_base_steps: Total number of base steps instead of what ``cache_interval`` gives. The calls after
                the warm-up then share the rest as evenly as possible (windows differ by one step at most).

        Raises:
            TypeError: If an argument is no integer.
            ValueError: If an argument is out of range or there are fewer base steps than calls.
        """
        _require_int("num_calls", num_calls, 1)
        _require_int("cache_interval", cache_interval, 1)
        _require_int("warmup_calls", warmup_calls, 0)
        if warmup_calls > num_calls:
            raise ValueError(
                f"`warmup_calls` must not exceed the number of model calls {num_calls}, received {warmup_calls}; "
                "lower it or raise `num_inference_steps`."
            )
        later_calls = num_calls - warmup_calls
        total = warmup_calls + later_calls * cache_interval
        if num_base_steps is not None:
            total = _require_int("num_base_steps", num_base_steps, 1)
        if total < num_calls or (later_calls == 0 and total != num_calls):
            raise ValueError(
                f"`num_base_steps`={total} cannot be walked by {num_calls} model calls of which {warmup_calls} walk "
                f"one step; expected {'exactly' if later_calls == 0 else 'at least'} {num_calls} base steps. Change "
                "`num_base_steps` or the number of calls."
            )
        rest = total - warmup_calls
        starts = [-(-i * rest // later_calls) for i in range(later_calls)]
        return cls(
            num_base_steps=total,
            compute_steps=(*range(warmup_calls), *(warmup_calls + start for start in starts)),
        )

    @classmethod
    def from_steps(cls, compute_steps: Sequence[int], *, num_base_steps: int) -> CachePlan:
        """Plan that calls the model at exactly ``compute_steps`` of ``num_base_steps`` base steps."""
        return cls(num_base_steps=num_base_steps, compute_steps=tuple(compute_steps))

    @property
    def num_calls(self) -> int:
        """Number of model calls."""
        return len(self.compute_steps)

    @property
    def windows(self) -> tuple[range, ...]:
        """The base steps that each call walks, itself included."""
        ends = (*self.compute_steps[1:], self.num_base_steps)
        return tuple(range(start, end) for start, end in zip(self.compute_steps, ends, strict=True))
