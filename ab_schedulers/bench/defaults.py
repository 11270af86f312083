"""`ab-schedulers bench defaults`: errors of every quantity, variable, order and corrector, to choose defaults by.

Every subject is sampled from the same noise with every combination at several numbers of model calls. Two errors are
recorded: to the converged trajectory, and to the base sampler's result on the same base grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler

from ab_schedulers.bench.defaults_tables import EQUAL_CALLS, report
from ab_schedulers.bench.environment import environment, fingerprint, read_json, write_json
from ab_schedulers.bench.extras import import_extra
from ab_schedulers.bench.methods import DEFAULTS, HOLD, REUSE, Contender, Method, base, cached
from ab_schedulers.bench.metrics import rmse
from ab_schedulers.bench.references import Reference, reference, reference_calls
from ab_schedulers.bench.sampling import sample, seeded_noise
from ab_schedulers.bench.subjects import ExactSubject, Subject, mixture_subject
from ab_schedulers.models import BUNDLED, load

SUBJECTS = (*BUNDLED, "mixture-vp", "mixture-flow")
INTERVAL = 3
_SEED = 20_000
_EXACT_FACTOR = 16
_VARIABLES = ("index", "timestep", "lambda")
_CORRECTORS: dict[int, tuple[int | None, ...]] = {1: (2, 3), 2: (None, 2, 3, 4), 3: (None, 2, 3, 4), 4: (None, 3, 4)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One measurement; both errors are `None` where the scheduler refuses the options, `refused` says why."""

    subject: str
    base: str
    label: str
    calls: int
    fingerprint: str
    rmse_converged: float | None = None
    rmse_base: float | None = None
    refused: str = ""

    @property
    def key(self) -> tuple[str, str, str, int, str]:
        """What identifies the measurement."""
        return (self.subject, self.base, self.label, self.calls, self.fingerprint)


@dataclass(slots=True, kw_only=True, eq=False)
class Trial:
    """A subject with its noise, its converged trajectories and the base results that were already computed."""

    subject: Subject
    noise: torch.Tensor
    labels: torch.Tensor
    reference: Reference
    base_results: dict[tuple[str, int], torch.Tensor] = field(default_factory=dict)


def methods(quantities: Sequence[str]) -> list[Method]:
    """Plain reuse, hold, the defaults with and without warm-up, and every combination."""
    chosen = [REUSE, HOLD, DEFAULTS]
    chosen += [Method(label=f"defaults, warm-up {calls}", options={"warmup_calls": calls}) for calls in (1, 2)]
    for quantity in quantities:
        chosen.append(_combination(quantity, "index", 1, None))
        for variable in _VARIABLES:
            for order, correctors in _CORRECTORS.items():
                chosen += [_combination(quantity, variable, order, corrector) for corrector in correctors]
    return chosen


def _combination(quantity: str, variable: str, order: int, corrector: int | None) -> Method:
    options = {
        "cache_quantity": quantity,
        "cache_variable": variable,
        "cache_order": order,
        "cache_corrector": corrector,
    }
    return Method(label=f"{quantity}, {variable}, order {order}, corrector {corrector or '-'}", options=options)


def bases(subject: Subject) -> dict[str, Any]:
    """Stock schedulers that the subject is sampled with, by the name of the base."""
    if "FlowMatch" in type(subject.scheduler).__name__:
        return {"flow": subject.scheduler}
    return {
        "ddim": subject.scheduler,
        "dpmsolver": DPMSolverMultistepScheduler.from_config(subject.scheduler.config),
    }


