"""Options of `apply_ab_cache`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from ab_schedulers.numerics import CachePlan
from ab_schedulers.schedulers.options import MAX_ORDER, VARIABLES, check_choice, check_integer

QUANTITIES = ("model_output", "sample", "signal")


@dataclass(frozen=True, slots=True, kw_only=True)
class ABCacheConfig:
    """Which steps of a run call the model, and how the others are answered.

    Theory: docs/theory/02-linear-relation.md.

    Args:
        interval: After the warm-up every ``interval``-th step is computed. With ``threshold``: at least every.
        order: Number of computed outputs in the polynomial, 1 (plain reuse) to 8; as many as there are at the start.
        warmup_steps: First steps, all computed, before the first interval, whose first step is computed too. None
            means one, and none with order 1: more outputs close together make a poor start for a long window.
        end_steps: Last steps, all computed; needs ``num_inference_steps``.
        compute_steps: The computed steps, rising from 0, instead of ``interval``, ``warmup_steps`` and ``end_steps``.
        threshold: Compute a step where the embedded estimate exceeds this: the difference between the predictions of
            ``order + 1`` and of ``order``, relative to the predicted output. One more output is kept for it.
        variable: Variable of the polynomial: ``"index"`` of the step, ``"timestep"``, or ``"lambda"``, which needs a
            scheduler.
        quantity: What the polynomial goes through: ``"model_output"``; or, with a scheduler, ``"sample"``, the implied
            clean sample ``x_0``, or ``"signal"``, its part ``alpha_t x_0 = x_t - sigma_t epsilon`` of the noisy one.
            None is ``"model_output"`` without a scheduler; ``"signal"`` for models that predict noise, whose error
            ``x_0`` would contain ``sigma_t / alpha_t`` times, unless ``threshold`` decides; and ``"sample"`` else.
        num_inference_steps: Number of steps of a run, checked against ``compute_steps``.

    Raises:
        TypeError: If an option has the wrong type.
        ValueError: If an option is out of range or two contradict each other.

    Examples:
        >>> config = ABCacheConfig(interval=3)
        >>> [step for step in range(10) if config.computes(step)]
        [0, 1, 4, 7]
    """

    interval: int = 3
    order: int = 3
    warmup_steps: int | None = None
    end_steps: int = 0
    compute_steps: Sequence[int] | None = None
    threshold: float | None = None
    variable: str = "index"
    quantity: str | None = None
    num_inference_steps: int | None = None

    def __post_init__(self) -> None:
        options = asdict(self)
        check_integer(options, "interval", 1, None)
        check_integer(options, "order", 1, MAX_ORDER)
        check_integer(options, "warmup_steps", 0, None, optional=True)
        check_integer(options, "end_steps", 0, None)
        check_integer(options, "num_inference_steps", 1, None, optional=True)
        check_choice(options, "variable", VARIABLES)
        if self.quantity is not None:
            check_choice(options, "quantity", QUANTITIES)
        self._check_threshold()
        if self.end_steps and self.num_inference_steps is None:
            raise ValueError(
                f"`end_steps`={self.end_steps} needs `num_inference_steps`, received None: the model cannot see where "
                "a run ends. Pass the number of steps of your runs."
            )
        self._check_compute_steps()

    def _check_threshold(self) -> None:
        threshold = self.threshold
        if threshold is None:
            return
        if isinstance(threshold, bool) or not isinstance(threshold, (int, float)):
            raise TypeError(f"`threshold` must be a positive number or None, received {threshold!r}; pass a number.")
        if not 0 < threshold < math.inf:
            raise ValueError(f"`threshold` must be positive and finite, received {threshold}; 0.05 is a start.")

    def _check_compute_steps(self) -> None:
        steps = self.compute_steps
        if steps is None:
            return
        if not isinstance(steps, (list, tuple, range)):
            raise TypeError(f"`compute_steps` must be a list of step indices, received {steps!r}; pass a list.")
        if self.threshold is not None:
            raise ValueError(
                "`compute_steps` and `threshold` exclude each other, received both; drop the one that shall not decide."
            )
        whole = [step for step in steps if isinstance(step, int)]  # the plan refuses the others
        plan = CachePlan.from_steps(steps, num_base_steps=self.num_inference_steps or max([*whole, 0]) + 1)
        object.__setattr__(self, "compute_steps", plan.compute_steps)

    def resolved_quantity(self, prediction: str | None) -> str:
        """The quantity that is cached for a model of this prediction; None where no scheduler tells it."""
        if self.quantity is not None:
            return self.quantity
        if prediction is None:
            return "model_output"
        return "signal" if prediction == "epsilon" and self.threshold is None else "sample"

    @property
    def depth(self) -> int:
        """Number of computed outputs that are kept."""
        return self.order + (self.threshold is not None)

    def computes(self, step: int) -> bool:
        """Whether the plan calls the model at ``step``; with ``threshold``, whether it must."""
        if self.compute_steps is not None:
            return step in self.compute_steps
        warmup = min(self.order - 1, 1) if self.warmup_steps is None else self.warmup_steps
        if step < max(warmup, 1):
            return True
        if self.num_inference_steps is not None and step >= self.num_inference_steps - self.end_steps:
            return True
        return self.threshold is None and (step - warmup) % self.interval == 0
