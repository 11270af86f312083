"""`ab-schedulers bench solvers`: every stock solver at every setting against the cached schedulers, at equal calls.

All start from the same noise. The error is the RMSE to the converged trajectory of that noise, per seed set.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ab_schedulers.bench.environment import fingerprint
from ab_schedulers.bench.extras import import_extra
from ab_schedulers.bench.methods import DEFAULTS, PLACED, Contender, Method, cached
from ab_schedulers.bench.metrics import rmse
from ab_schedulers.bench.peers import FLOW_SHIFTS, peers
from ab_schedulers.bench.references import reference, reference_calls
from ab_schedulers.bench.sampling import sample, seeded_noise
from ab_schedulers.bench.solver_plots import write_diagrams
from ab_schedulers.bench.solver_results import FIRST_SEED, OWN, SEARCH_SEED, STOCK, Entry, Results, finalists
from ab_schedulers.bench.solver_tables import report
from ab_schedulers.bench.subjects import ExactSubject, Subject, mixture_subject
from ab_schedulers.models import BUNDLED, load

CALLS = (5, 6, 8, 10, 12, 15, 20)
SUBJECTS = (*BUNDLED, "mixture-vp", "mixture-flow")
_INTERVAL = 3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Competitor:
    """A method: a label, and a function that makes its scheduler for a number of model calls.

    Attributes:
        group: `STOCK` for schedulers of diffusers, `OWN` for ours.
        solver: name of the method.
        setting: what else was chosen; the best setting of a solver stands for it.
        make: scheduler and `num_inference_steps` for a number of model calls; a `ValueError` says why there is none.
    """

    group: str
    solver: str
    setting: str
    make: Callable[[int], Contender]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trial:
    """A subject with its noise, labels and converged trajectories, `sets` seed sets one after the other."""

    subject: Subject
    noise: torch.Tensor
    labels: torch.Tensor
    converged: torch.Tensor
    sets: int
    mark: str

    def errors(self, images: torch.Tensor) -> tuple[float, ...]:
        """RMSE of `images` to the converged trajectories, one per seed set."""
        pairs = zip(images.chunk(self.sets), self.converged.chunk(self.sets), strict=True)
        return tuple(rmse(found, exact) for found, exact in pairs)


def prepare(
    subject: Subject, sets: int, samples: int, folder: Path, first_seed: int = FIRST_SEED
) -> tuple[Trial, Mapping[str, Any]]:
    """Noise, labels and converged trajectories, and what the results say about the latter.

    Every second class is sampled, from class 1 on: a calibration that fits on the others has seen no label of these.
    """
    tqdm = import_extra("tqdm", "the progress bar").tqdm
    dtype = torch.float64 if isinstance(subject, ExactSubject) else torch.float32
    drawn = [seeded_noise(subject, samples, first_seed + i, dtype) for i in range(sets)]
    noise = torch.cat([noise for noise, _ in drawn])
    odd = torch.arange(1, max(2, int(getattr(subject, "num_classes", 1))), 2)
    labels = odd[torch.arange(len(noise)) % len(odd)]
    with tqdm(total=reference_calls(subject), unit="call", desc=f"{subject.name}, reference") as progress:
        found = reference(subject, noise, labels, folder, progress.update)
    mark = fingerprint(getattr(subject, "model", None), sets, samples, first_seed, labels.tolist(), found.method)
    note = {"method": found.method, "halving_error": found.halving_error, "sets": sets, "samples": samples}
    trial = Trial(subject=subject, noise=noise, labels=labels, converged=found.images, sets=sets, mark=mark)
    return trial, note


def competitors(stock: Any) -> list[Competitor]:
    """All peers and our defaults on the model of the scheduler `stock`; flow models with every shift."""

    def stock_one(peer: Any) -> Competitor:
        return Competitor(
            group=STOCK, solver=peer.solver, setting=peer.setting, make=lambda calls: peer.contender(stock, calls)
        )

    return [*map(stock_one, peers(stock)), *own_competitors(stock, DEFAULTS), placed_competitor(stock)]


def placed_competitor(stock: Any) -> Competitor:
    """The cached scheduler that places its calls, all else at its default."""
    return _own("placed calls", "one grid", PLACED, stock)


def own_competitors(stock: Any, method: Method) -> list[Competitor]:
    """The cached schedulers with the options of `method`: over DDIM and DPM-Solver++, or flow Euler at every shift."""
    import diffusers

    if "FlowMatch" in type(stock).__name__:
        bases = {f"shift {s:g}": type(stock).from_config(stock.config, shift=s) for s in FLOW_SHIFTS}
        return [_own(f"flow Euler, {method.label}", name, method, base) for name, base in bases.items()]
    multistep = diffusers.DPMSolverMultistepScheduler.from_config(stock.config, timestep_spacing="trailing")
    lu = diffusers.DPMSolverMultistepScheduler.from_config(multistep.config, use_lu_lambdas=True)
    return [
        _own(f"DDIM, {method.label}", "trailing", method, stock),
        _own(f"DPM++, {method.label}", "trailing", method, multistep),
        _own(f"DPM++, {method.label}", "lu", method, lu),
    ]


def _own(solver: str, setting: str, method: Method, base: Any) -> Competitor:
    return Competitor(
        group=OWN, solver=solver, setting=setting, make=lambda calls: cached(base, method, calls, _INTERVAL)
    )


def measure(trial: Trial, competitor: Competitor, calls: int, known: Mapping[Any, Entry]) -> Entry:
    """The entry of `competitor` at `calls` model calls, from `known` where it is there already."""
    blank: dict[str, Any] = {
        "subject": trial.subject.name,
        "group": competitor.group,
        "solver": competitor.solver,
        "setting": competitor.setting,
        "calls": calls,
    }
    try:
        contender = competitor.make(calls)
        mark = fingerprint(None, trial.mark, _identity(contender))
        entry = Entry(**blank, fingerprint=mark)
        if entry.key in known:
            return known[entry.key]
        steps = contender.num_inference_steps
        run = sample(trial.subject, contender.scheduler, steps, trial.noise, trial.labels, **contender.grid)
    except Exception as error:  # whatever a peer raises is its result
        return Entry(**blank, fingerprint=trial.mark, refused=f"{type(error).__name__}: {error}")
    errors = trial.errors(run.images)
    return Entry(
        **blank,
        fingerprint=mark,
        model_calls=run.model_calls,
        errors=errors,
        first_timestep=float(contender.scheduler.timesteps[0]),
        scheduler_ms=1000 * (run.seconds - run.model_seconds) / run.model_calls,
        model_ms=1000 * run.model_seconds / run.model_calls,
        refused="" if all(map(math.isfinite, errors)) else "the result is not finite",
    )


def _identity(contender: Contender) -> dict[str, Any]:
    """Class, options and number of steps of a contender, the same in every process."""
    scheduler = contender.scheduler
    options = {key: value for key, value in scheduler.config.items() if not key.startswith("_")}
    named = {key: getattr(value, "__qualname__", value) for key, value in options.items()}
    return {"class": type(scheduler).__name__, "steps": contender.num_inference_steps, **contender.grid, **named}


def run_solvers(
    subject: Subject, calls: Sequence[int], sets: int, samples: int, search_samples: int, results: Results
) -> tuple[list[Entry], list[Entry]]:
    """Measure what `results` lacks; the entries of the search and those of the finalists.

    All methods run on `search_samples` trajectories, and the finalists on `sets` sets of `samples` others, so that
    being chosen does not flatter the chosen.
    """
    folder = results.path.parent / "references"
    chosen = competitors(subject.scheduler)
    everyone = [(competitor, count) for competitor in chosen for count in calls]
    searched, _ = prepare(subject, 1, search_samples, folder, SEARCH_SEED)
    search = _measure_all(searched, everyone, results, "search")
    named = finalists(search)
    last = [(one, count) for one, count in everyone if (one.group, count, one.solver, one.setting) in named]
    trial, note = prepare(subject, sets, samples, folder)
    results.references[subject.name] = {**note, "searched": search_samples}
    return search, _measure_all(trial, last, results, "finalists")


def _measure_all(trial: Trial, pairs: Sequence[tuple[Competitor, int]], results: Results, stage: str) -> list[Entry]:
    tqdm = import_extra("tqdm", "the progress bar").tqdm
    used = []
    name = f"{trial.subject.name}, {stage}"
    with tqdm(total=sum(count for _, count in pairs), unit="call", desc=name, dynamic_ncols=True) as progress:
        for competitor, count in pairs:
            progress.set_postfix_str(f"{competitor.solver}, {competitor.setting}", refresh=False)
            entry = measure(trial, competitor, count, results.entries)
            if entry.key not in results.entries:
                results.add(entry)
            used.append(entry)
            progress.update(count)
    results.write()
    return used


def solvers(
    *, subjects: Sequence[str], calls: Sequence[int], sets: int, samples: int, search_samples: int, out: Path
) -> str:
    """Measure what is missing, write `solvers.json`, tables and pictures to `out`, return the tables as text.

    Args:
        subjects: bundled models, `mixture-vp`, `mixture-flow`; the bundled models when empty.
        calls: numbers of model calls.
        sets: seed sets; the spread is taken over them.
        samples: trajectories per seed set.
        search_samples: trajectories that choose the settings that are measured in full.
        out: folder of the results and of the converged trajectories.

    Raises:
        ValueError: unknown subject.
    """
    unknown = [name for name in subjects if name not in SUBJECTS]
    if unknown:
        raise ValueError(f"--subjects knows {', '.join(SUBJECTS)}; received {', '.join(unknown)}")
    chosen: list[Any] = [
        mixture_subject(name.removeprefix("mixture-")) if name.startswith("mixture") else load(name)
        for name in subjects or BUNDLED
    ]
    results = Results.read(out / "solvers.json")
    parts = ["# Solvers at equal model calls"]
    for subject in chosen:
        search, last = run_solvers(subject, calls, sets, samples, search_samples, results)
        parts.append(report(search, last, results.references[subject.name]))
        write_diagrams(out / f"solvers_{subject.name}.png", search, last, sets * samples)
    text = "\n\n".join(parts)
    (out / "solvers.md").write_text(text + "\n", encoding="utf-8")
    return f"{text}\n\nResults: {results.path}"
