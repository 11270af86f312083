"""`ab-schedulers calibrate`, and `bench calibration`: calibrated schedulers against the best stock solver."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ab_schedulers.bench.calibrated_quality import CONVERGED_CALLS, Cell, paired_quality
from ab_schedulers.bench.competitors import Competitor, competitors, placed_competitor
from ab_schedulers.bench.environment import fingerprint, read_json, write_json
from ab_schedulers.bench.methods import Contender
from ab_schedulers.bench.processes import own_path, process_rank, shared_map, written_paths
from ab_schedulers.bench.solver_results import OWN, Entry, Results, best
from ab_schedulers.bench.solvers import measure, run_solvers
from ab_schedulers.bench.subjects import ExactSubject, mixture_subject
from ab_schedulers.bench.tables import markdown_table
from ab_schedulers.bench.trials import prepare
from ab_schedulers.bench.user_pipelines import load_pipeline, read_runs
from ab_schedulers.calibration import Calibration, Trajectories, calibrate, record
from ab_schedulers.models import BUNDLED, load

_SEED = 70_000
MIXTURES = ("vp", "sd", "flow")
_PICTURE_STEPS = 20
"""Base steps whose pictures, beside those of the converged trajectories, are calibrated to for Fréchet distances."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelledModel:
    """A bundled model with the label of every trajectory, as the function that `calibrate` takes."""

    model: Any
    labels: torch.Tensor

    def __call__(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """The model's output."""
        output: torch.Tensor = self.model.predict(sample, timestep, self.labels)
        return output

    def of(self, chosen: torch.Tensor) -> LabelledModel:
        """The same for some of the trajectories."""
        return LabelledModel(model=self.model, labels=self.labels[chosen])


def calibration_inputs(model: Any, trajectories: int, seed: int) -> tuple[LabelledModel, torch.Tensor]:
    """Function and noise of a bundled model: every second class from class 0 on, so that the bench tests on others.

    An exact mixture has one class.
    """
    dtype = torch.float64 if isinstance(model, ExactSubject) else torch.float32
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(trajectories, *model.sample_shape, generator=generator, dtype=dtype)
    even = torch.arange(0, getattr(model, "num_classes", 1), 2)
    return LabelledModel(model=model, labels=even[torch.arange(trajectories) % len(even)]), noise


def calibrate_model(
    *,
    model: str,
    calls: Sequence[int],
    inputs: Path | None,
    trajectories: int,
    seed: int,
    num_base_steps: int | None,
    max_model_calls: int | None,
    references: Path | None,
    out: Path,
) -> str:
    """Calibrate a bundled model or a saved pipeline, and write the JSON file `out`.

    Raises:
        ValueError: neither a bundled model nor a pipeline's folder, or no runs for a pipeline.
    """
    options: dict[str, Any]
    if model in BUNDLED:
        bundled = load(model)
        pipe, noise = calibration_inputs(bundled, trajectories, seed)
        options = {"inputs": noise, "config": bundled.scheduler.config}
    else:
        pipe, options = load_pipeline(model), {"inputs": read_runs(inputs), "seed": seed}
    options["num_base_steps"] = num_base_steps
    known = None
    if references is not None:
        known = Trajectories.load(references) if references.exists() else record(pipe, **options)
        known.save(references)
    found = calibrate(pipe, calls, trajectories=known, max_model_calls=max_model_calls, **options)
    found.save(out)
    return f"{found}\n\n{found.report['model_calls']} model calls. Calibration: {out}"


def calibration(
    *,
    models: Sequence[str],
    calls: Sequence[int],
    trajectories: int,
    sets: int,
    samples: int,
    search_samples: int,
    out: Path,
    frechet_samples: int | None = None,
    mixtures: Sequence[str] = (),
) -> str:
    """Calibrate every model where `out` has no calibration yet, and compare with the best stock solver.

    Fit, hold-back and test share no seed, and the test's classes are not those of the fit.

    Args:
        models: bundled models.
        calls: numbers of model calls.
        trajectories: of the calibration, held-back ones included.
        sets: seed sets of the test.
        samples: trajectories per seed set.
        search_samples: trajectories that choose the stock settings that are tested.
        out: folder of the results.
        frechet_samples: samples per seed set for Fréchet distances, for which calls are calibrated to the scheduler's
            own 20 steps, too; None for none.
        mixtures: kinds of exact Gaussian mixtures, some of `MIXTURES`, instead of the models.

    Raises:
        ValueError: an unknown mixture, or Fréchet distances of mixtures.
    """
    loaded = _subjects(models, mixtures)
    if mixtures and frechet_samples:
        raise ValueError("--frechet-samples compares pictures, and mixtures have none; drop one of the two options.")
    results = Results.read(out / "solvers.json")
    targets: list[int | None] = [None, _PICTURE_STEPS] if frechet_samples else [None]

    def fit(name: str, count: int, target: int | None) -> tuple[Competitor, float | None]:
        found, seconds = calibrated_once(loaded[name], trajectories, count, out / "calibrations", target)
        return calibrated_competitor(found, loaded[name]), seconds

    def fit_once(cell: tuple[str, int, int | None]) -> None:
        fit(*cell)

    shared_map(fit_once, [(name, count, target) for name in loaded for count in calls for target in targets])
    rows, cells = [], []
    for name, model in loaded.items():
        _, finalists = run_solvers(model, calls, sets, samples, search_samples, results)
        stock = best(finalists)
        trial, note = prepare(model, sets, samples, out / "references")
        for count in calls:
            entry, placed = stock[name, count][0], placed_competitor(model.scheduler)
            (fitted, seconds), *others = (fit(name, count, target) for target in targets)
            ours, best_found = (measure(trial, one, count, results.entries) for one in (placed, fitted))
            rows.append(_row(entry, ours, best_found, seconds))
            cells.append(_cell(model, entry, [placed, fitted, *(other for other, _ in others)]))
        target = f"target {_number(_target(trial, model))}"
        rows.append([name, "reference", f"halving error {note['halving_error']:.4f}", "", "", target, "", ""])
    headers = ["model", "calls", "best stock solver", "its RMSE", "placed calls", "calibrated", "ratio", "seconds"]
    text = markdown_table(headers, rows)
    if process_rank() > 0:
        return ""
    (out / "calibration.md").write_text(text + "\n", encoding="utf-8")
    if frechet_samples:
        text += "\n\n" + paired_quality(cells, sets=sets, samples=frechet_samples, out=out)
    return f"{text}\n\nCalibrations: {out / 'calibrations'}"


def _subjects(models: Sequence[str], mixtures: Sequence[str]) -> dict[str, Any]:
    unknown = [kind for kind in mixtures if kind not in MIXTURES]
    if unknown:
        raise ValueError(f"--mixtures knows {', '.join(MIXTURES)}; received {', '.join(unknown)}")
    if mixtures:
        return {f"mixture-{kind}": mixture_subject(kind) for kind in mixtures}
    return {name: load(name) for name in models}


def calibrated_once(
    model: Any, trajectories: int, calls: int, folder: Path, num_base_steps: int | None = None
) -> tuple[Calibration, float | None]:
    """The calibration for one number of calls, from `folder` if it is there, and how long it took, if known.

    Args:
        model: bundled model or exact mixture.
        trajectories: of the calibration.
        calls: model calls.
        folder: where calibrations are kept.
        num_base_steps: steps of the run that it is to reproduce; None for converged trajectories.
    """
    function, noise = calibration_inputs(model, trajectories, _SEED)
    steps = () if num_base_steps is None else (num_base_steps,)
    mark = fingerprint(getattr(model, "model", None), trajectories, _SEED, calls, *steps)
    path = folder / f"{model.name}_{'_of_'.join(map(str, (calls, *steps)))}_{mark}.json"
    times = folder / "seconds.json"
    if not path.exists():
        started = time.perf_counter()
        found = calibrate(function, [calls], inputs=noise, config=model.scheduler.config, num_base_steps=num_base_steps)
        seconds = time.perf_counter() - started
        found.save(path)
        write_json(own_path(times), {**(read_json(own_path(times)) or {}), path.name: seconds})
    known = [read_json(part) for part in written_paths(times)]
    return Calibration.load(path), next((part[path.name] for part in known if path.name in part), None)


def calibrated_competitor(found: Calibration, model: Any) -> Competitor:
    """The model's scheduler with a calibration."""
    steps = found.report.get("num_base_steps")
    label = "calibrated" if steps is None else f"calibrated to {steps} steps"

    def make(count: int) -> Contender:
        return Contender(label=label, scheduler=found.scheduler(model.scheduler.config), num_inference_steps=count)

    return Competitor(group=OWN, solver=label, setting="", make=make)


def _cell(model: Any, stock: Entry, ours: Sequence[Competitor]) -> Cell:
    """What is compared by pictures: the stock solver first, and it with many calls."""
    solver = _named(stock, model)
    sides = [one.make(stock.calls) for one in (solver, *ours)]
    return Cell(model=model, sides=sides, converged=solver.make(CONVERGED_CALLS))


def _named(entry: Entry, model: Any) -> Competitor:
    """The stock solver that an entry measured."""
    names = (entry.group, entry.solver, entry.setting)
    return next(one for one in competitors(model.scheduler) if (one.group, one.solver, one.setting) == names)


def _target(trial: Any, model: Any) -> Entry:
    """The distance of what rows are fitted to, the calibration's own reference, from the bench's converged samples.

    Fitted rows come no nearer to the latter than that, but by chance.
    """
    function = LabelledModel(model=model, labels=trial.labels)
    found = record(function, inputs=trial.noise, config=model.scheduler.config)
    errors = trial.errors(found.final.view(trial.converged.shape))
    return Entry(
        subject=model.name,
        group=OWN,
        solver="reference",
        setting="",
        calls=len(found.alphas) - 1,
        fingerprint=trial.mark,
        errors=errors,
    )


def _number(entry: Entry) -> str:
    return f"{entry.error:.4f} ± {entry.spread:.4f}"


def _row(stock: Entry, ours: Entry, fitted: Entry, seconds: float | None) -> list[str]:
    return [
        stock.subject,
        str(stock.calls),
        f"{stock.solver}, {stock.setting}",
        _number(stock),
        _number(ours),
        _number(fitted),
        f"{fitted.error / stock.error:.2f}",
        "" if seconds is None else f"{seconds:.0f}",
    ]
