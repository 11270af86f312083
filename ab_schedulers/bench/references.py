"""Converged trajectories: what the samplers would reach from the same noise with infinitely many steps.

Each comes with its own halving error, the RMSE to the same method with half the steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler
from safetensors import safe_open
from safetensors.torch import save_file

from ab_schedulers.bench.environment import fingerprint
from ab_schedulers.bench.methods import Contender
from ab_schedulers.bench.metrics import rmse
from ab_schedulers.bench.midpoint import FlowMatchMidpointScheduler
from ab_schedulers.bench.peers import is_flow, noise_schedule
from ab_schedulers.bench.processes import from_first, process_rank, shared_map
from ab_schedulers.bench.sampling import sample
from ab_schedulers.bench.subjects import ExactSubject, Subject
from ab_schedulers.bench.user_pipelines import SAME_SHAPE, PipelineSubject, Start

VP_STEPS = 500
FLOW_STEPS = 500
# What makes DPM-Solver++ 2M of any config the plain one on the trailing grid.
_PLAIN: Mapping[str, Any] = {
    "timestep_spacing": "trailing",
    "algorithm_type": "dpmsolver++",
    "solver_order": 2,
    "final_sigmas_type": "zero",
    "lower_order_final": True,
    **dict.fromkeys(
        (
            "use_karras_sigmas",
            "use_exponential_sigmas",
            "use_beta_sigmas",
            "use_lu_lambdas",
            "euler_at_final",
            "thresholding",
        ),
        False,
    ),
    "variance_type": None,
    "lambda_min_clipped": -math.inf,
}
_Run = Callable[[Any, int, Any], torch.Tensor]


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
    2022, arXiv 2211.01095) on the trailing grid, flow models by the midpoint rule in sigma.
    """
    if isinstance(subject, ExactSubject):
        first = 1000.0 if subject.prediction_type == "flow_prediction" else 999.0
        return Reference(images=subject.converged(noise, first), halving_error=0.0, method="DOP853")
    mark = fingerprint(getattr(subject, "model", None), noise.sum().item(), labels.tolist(), VP_STEPS, FLOW_STEPS)

    def run(scheduler: Any, steps: int, part: None) -> torch.Tensor:
        return sample(subject, scheduler, steps, noise, labels, on_call=on_call).images

    steps = FLOW_STEPS if is_flow(subject.scheduler) else VP_STEPS
    return _kept(folder / f"{subject.name}_{mark}.safetensors", subject.scheduler, run, [None], steps)


def pipeline_reference(
    subject: PipelineSubject,
    starts: Sequence[Start],
    folder: Path,
    on_call: Callable[[], object] | None = None,
) -> Reference:
    """The same for a pipeline, by whole runs of it with `subject.reference_steps` steps and with half of them."""
    mark = fingerprint(None, subject.mark, [(start.seed, start.place) for start in starts], subject.reference_steps)

    def run(scheduler: Any, steps: int, start: Start) -> torch.Tensor:
        contender = Contender(label="reference", scheduler=scheduler, num_inference_steps=steps)
        return subject.run(contender, [start], on_call).images

    path = folder / f"{subject.name}_{mark}.safetensors"
    return _kept(path, subject.scheduler, run, starts, subject.reference_steps)


def reference_calls(subject: Any, steps: int | None = None) -> int:
    """Model calls that a reference needs, both step counts together; `steps` as in a bundled model's if not given."""
    if isinstance(subject, ExactSubject):
        return 0
    flow = is_flow(subject.scheduler)
    count = steps or (FLOW_STEPS if flow else VP_STEPS)
    return (2 if flow else 1) * (count + count // 2)


def _kept(path: Path, stock: Any, run: _Run, parts: Sequence[Any], steps: int) -> Reference:
    """What `path` holds, else what `run` finds for all parts with `steps` and with half of them."""
    known = from_first(lambda: _read(path) if path.exists() else None)
    if known is not None:
        return known
    flow = is_flow(stock)

    def solve(task: tuple[int, Any]) -> torch.Tensor:
        count, part = task
        if flow:
            return run(FlowMatchMidpointScheduler(num_train_timesteps=stock.config.num_train_timesteps), count, part)
        return run(DPMSolverMultistepScheduler.from_config(noise_schedule(stock), **_PLAIN), count, part)

    found = shared_map(solve, [(count, part) for count in (steps, steps // 2) for part in parts])
    shapes = sorted({tuple(images.shape) for images in found})
    if len(shapes) > 1:
        raise ValueError(f"the runs end in samples of shapes {shapes}; {SAME_SHAPE}")
    fine, coarse = torch.cat(found[: len(parts)]), torch.cat(found[len(parts) :])
    method = f"{'midpoint rule' if flow else 'DPM-Solver++ 2M'}, {steps} steps"
    result = Reference(images=fine, halving_error=rmse(fine, coarse), method=method)
    if process_rank() == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        notes = {"halving_error": repr(result.halving_error), "method": method}
        save_file({"images": fine.contiguous()}, str(path), metadata=notes)
    return result


def _read(path: Path) -> Reference:
    with safe_open(str(path), framework="pt") as stored:
        notes = stored.metadata()
        return Reference(
            images=stored.get_tensor("images"), halving_error=float(notes["halving_error"]), method=notes["method"]
        )
