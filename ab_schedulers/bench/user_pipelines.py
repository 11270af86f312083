"""A user's pipeline as a subject: loaded from a folder, run as a black box, its own loop and guidance included."""

from __future__ import annotations

import copy
import functools
import inspect
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ab_schedulers.bench.environment import fingerprint, read_json
from ab_schedulers.bench.methods import Contender
from ab_schedulers.bench.sampling import SamplingRun
from ab_schedulers.models import BUNDLED

SAME_SHAPE = "expected one shape. Give all runs the same size and the same number of pictures."
_FIXED = ("latents", "num_inference_steps", "sigmas", "timesteps")


def load_pipeline(path: Path | str) -> Any:
    """The saved pipeline in the folder `path`.

    Raises:
        ValueError: no pipeline was saved there.
    """
    from diffusers import DiffusionPipeline

    if not (Path(path) / "model_index.json").is_file():
        raise ValueError(
            f"{str(path)!r} is neither a bundled model ({', '.join(BUNDLED)}) nor the folder of a saved pipeline; "
            "pass one."
        )
    return DiffusionPipeline.from_pretrained(path)


def read_runs(path: Path | None) -> list[dict[str, Any]]:
    """Arguments of a pipeline's runs: a JSON list of them, or in a file `*.txt` one prompt per line.

    Raises:
        ValueError: no file, or not such a one.
    """
    if path is None:
        raise ValueError(
            'a pipeline needs --inputs FILE, a JSON list of the arguments of its runs, such as [{"prompt": "a boat"}], '
            "or a text file with one prompt per line."
        )
    if path.suffix == ".txt":
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        content: Any = [{"prompt": line} for line in lines if line]
    else:
        content = read_json(path)
    if not (isinstance(content, list) and content and all(isinstance(item, dict) for item in content)):
        raise ValueError(
            f"{path} must hold a JSON list of the arguments of the pipeline's runs, at least one of them; write such "
            "a file."
        )
    return content


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Where a run begins: seed of its noise, and place of its arguments in the list of inputs."""

    seed: int
    place: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PipelineSubject:
    """A pipeline with the inputs of its runs.

    Attributes:
        name: as printed in tables and used in file names.
        pipe: a diffusers pipeline; its scheduler is exchanged for each run and put back after it.
        inputs: keyword arguments of its call, one mapping per run; a run may make several pictures.
        reference_steps: steps of the converged trajectory.
        mark: what identifies weights and inputs.
    """

    name: str
    pipe: Any
    inputs: Sequence[Mapping[str, Any]]
    reference_steps: int = 500
    mark: str = field(default="", init=False)

    def __post_init__(self) -> None:
        fixed = sorted({key for inputs in self.inputs for key in inputs if key in _FIXED})
        if fixed or not self.inputs:
            raise ValueError(
                f"expected at least one run that leaves {', '.join(_FIXED)} to the comparison; received "
                f"{len(self.inputs)} with {', '.join(fixed) or 'no arguments'}. Change the inputs."
            )
        modules = [part for _, part in sorted(self.pipe.components.items()) if isinstance(part, torch.nn.Module)]
        scheduler = dict(self.pipe.scheduler.config)
        mark = fingerprint(torch.nn.ModuleList(modules), list(map(dict, self.inputs)), scheduler)
        object.__setattr__(self, "mark", mark)
        self.pipe.set_progress_bar_config(disable=True)

    @property
    def scheduler(self) -> Any:
        """The pipeline's own scheduler."""
        return self.pipe.scheduler

    def run(
        self, contender: Contender, starts: Sequence[Start], on_call: Callable[[], object] | None = None
    ) -> SamplingRun:
        """Run the pipeline with the scheduler of `contender` from each of `starts`.

        Returns:
            The sample after the last step of each run, one run after the other, with the number of steps of one run
            as its model calls: guidance in two passes counts as one call for every scheduler alike.

        Raises:
            ValueError: the runs end in samples of different shapes.
        """
        watched = [self._watched(contender, start, on_call) for start in starts]
        shapes = {tuple(watch.final.shape) for watch in watched}
        if len(shapes) > 1:
            raise ValueError(f"the runs end in samples of shapes {sorted(shapes)}; {SAME_SHAPE}")
        seconds = sum(watch.ended - watch.began for watch in watched)
        return SamplingRun(
            images=torch.cat([watch.final for watch in watched]),
            model_calls=max(watch.calls for watch in watched),
            seconds=seconds / len(watched),
            model_seconds=(seconds - sum(watch.step_seconds for watch in watched)) / len(watched),
        )

    def pictures(self, finals: torch.Tensor, starts: Sequence[Start]) -> list[Any]:
        """What the pipeline makes of its last samples, in its own way: arrays (height, width, channels) in [0, 1].

        The pipeline runs two steps with a scheduler that returns these samples, and decodes them.
        """
        found: list[Any] = []
        for final, start in zip(finals.chunk(len(starts)), starts, strict=True):
            scheduler = copy.deepcopy(self.scheduler)
            with _step_replaced(scheduler, functools.partial(_returning, final)):
                output = self._call(scheduler, 2, start, {}, "np")
            arrays = np.asarray(output[0])
            found += [frames[0] if frames.ndim == 4 else frames for frames in arrays]
        return found

    def _watched(self, contender: Contender, start: Start, on_call: Callable[[], object] | None) -> _Watch:
        watch = _Watch(on_call=on_call)
        scheduler = contender.scheduler
        with _step_replaced(scheduler, watch.step), _replaced(scheduler, "set_timesteps", watch.set_timesteps):
            self._call(scheduler, contender.num_inference_steps, start, contender.grid, "latent")
        if watch.calls == 0:
            raise ValueError("the pipeline made no step with its scheduler")
        return watch

    def _call(self, scheduler: Any, steps: int, start: Start, grid: Mapping[str, Any], output_type: str) -> Any:
        accepted = inspect.signature(type(self.pipe).__call__).parameters
        refused = [key for key in grid if key not in accepted]
        if refused:
            raise ValueError(f"{type(self.pipe).__name__} takes no {', '.join(refused)}")
        arguments = {**self.inputs[start.place], **grid, "num_inference_steps": steps, "return_dict": False}
        arguments["generator"] = torch.Generator().manual_seed(start.seed)
        if "output_type" in accepted:
            arguments["output_type"] = output_type
        own = self.pipe.scheduler
        self.pipe.scheduler = scheduler
        try:
            return self.pipe(**arguments)
        finally:
            self.pipe.scheduler = own