def defaults(*, subjects: Sequence[str], calls: Sequence[int], samples: int, out: Path) -> str:
    """Measure what is missing in `out/defaults.json`, write `out/defaults.md` and return its text.

    Args:
        subjects: bundled models, `mixture-vp`, `mixture-flow`; all of them when empty.
        calls: numbers of model calls.
        samples: trajectories per bundled model; the cheap exact subjects get 16 times as many.
        out: folder of the results and of the converged trajectories.

    Raises:
        ValueError: unknown subject.
    """
    unknown = [name for name in subjects if name not in SUBJECTS]
    if unknown:
        raise ValueError(f"--subjects knows {', '.join(SUBJECTS)}; received {', '.join(unknown)}")
    path = out / "defaults.json"
    stored = read_json(path) or {"entries": [], "references": {}}
    entries = {entry.key: entry for entry in (Entry(**item) for item in stored["entries"])}
    used: list[Entry] = []
    for name in subjects or SUBJECTS:
        subject: Any = mixture_subject(name.removeprefix("mixture-")) if name.startswith("mixture") else load(name)
        trial = _prepare(subject, samples, out)
        stored["references"][name] = {
            "method": trial.reference.method,
            "halving_error": trial.reference.halving_error,
            "samples": len(trial.noise),
        }
        used += _measure_subject(trial, calls, entries)
        content = {"environment": environment(), "references": stored["references"]}
        write_json(path, {**content, "entries": [asdict(entry) for entry in entries.values()]})
    text = report(used, stored["references"])
    (out / "defaults.md").write_text(text + "\n", encoding="utf-8")
    return f"{text}\n\nResults: {path}"


def _prepare(subject: Any, samples: int, out: Path) -> Trial:
    tqdm = import_extra("tqdm", "the progress bar").tqdm
    dtype = torch.float64 if isinstance(subject, ExactSubject) else torch.float32
    count = samples * (_EXACT_FACTOR if isinstance(subject, ExactSubject) else 1)
    noise, labels = seeded_noise(subject, count, _SEED, dtype)
    with tqdm(total=reference_calls(subject), unit="call", desc=f"{subject.name}, reference") as progress:
        converged = reference(subject, noise, labels, out / "references", progress.update)
    return Trial(subject=subject, noise=noise, labels=labels, reference=converged)


def _measure_subject(trial: Trial, calls: Sequence[int], entries: dict[Any, Entry]) -> list[Entry]:
    tqdm = import_extra("tqdm", "the progress bar").tqdm
    is_flow = "flow" in bases(trial.subject)
    chosen = methods(("velocity", "sample", "epsilon") if is_flow else ("epsilon", "sample", "velocity"))
    used = []
    total = len(bases(trial.subject)) * (len(chosen) + 1) * sum(calls)
    with tqdm(total=total, unit="call", desc=trial.subject.name, dynamic_ncols=True) as progress:
        for base_name, stock in bases(trial.subject).items():
            for count in calls:
                contenders = [base(stock, count), *[cached(stock, method, count, INTERVAL) for method in chosen]]
                for i, contender in enumerate(contenders):
                    label = EQUAL_CALLS if i == 0 else contender.label
                    entry = _measure(trial, base_name, stock, label, contender, entries)
                    entries[entry.key] = entry
                    used.append(entry)
                    progress.update(count)
    return used


def _measure(
    trial: Trial, base_name: str, stock: Any, label: str, contender: Contender, entries: dict[Any, Entry]
) -> Entry:
    options = {key: value for key, value in contender.scheduler.config.items() if not key.startswith("_")}
    mark = fingerprint(getattr(trial.subject, "model", None), options, len(trial.noise))
    calls = contender.num_inference_steps
    blank = Entry(subject=trial.subject.name, base=base_name, label=label, calls=calls, fingerprint=mark)
    if blank.key in entries:
        return entries[blank.key]
    try:
        run = sample(trial.subject, contender.scheduler, calls, trial.noise, trial.labels)
    except ValueError as error:
        return Entry(**{**asdict(blank), "refused": str(error)})
    steps = calls * INTERVAL if label == EQUAL_CALLS else contender.scheduler.plan.num_base_steps
    fine = _base_result(trial, base_name, stock, steps)
    errors = {"rmse_converged": rmse(run.images, trial.reference.images), "rmse_base": rmse(run.images, fine)}
    return Entry(**{**asdict(blank), **errors})


def _base_result(trial: Trial, base_name: str, stock: Any, steps: int) -> torch.Tensor:
    key = (base_name, steps)
    if key not in trial.base_results:
        contender = base(stock, steps)
        trial.base_results[key] = sample(trial.subject, contender.scheduler, steps, trial.noise, trial.labels).images
    return trial.base_results[key]
