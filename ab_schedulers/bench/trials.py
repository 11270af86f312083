"""Fixed starts and the converged trajectories from them, which every method is held to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ab_schedulers.bench.environment import fingerprint
from ab_schedulers.bench.extras import import_extra
from ab_schedulers.bench.methods import Contender
from ab_schedulers.bench.metrics import rmse
from ab_schedulers.bench.processes import process_count, process_rank
from ab_schedulers.bench.references import pipeline_reference, reference, reference_calls
from ab_schedulers.bench.sampling import SamplingRun, sample, seeded_noise
from ab_schedulers.bench.solver_results import FIRST_SEED
from ab_schedulers.bench.subjects import ExactSubject
from ab_schedulers.bench.user_pipelines import PipelineSubject, Start


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trial(ABC):
    """A subject with its converged trajectories, `sets` seed sets of equal size one after the other.

    Attributes:
        subject: what is sampled.
        converged: ends of the converged trajectories.
        sets: seed sets.
        mark: what identifies subject, starts and reference.
    """

    subject: Any
    converged: torch.Tensor
    sets: int
    mark: str

    @abstractmethod
    def run(self, contender: Contender) -> SamplingRun:
        """Sample from all starts."""

    @abstractmethod
    def first(self, count: int) -> Trial:
        """The first `count` starts alone, as one set."""

    def errors(self, images: torch.Tensor) -> tuple[float, ...]:
        """RMSE of `images` to the converged trajectories, one per seed set."""
        pairs = zip(images.chunk(self.sets), self.converged.chunk(self.sets), strict=True)
        return tuple(rmse(found, exact) for found, exact in pairs)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ModelTrial(Trial):
    """A bundled model or an exact flow, with noise and labels."""

    noise: torch.Tensor
    labels: torch.Tensor

    def run(self, contender: Contender) -> SamplingRun:
        """Sample from all noises in one batch."""
        steps = contender.num_inference_steps
        return sample(self.subject, contender.scheduler, steps, self.noise, self.labels, **contender.grid)

    def first(self, count: int) -> ModelTrial:
        """The first noises and labels."""
        return ModelTrial(
            subject=self.subject,
            converged=self.converged[:count],
            sets=1,
            mark=self.mark,
            noise=self.noise[:count],
            labels=self.labels[:count],
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PipelineTrial(Trial):
    """A pipeline with the seeds and inputs of its runs."""

    starts: tuple[Start, ...]

    def run(self, contender: Contender) -> SamplingRun:
        """Run the pipeline once for every start."""
        return self.subject.run(contender, self.starts)  # type: ignore[no-any-return]

    def first(self, count: int) -> PipelineTrial:
        """The first runs."""
        pictures = len(self.converged) // len(self.starts)
        return PipelineTrial(
            subject=self.subject,
            converged=self.converged[: count * pictures],
            sets=1,
            mark=self.mark,
            starts=self.starts[:count],
        )


def prepare(
    subject: Any, sets: int, samples: int, folder: Path, first_seed: int = FIRST_SEED
) -> tuple[Trial, Mapping[str, Any]]:
    """Starts and converged trajectories, and what the results say about the latter.

    Args:
        subject: bundled model, exact flow or pipeline.
        sets: seed sets.
        samples: trajectories per seed set, of a pipeline runs.
        folder: where converged trajectories are kept.
        first_seed: the first set's.
    """
    if isinstance(subject, PipelineSubject):
        return _prepare_pipeline(subject, sets, samples, folder, first_seed)
    return prepare_model(subject, sets, samples, folder, first_seed)


def prepare_model(
    subject: Any, sets: int, samples: int, folder: Path, first_seed: int = FIRST_SEED
) -> tuple[ModelTrial, Mapping[str, Any]]:
    """`prepare` for a bundled model or an exact flow.

    Every second class is sampled, from class 1 on: a calibration that fits on the others has seen no label of these.
    """
    dtype = torch.float64 if isinstance(subject, ExactSubject) else torch.float32
    drawn = [seeded_noise(subject, samples, first_seed + i, dtype) for i in range(sets)]
    noise = torch.cat([noise for noise, _ in drawn])
    odd = torch.arange(1, max(2, int(getattr(subject, "num_classes", 1))), 2)
    labels = odd[torch.arange(len(noise)) % len(odd)]
    with _progress(subject, reference_calls(subject)) as progress:
        found = reference(subject, noise, labels, folder, progress.update)
    known = [subject.mark] if hasattr(subject, "mark") else []
    model = getattr(subject, "model", None)
    mark = fingerprint(model, sets, samples, first_seed, labels.tolist(), found.method, *known)
    note = {"method": found.method, "halving_error": found.halving_error, "sets": sets, "samples": samples}
    trial = ModelTrial(subject=subject, converged=found.images, sets=sets, mark=mark, noise=noise, labels=labels)
    return trial, note


def _prepare_pipeline(
    subject: PipelineSubject, sets: int, samples: int, folder: Path, first_seed: int
) -> tuple[PipelineTrial, Mapping[str, Any]]:
    starts = tuple(Start(seed=first_seed + i, place=i % len(subject.inputs)) for i in range(sets * samples))
    calls = len(starts) * reference_calls(subject, subject.reference_steps)
    with _progress(subject, calls) as progress:
        found = pipeline_reference(subject, starts, folder, progress.update)
    mark = fingerprint(None, subject.mark, sets, [start.seed for start in starts], found.method)
    size = len(found.images) // sets
    note = {"method": found.method, "halving_error": found.halving_error, "sets": sets, "samples": size}
    return PipelineTrial(subject=subject, converged=found.images, sets=sets, mark=mark, starts=starts), note


def _progress(subject: Any, calls: int) -> Any:
    tqdm = import_extra("tqdm", "the progress bar").tqdm
    name = f"{subject.name}, reference"
    return tqdm(total=calls // process_count(), unit="call", desc=name, dynamic_ncols=True, disable=process_rank() > 0)