@dataclass(slots=True, kw_only=True)
class _Watch:
    """What a run did: steps, their time, the last sample."""

    on_call: Callable[[], object] | None
    calls: int = 0
    began: float = 0.0
    ended: float = 0.0
    step_seconds: float = 0.0
    final: Any = None

    def step(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        result = original(*args, **kwargs)
        self.ended = time.perf_counter()
        self.step_seconds += self.ended - started
        self.calls += 1
        self.final = result[0].detach().float().cpu()
        if self.on_call is not None:
            self.on_call()
        return result

    def set_timesteps(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        self.began = time.perf_counter()
        return result


def _returning(final: torch.Tensor, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    result = original(*args, **kwargs)
    previous = final.to(result[0])
    if isinstance(result, tuple):
        return (previous, *result[1:])
    result["prev_sample"] = previous
    return result


def _step_replaced(scheduler: Any, wrapper: Callable[..., Any]) -> Any:
    return _replaced(scheduler, "step", wrapper)


@contextmanager
def _replaced(scheduler: Any, name: str, wrapper: Callable[..., Any]) -> Iterator[None]:
    """Let `wrapper(original, …)` stand for a method of this one scheduler; pipelines still see its signature."""
    original = getattr(scheduler, name)

    @functools.wraps(original)
    def method(*args: Any, **kwargs: Any) -> Any:
        return wrapper(original, *args, **kwargs)

    setattr(scheduler, name, method)
    try:
        yield
    finally:
        delattr(scheduler, name)
