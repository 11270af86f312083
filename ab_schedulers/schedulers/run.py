"""One run: the rows of its calls, the outputs it has recorded, and what a step does with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ab_schedulers.numerics import Row

from .combination import Scaled, weighted_sum

EXCERPT_SIZE = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What one model call leaves.

    Args:
        quantity: The cached quantity.
        base_output: The base sampler's output, where it is not the cached quantity.
        residual: What clipping adds to the clean sample, where it acts on this call's first step alone.
        clean: The clean sample, clipped where the config asks for it.
        unbounded: The clean sample before clipping, where clipping could hide values that are not finite.
    """

    quantity: Scaled
    base_output: Scaled | None = None
    residual: torch.Tensor | None = None
    clean: torch.Tensor | None = None
    unbounded: torch.Tensor | None = None


@dataclass(slots=True, kw_only=True)
class CachedRun:
    """A run from ``first_call`` on, which begins with an empty history.

    Args:
        timesteps: Timesteps of all calls of the plan.
        first_call: The call at which the run began or its history was reset.
        quantity: What ``history`` holds.
        rows: One row per call from ``first_call`` on.
        conversions: Scalars per call from ``first_call`` on that turn sample and model output into the cached quantity.
        calibrated: Whether the rows were fitted.
        history: Cached quantities, newest first, no more than the remaining rows touch.
        base_history: Base outputs, newest first, where the cached quantity is not the base sampler's.
        excerpts: A regular excerpt of every recorded output and base output, for the error estimates.
        spare: The output that the last call's row was the last to touch: memory for the next one.
        finite: Per recorded call, on accelerators: whether the new sample was finite (read after the last call).
        kept: How many outputs and base outputs the rows after each call still touch; one output at least.
    """

    timesteps: Sequence[float]
    first_call: int
    quantity: str
    rows: tuple[Row, ...]
    conversions: tuple[tuple[float, float], ...]
    calibrated: bool = False
    history: list[Scaled] = field(default_factory=list)
    base_history: list[Scaled] = field(default_factory=list)
    excerpts: list[tuple[Scaled, Scaled | None]] = field(default_factory=list)
    finite: list[torch.Tensor] = field(default_factory=list)
    spare: torch.Tensor | None = None
    kept: tuple[tuple[int, int], ...] = field(init=False)

    def __post_init__(self) -> None:
        self.kept = _depths_after(self.rows)

    @property
    def next_call(self) -> int:
        """The call that the run expects."""
        return self.first_call + len(self.excerpts)

    def check_shapes(self, model_output: torch.Tensor, sample: torch.Tensor) -> None:
        """Refuse shapes that disagree with each other or with earlier calls."""
        earlier = self.history[0].tensor.shape if self.history else sample.shape
        if not model_output.shape == sample.shape == earlier:
            known = f", earlier calls of this run {tuple(earlier)}" if self.history else ""
            raise ValueError(
                f"`model_output` and `sample` must have one shape throughout a run, received "
                f"{tuple(model_output.shape)} and {tuple(sample.shape)}{known}; call set_timesteps before a new run."
            )

    def check_call(self, call: int, timestep: Any, published: torch.Tensor) -> None:
        """Refuse a call out of turn, and a timestep that belongs to another call.

        A timestep on an accelerator is identified by its place in ``published``, without waiting for its value.
        """
        if call != self.next_call:
            raise ValueError(
                f"`step` expects call {self.next_call}, but the step index was set to {call}: more than one step per "
                "model call is not supported. Use the stock scheduler for this pipeline."
            )
        if isinstance(timestep, torch.Tensor):
            if timestep.numel() != 1:
                return
            if timestep.device.type == "cpu":
                timestep = timestep.item()
            elif timestep.untyped_storage().data_ptr() == published.untyped_storage().data_ptr():
                timestep = self.timesteps[int(timestep.storage_offset())]
            else:
                return
        if timestep != self.timesteps[call] and timestep in self.timesteps:
            raise ValueError(
                f"`timestep` {timestep} belongs to call {self.timesteps.index(timestep)}, but this is call {call} at "
                f"timestep {self.timesteps[call]}; pass the entries of `timesteps` in order, or call set_timesteps "
                "before a new run."
            )

    def advance(
        self,
        observed: Observed,
        model_output: torch.Tensor,
        sample: torch.Tensor,
        precise: torch.Tensor,
        noise: torch.Tensor | None,
    ) -> torch.Tensor:
        """``a sample + Σ_j b_j history_j`` with the new output in front; records it if the result is finite.

        Args:
            observed: What this call leaves.
            model_output: The model's output, to name the culprit of a value that is not finite.
            sample: The sample as it was given; the result has its dtype.
            precise: The sample in float32 or better; overwritten where it is a copy.
            noise: Standard normal noise of the window, or None.

        Raises:
            ValueError: If the result is not finite; on accelerators only at the last call.
        """
        row = self.rows[self.next_call - self.first_call]
        history, base_history = [observed.quantity, *self.history], self.base_history
        terms = _terms(row.history, history)
        if observed.base_output is not None:
            base_history = [observed.base_output, *base_history]
            terms += _terms(row.base_history, base_history)
        # Taken now, while the new output is still in the processor's cache.
        excerpt = _excerpt(observed.quantity), _excerpt(base_history[0]) if base_history else None
        if observed.residual is not None:
            terms.append((row.clip, observed.residual))
        if noise is not None:
            terms.append((math.sqrt(row.variance), noise))
        total = weighted_sum(row.sample, precise, terms, overwrite=precise is not sample)
        result = total.to(sample.dtype)
        checked = [result if sample.dtype == torch.float16 else total]  # float16 has less range than float32
        if observed.unbounded is not None:
            checked.append(observed.unbounded)
        self._check_finite(checked, model_output, sample)
        depth, base_depth = self.kept[len(self.excerpts)]
        self.excerpts.append(excerpt)
        self.spare = history[depth].tensor if depth < min(len(history), len(row.history)) else None
        self.history, self.base_history = history[:depth], base_history[:base_depth]
        return result

    def _check_finite(self, checked: list[torch.Tensor], model_output: torch.Tensor, sample: torch.Tensor) -> None:
        """One reduction a call; on accelerators it is read after the last call, where the host waits anyway."""
        sums = [tensor.sum(dtype=torch.promote_types(tensor.dtype, torch.float32)) for tensor in checked]
        total = sums[0] if len(sums) == 1 else sums[0] + sums[1]
        if sample.device.type == "cpu":
            if not math.isfinite(total.item()):
                culprits = [n for n, x in (("model_output", model_output), ("sample", sample)) if not _all_finite(x)]
                self._raise_not_finite(" and ".join(f"`{n}`" for n in culprits) or "the new sample", self.next_call)
            return
        flags = [*self.finite, torch.isfinite(total)]
        if len(flags) == len(self.rows):
            verdicts = torch.stack(flags).tolist()
            if not all(verdicts):
                self._raise_not_finite("`model_output` or `sample`", self.first_call + verdicts.index(False))
        self.finite = flags

    def _raise_not_finite(self, culprit: str, call: int) -> None:
        raise ValueError(
            f"{culprit} holds values that are not finite at call {call} (timestep {self.timesteps[call]}), expected "
            "finite values; check the model and its precision."
        )


def _depths_after(rows: Sequence[Row]) -> tuple[tuple[int, int], ...]:
    depths = []
    deepest, base_deepest = 2, 1
    for row in reversed(rows):
        depths.append((deepest - 1, base_deepest - 1))
        deepest, base_deepest = max(deepest, len(row.history)), max(base_deepest, len(row.base_history))
    return tuple(reversed(depths))


def _terms(weights: Sequence[float], outputs: Sequence[Scaled]) -> list[tuple[float, torch.Tensor]]:
    return [(weight * output.factor, output.tensor) for weight, output in zip(weights, outputs, strict=False)]


def _all_finite(tensor: torch.Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


def _excerpt(output: Scaled) -> Scaled:
    stride = -(-output.tensor.numel() // EXCERPT_SIZE)
    return Scaled(factor=output.factor, tensor=output.tensor.reshape(-1)[:: max(stride, 1)].clone())
