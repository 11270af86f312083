"""Converged trajectories: what the samplers would reach from the same noise with infinitely many steps.

Each comes with its own halving error, the RMSE to the same method with half the steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler
from safetensors import safe_open
from safetensors.torch import save_file

from ab_schedulers.bench.environment import fingerprint
from ab_schedulers.bench.metrics import rmse
from ab_schedulers.bench.sampling import sample
from ab_schedulers.bench.subjects import ExactSubject, Subject

VP_STEPS = 500
FLOW_STEPS = 500


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reference:
    """Final samples of converged trajectories.

    Attributes:
        images: (batch, …).
        halving_error: RMSE to the same method with half as many steps; 0 for exact subjects.
        method: how they were computed.
    """

    images: torch.Tensor
    halving_error: float
    method: str


def reference(
    subject: Subject,
    noise: torch.Tensor,
    labels: torch.Tensor,
    folder: Path,
    on_call: Callable[[], object] | None = None,
) -> Reference:
    """Converged trajectories from `noise`, kept in `folder` and read from there the next time.

    Exact subjects are solved by `ExactSubject.converged`, variance-preserving models by DPM-Solver++ 2M (Lu et al.
    2022, arXiv 2211.01095) on the trailing grid, flow models by the midpoint rule in sigma: a model's output ripples
    with a period of some six timesteps, so that many small steps of low order converge where few of high order do not.
    """
    if isinstance(subject, ExactSubject):
        first = 1000.0 if subject.prediction_type == "flow_prediction" else 999.0
        return Reference(images=subject.converged(noise, first), halving_error=0.0, method="DOP853")
    mark = fingerprint(getattr(subject, "model", None), noise.sum().item(), labels.tolist(), VP_STEPS, FLOW_STEPS)
    path = folder / f"{subject.name}_{mark}.safetensors"
    if path.exists():
        return _read(path)
    solve = _midpoint if _is_flow(subject.scheduler) else _dpmsolver
    steps = FLOW_STEPS if _is_flow(subject.scheduler) else VP_STEPS
    fine, coarse = (solve(subject, noise, labels, count, on_call) for count in (steps, steps // 2))
    method = f"midpoint rule, {steps} steps" if _is_flow(subject.scheduler) else f"DPM-Solver++ 2M, {steps} steps"
    result = Reference(images=fine, halving_error=rmse(fine, coarse), method=method)
    folder.mkdir(parents=True, exist_ok=True)
    notes = {"halving_error": repr(result.halving_error), "method": method}
    save_file({"images": fine.contiguous()}, str(path), metadata=notes)
    return result


def reference_calls(subject: Subject) -> int:
    """Model calls that `reference` needs, both step counts together."""
    if isinstance(subject, ExactSubject):
        return 0
    return 2 * (FLOW_STEPS + FLOW_STEPS // 2) if _is_flow(subject.scheduler) else VP_STEPS + VP_STEPS // 2


def _is_flow(scheduler: Any) -> bool:
    return "FlowMatch" in type(scheduler).__name__


def _read(path: Path) -> Reference:
    with safe_open(str(path), framework="pt") as stored:
        notes = stored.metadata()
        return Reference(
            images=stored.get_tensor("images"), halving_error=float(notes["halving_error"]), method=notes["method"]
        )


def _dpmsolver(
    subject: Subject, noise: torch.Tensor, labels: torch.Tensor, steps: int, on_call: Callable[[], object] | None
) -> torch.Tensor:
    scheduler = DPMSolverMultistepScheduler.from_config(subject.scheduler.config, timestep_spacing="trailing")
    return sample(subject, scheduler, steps, noise, labels, on_call=on_call).images


@torch.inference_mode()
def _midpoint(
    subject: Subject, noise: torch.Tensor, labels: torch.Tensor, steps: int, on_call: Callable[[], object] | None
) -> torch.Tensor:
    scale = subject.scheduler.config.num_train_timesteps

    def velocity(images: torch.Tensor, sigma: float) -> torch.Tensor:
        if on_call is not None:
            on_call()
        return subject.predict(images, torch.tensor(scale * sigma), labels)

    images, h = noise, -1.0 / steps
    for i in range(steps):
        sigma = 1.0 - i / steps
        middle = images + 0.5 * h * velocity(images, sigma)
        images = images + h * velocity(middle, sigma + 0.5 * h)
    return images
