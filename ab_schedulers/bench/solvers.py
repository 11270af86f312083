"""`ab-schedulers bench solvers`: every stock solver at every setting against the cached schedulers, at equal calls.

All start from the same noise. The error is the RMSE to the converged trajectory of that noise, per seed set.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ab_schedulers.bench.competitors import Competitor, competitors
from ab_schedulers.bench.environment import chosen_device, fingerprint
from ab_schedulers.bench.extras import import_extra
from ab_schedulers.bench.image_mixtures import fashion_subject
from ab_schedulers.bench.methods import Contender
from ab_schedulers.bench.processes import process_count, process_rank, shared_map
from ab_schedulers.bench.solver_pictures import write_solver_pictures
from ab_schedulers.bench.solver_plots import write_diagrams
from ab_schedulers.bench.solver_results import SEARCH_SEED, Entry, Results, finalists
from ab_schedulers.bench.solver_tables import report
from ab_schedulers.bench.subjects import mixture_subject
from ab_schedulers.bench.trials import Trial, prepare
from ab_schedulers.bench.user_pipelines import PipelineSubject, load_pipeline, read_runs
from ab_schedulers.models import BUNDLED, load
from ab_schedulers.models.fashion_mnist import DEBIAN_DIRECTORY

CALLS = (5, 6, 8, 10, 12, 15, 20)
_EXACT = tuple(f"{family}-{kind}" for family in ("mixture", "fashion") for kind in ("vp", "sd", "flow"))
SUBJECTS = (*BUNDLED, *_EXACT)


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
        run = trial.run(contender)
    except Exception as error:  # whatever a peer raises is its result
        return Entry(**blank, fingerprint=trial.mark, refused=_reason(error))
    if run.model_calls > calls:
        return Entry(**blank, fingerprint=mark, refused=f"made {run.model_calls} calls")
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


def _reason(error: Exception) -> str:
    """Type and message on one line; the line that raised where there is no message."""
    message = str(error) or str(traceback.extract_tb(error.__traceback__)[-1].line)
    return f"{type(error).__name__}: {' '.join(message.split())}"


def _identity(contender: Contender) -> dict[str, Any]:
    """Class, options and number of steps of a contender, the same in every process."""
    scheduler = contender.scheduler
    options = {key: value for key, value in scheduler.config.items() if not key.startswith("_")}
    named = {key: getattr(value, "__qualname__", value) for key, value in options.items()}
    return {"class": type(scheduler).__name__, "steps": contender.num_inference_steps, **contender.grid, **named}


def run_solvers(
    subject: Any, calls: Sequence[int], sets: int, samples: int, search_samples: int, results: Results
) -> tuple[list[Entry], list[Entry]]:
    """Measure what `results` lacks; the entries of the search and those of the finalists.

    All methods run on `search_samples` trajectories, and the finalists on `sets` sets of `samples` others, so that
    being chosen does not flatter the chosen.
    """
    folder = results.path.parent / "references"
    everyone = [(competitor, count) for competitor in _competitors(subject) for count in calls]
    searched, _ = prepare(subject, 1, search_samples, folder, SEARCH_SEED)
    search = _measure_all(searched, everyone, results, "search")
    named = finalists(search)
    last = [(one, count) for one, count in everyone if (one.group, count, one.solver, one.setting) in named]
    trial, note = prepare(subject, sets, samples, folder)
    results.references[subject.name] = {**note, "searched": search_samples}
    return search, _measure_all(trial, last, results, "finalists")


def _competitors(subject: Any) -> list[Competitor]:
    return competitors(subject.scheduler, saved=isinstance(subject, PipelineSubject))


def _measure_all(trial: Trial, pairs: Sequence[tuple[Competitor, int]], results: Results, stage: str) -> list[Entry]:
    """Measure each of `pairs`, shared between the processes."""
    tqdm = import_extra("tqdm", "the progress bar").tqdm
    total = sum(count for _, count in pairs) // process_count()
    name = f"{trial.subject.name}, {stage}"
    with tqdm(total=total, unit="call", desc=name, dynamic_ncols=True, disable=process_rank() > 0) as progress:

        def one(pair: tuple[Competitor, int]) -> Entry:
            competitor, count = pair
            progress.set_postfix_str(f"{competitor.solver}, {competitor.setting}", refresh=False)
            entry = measure(trial, competitor, count, results.entries)
            if entry.key not in results.entries:
                results.add(entry)
            progress.update(count)
            return entry

        used = shared_map(one, pairs)
    results.merge(used)
    return used


def solvers(
    *,
    subjects: Sequence[str],
    calls: Sequence[int],
    sets: int,
    samples: int,
    search_samples: int,
    out: Path,
    pipeline: Path | None = None,
    inputs: Path | None = None,
    guidance: float | None = None,
    reference_steps: int = 500,
    data: Path = DEBIAN_DIRECTORY,
    device: str = "auto",
) -> str:
    """Measure what is missing, write `solvers.json`, tables and pictures to `out`, return the tables as text.

    Args:
        subjects: some of `SUBJECTS`; the bundled models when empty, without a `pipeline`.
        calls: numbers of model calls.
        sets: seed sets; the spread is taken over them.
        samples: trajectories per seed set, of a pipeline runs.
        search_samples: trajectories that choose the settings that are measured in full.
        out: folder of the results and of the converged trajectories.
        pipeline: folder of a saved pipeline.
        inputs: file with the arguments of the pipeline's runs, or its prompts.
        guidance: `guidance_scale` of all runs, instead of what `inputs` say.
        reference_steps: steps of the pipeline's converged trajectory.
        data: folder of Fashion-MNIST, for `fashion-vp` and `fashion-flow`.
        device: where the pipeline runs; `auto` is CUDA where there is one. All else runs on the processor.

    Raises:
        ValueError: unknown subject, no pipeline in the folder, or a file that holds no runs.
    """
    unknown = [name for name in subjects if name not in SUBJECTS]
    if unknown:
        raise ValueError(f"--subjects knows {', '.join(SUBJECTS)}; received {', '.join(unknown)}")
    if pipeline is None and (inputs is not None or guidance is not None):
        raise ValueError("--inputs and --guidance are those of a pipeline; name its folder with --pipeline")
    place = chosen_device(device)
    names = subjects or (BUNDLED if pipeline is None else ())
    chosen = [_subject(name, data) for name in names]
    if pipeline is not None:
        own = {} if guidance is None else {"guidance_scale": guidance}
        runs = [{**run, **own} for run in read_runs(inputs)]
        found = load_pipeline(pipeline).to(place)
        chosen.append(
            PipelineSubject(name=pipeline.resolve().name, pipe=found, inputs=runs, reference_steps=reference_steps)
        )
    return compare(chosen, calls=calls, sets=sets, samples=samples, search_samples=search_samples, out=out)


def _subject(name: str, data: Path) -> Any:
    family, _, kind = name.partition("-")
    if family == "mixture":
        return mixture_subject(kind)
    return fashion_subject(kind, data) if family == "fashion" else load(name)


def compare(
    subjects: Sequence[Any], *, calls: Sequence[int], sets: int, samples: int, search_samples: int, out: Path
) -> str:
    """`solvers` for subjects that are loaded already, a `PipelineSubject` among them."""
    results = Results.read(out / "solvers.json")
    parts = ["# Solvers at equal model calls"]
    for subject in subjects:
        search, last = run_solvers(subject, calls, sets, samples, search_samples, results)
        trial, _ = prepare(subject, sets, samples, out / "references")
        if process_rank() > 0:
            continue
        parts.append(report(search, last, results.references[subject.name]))
        write_diagrams(out / f"solvers_{subject.name}.png", search, last, sets * samples)
        parts += write_solver_pictures(out, trial, last, _competitors(subject))
    text = "\n\n".join(parts)
    if process_rank() > 0:
        return ""
    (out / "solvers.md").write_text(text + "\n", encoding="utf-8")
    return f"{text}\n\nResults: {results.path}"
