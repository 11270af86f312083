"""`ab-schedulers bench similarity`: how alike adjacent outputs are along a run, beside the formula for Gaussian data.

Everything is in the coordinates of `exact_flows`, where the output is `u = ε - x_0` at `r = sigma / (alpha + sigma)`.
For Gaussian data with the standard deviations `s_i` along its principal axes, `V_i = (1-r)^2 s_i^2 + r^2`,

    |du/dr|^2 = Σ_i s_i^4 / V_i^3,    |u|^2 = |mean|^2 + Σ_i V_i'^2 / (4 V_i)

(docs/theory/02-linear-relation.md). The variances are those of the model's own samples within each class.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from ab_schedulers.bench.extras import import_extra
from ab_schedulers.bench.mixtures import MixtureFlow
from ab_schedulers.bench.sampling import sample, seeded_noise
from ab_schedulers.bench.subjects import ExactSubject, Subject, mixture_subject
from ab_schedulers.bench.tables import text_table
from ab_schedulers.models import BUNDLED, load
from ab_schedulers.numerics import convert_quantity
from ab_schedulers.schedulers import ABCacheScheduler
from ab_schedulers.schedulers.base import PREDICTION_QUANTITIES
from ab_schedulers.schedulers.probe import ProbedRows, probe

SUBJECTS = (*BUNDLED, "mixture-vp", "mixture-flow")
_SPECTRUM_CALLS = 12
_SEED = 41_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Between adjacent calls: where, how fast the output changes, and how alike the outputs are.

    Attributes:
        places: `r` half way between the calls, from noise to data.
        speed: root mean square of `|Δu| / Δr` over the trajectories.
        speed_formula: the same for Gaussian data of the same variances.
        similarity: `1 - |Δu| / |u|`.
        similarity_formula: the same for Gaussian data.
    """

    places: tuple[float, ...]
    speed: tuple[float, ...]
    speed_formula: tuple[float, ...]
    similarity: tuple[float, ...]
    similarity_formula: tuple[float, ...]

    @property
    def correlation(self) -> float:
        """Correlation of the logarithms of speed and formula."""
        found = np.corrcoef(np.log(self.speed), np.log(self.speed_formula))
        return float(found[0, 1])

    def is_u_shaped(self) -> tuple[bool, bool]:
        """Whether speed and formula are larger at both ends than half way (means over a tenth of the run)."""
        part = max(1, len(self.places) // 10)
        middle = len(self.places) // 2 - part // 2

        def shaped(values: Sequence[float]) -> bool:
            means = [float(np.mean(values[start : start + part])) for start in (0, middle, len(values) - part)]
            return means[0] > means[1] < means[2]

        return shaped(self.speed), shaped(self.speed_formula)


class _Recorded:
    """A subject that keeps what it was given and what it answered."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.calls: list[tuple[torch.Tensor, torch.Tensor]] = []

    @property
    def name(self) -> str:
        return self.subject.name

    @property
    def scheduler(self) -> Any:
        return self.subject.scheduler

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return self.subject.sample_shape

    def predict(self, sample: torch.Tensor, timestep: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        output = self.subject.predict(sample, timestep, labels)
        self.calls.append((sample.flatten(1).double(), output.flatten(1).double()))
        return output


def curve(subject: Subject, *, steps: int, trajectories: int, spectrum_samples: int) -> Curve:
    """Measure a run of the stock scheduler with `steps` calls, and evaluate the formula on the subject's variances."""
    variances, square_mean = spectrum(subject, spectrum_samples)
    recorded = _Recorded(subject)
    sample(recorded, subject.scheduler, steps, *_noise(subject, trajectories))
    outputs, places = velocities(recorded, steps)
    middles, speeds, formulas, alike, alike_formula = [], [], [], [], []
    for i in range(steps - 1):
        width, middle = places[i] - places[i + 1], (places[i] + places[i + 1]) / 2
        change = float((outputs[i + 1] - outputs[i]).square().sum(dim=1).mean().sqrt())
        size = float((outputs[i] + outputs[i + 1]).div(2).square().sum(dim=1).mean().sqrt())
        spread = (1 - middle) ** 2 * variances + middle**2
        slope = middle - (1 - middle) * variances  # V' / 2
        expected = float((variances**2 / spread**3).sum().sqrt())
        expected_size = math.sqrt(square_mean + float((slope**2 / spread).sum()))
        middles.append(middle)
        speeds.append(change / width)
        formulas.append(expected)
        alike.append(1 - change / size)
        alike_formula.append(1 - expected * width / expected_size)
    return Curve(
        places=tuple(middles),
        speed=tuple(speeds),
        speed_formula=tuple(formulas),
        similarity=tuple(alike),
        similarity_formula=tuple(alike_formula),
    )


def spectrum(subject: Subject, count: int) -> tuple[torch.Tensor, float]:
    """Variances along the principal axes within a class, and the mean square size of the class means."""
    if isinstance(subject, ExactSubject):
        assert isinstance(subject.flow, MixtureFlow)
        data = subject.flow.draw(count, torch.Generator().manual_seed(_SEED))
        labels = torch.zeros(count, dtype=torch.long)
    else:
        noise, labels = _noise(subject, count, 1)
        scheduler = ABCacheScheduler.from_config(subject.scheduler.config)
        data = sample(subject, scheduler, _SPECTRUM_CALLS, noise, labels).images.flatten(1).double()
    means = torch.stack([data[labels == label].mean(dim=0) for label in range(int(labels.max()) + 1)])
    centred = data - means[labels]
    covariance = centred.T @ centred / (count - len(means))
    return torch.linalg.eigvalsh(covariance).clamp_min(0), float(means[labels].square().sum(dim=1).mean())


def velocities(recorded: _Recorded, steps: int) -> tuple[list[torch.Tensor], list[float]]:
    """Outputs as `ε - x_0`, and `r`, at every call."""
    levels = _levels(recorded.scheduler, steps)
    prediction = recorded.scheduler.config.get("prediction_type", "flow_prediction")
    if isinstance(recorded.subject, ExactSubject):
        prediction = recorded.subject.prediction_type
    outputs, places = [], []
    for (given, output), alpha, sigma in zip(recorded.calls, levels.alphas, levels.sigmas, strict=False):
        total = torch.zeros_like(output)
        for target, sign in (("epsilon", 1), ("sample", -1)):
            of_sample, of_output = _to(PREDICTION_QUANTITIES[prediction], target, alpha, sigma, levels.flow)
            total += sign * (of_sample * given + of_output * output)
        outputs.append(total)
        places.append(sigma / (alpha + sigma))
    return outputs, places


def _to(source: str, target: str, alpha: float, sigma: float, flow: bool) -> tuple[float, float]:
    pair: tuple[float, float] = convert_quantity(source, target, alpha, sigma, flow=flow)
    return pair


def _levels(scheduler: Any, steps: int) -> ProbedRows:
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        return probe(scheduler, steps, sigmas=np.linspace(1.0, 1.0 / steps, steps).tolist())
    return probe(scheduler, steps)


def _noise(subject: Subject, count: int, offset: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    dtype = torch.float64 if isinstance(subject, ExactSubject) else torch.float32
    return seeded_noise(subject, count, _SEED + offset, dtype)


def similarity(
    *, subjects: Sequence[str], steps: int, trajectories: int, spectrum_samples: int, json_file: Path | None = None
) -> str:
    """A table per subject: measured and predicted similarity and speed along the run; the curves to ``json_file``."""
    unknown = [name for name in subjects if name not in SUBJECTS]
    if unknown:
        raise ValueError(f"--subjects knows {', '.join(SUBJECTS)}; received {', '.join(unknown)}")
    if json_file is not None and not json_file.parent.is_dir():
        raise ValueError(f"--json: the folder {json_file.parent} does not exist; make it or name another file")
    progress = import_extra("tqdm", "the progress bar")
    curves: dict[str, Curve] = {}
    for name in progress.tqdm(list(subjects or SUBJECTS), desc="subjects", leave=False):
        subject = mixture_subject(name.removeprefix("mixture-")) if name.startswith("mixture") else load(name)
        curves[name] = curve(subject, steps=steps, trajectories=trajectories, spectrum_samples=spectrum_samples)
    if json_file is not None:
        settings = {"steps": steps, "trajectories": trajectories, "spectrum_samples": spectrum_samples}
        json_file.write_text(as_json(settings, curves), encoding="utf-8", newline="\n")
    return "\n\n".join(_report(name, found, steps, trajectories) for name, found in curves.items())


def as_json(settings: Mapping[str, int], curves: Mapping[str, Curve]) -> str:
    """Settings and curves to four digits, a line for each series; the theory pages draw them."""
    lines = [
        f'  "{name}": {{\n'
        + ",\n".join(f'    "{key}": {json.dumps([float(f"{v:.4g}") for v in values])}' for key, values in fields)
        + "\n  }"
        for name, fields in ((name, asdict(found).items()) for name, found in curves.items())
    ]
    return "{\n" + ",\n".join([f'  "settings": {json.dumps(settings)}', *lines]) + "\n}\n"


def _report(name: str, found: Curve, steps: int, trajectories: int) -> str:
    count = len(found.places)
    shown = sorted({0, count - 1, *(round(i * (count - 1) / 10) for i in range(11))})
    lines = [
        [
            f"{found.places[i]:.3f}",
            *(f"{values[i]:.4f}" for values in (found.similarity, found.similarity_formula)),
            *(f"{values[i]:.1f}" for values in (found.speed, found.speed_formula)),
        ]
        for i in shown
    ]
    shapes = ["U" if shaped else "no U" for shaped in found.is_u_shaped()]
    title = (
        f"{name}: {steps} calls, {trajectories} trajectories; correlation of the logarithms of |du/dr| "
        f"{found.correlation:.2f}; measured {shapes[0]}, formula {shapes[1]}"
    )
    headers = ["r", "similarity", "formula", "|du/dr|", "formula"]
    return title + "\n\n" + text_table(headers, lines)
