"""AB-Cache inside the model: skipped steps are answered from the cache, the pipeline keeps its scheduler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers.hooks import ModelHook

from ab_schedulers.schedulers.combination import linear

from .ab_config import ABCacheConfig
from .clock import Clock, Tick
from .history import OutputHistory
from .noise_path import NoisePath, draws_noise
from .observing import CallReader, ContextName
from .outputs import put_together, take_apart
from .placement import check_model, place
from .report import CallRecord, summarize

_HISTORY, _FORM = "history", "form"


class ABCache(ModelHook):  # type: ignore[misc]  # diffusers' class carries no annotations
    """The hook on the root of a denoiser, and the handle that `apply_ab_cache` returns."""

    _is_stateful = True

    def __init__(self, reader: CallReader, config: ABCacheConfig, path: NoisePath | None, clock: Clock) -> None:
        super().__init__()
        self.config = config
        self.records: list[CallRecord] = []
        self.quantity = config.resolved_quantity(None if path is None else path.prediction)
        self._reader, self._path, self._clock = reader, path, clock
        self._context = ContextName()
        self._run = self._decided_step = -1
        self._decision: tuple[bool, float | None] = (True, None)
        self._unit = 1.0
        self._never_skips = config.interval == 1 and config.compute_steps is None

    def reset_state(self, module: torch.nn.Module | None = None) -> None:
        """Forget the run and free its outputs; diffusers calls it after a run, the records stay."""
        self._clock.reset()

    def summary(self) -> str:
        """What the latest run computed and what it answered from the cache."""
        return summarize("AB-Cache", self.records)

    def new_forward(self, module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Compute, or answer from the cache."""
        compute, estimate = True, None
        if self._never_skips:
            tick = self._clock.count(self._reader.timestep(args, kwargs))
            self._begin(tick)
            output = self._compute(args, kwargs)
        else:
            tick = self._clock.observe(self._reader.observe(args, kwargs, self._context.name))
            self._begin(tick)
            output, compute, estimate = self._answer(tick, args, kwargs)
        self.records.append(CallRecord(tick.step, tick.timestep, tick.place, compute, estimate))
        return output

    def _answer(self, tick: Tick, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, bool, float | None]:
        """The output, whether it was computed, and the estimate if one was taken."""
        memory = tick.stream.memory
        history = memory.get(_HISTORY)
        if history is None:
            history = memory[_HISTORY] = OutputHistory(order=self.config.depth)
        form_key = (self._reader.argument("return_dict", args, kwargs) is not False, _FORM)
        compute, estimate = self._decide(tick, history, args, kwargs)
        if compute or not history.outputs or form_key not in memory:
            output = self._compute(args, kwargs)
            memory[form_key], tensors = take_apart(output)
            history.record(self._node(tick), self._to_cached(tick, tensors, args, kwargs))
            memory["step"] = tick.step
            return output, True, estimate
        answer = self._from_cached(tick, history.predict(self._node(tick), self.config.order), args, kwargs)
        return put_together(memory[form_key], answer), False, estimate

    def _begin(self, tick: Tick) -> None:
        if tick.run == self._run:
            return
        self._run, self._decided_step, self.records = tick.run, -1, []
        if self._path is not None:  # some models are given t / 1000
            self._unit = float(self._path.num_train_timesteps) if tick.timestep <= 1 else 1.0

    def _decide(
        self, tick: Tick, history: OutputHistory, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[bool, float | None]:
        """Whether the step is computed; the first call of a step decides for all its streams."""
        if tick.step != self._decided_step:
            self._decided_step = tick.step
            self._decision = (self.config.computes(tick.step), None)
            if self.config.threshold is not None and not self._decision[0]:
                self._decision = self._estimate(tick, history, args, kwargs)
        return self._decision

    def _estimate(
        self, tick: Tick, history: OutputHistory, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[bool, float | None]:
        assert self.config.threshold is not None
        if len(history.nodes) < self.config.depth or tick.step - tick.stream.memory["step"] >= self.config.interval:
            return True, None
        node = self._node(tick)
        output = self._from_cached(tick, history.predict(node, self.config.order), args, kwargs)[0]
        _, of_cached = self._conversion(tick, cached_to_output=True)
        difference = abs(of_cached) * history.embedded_difference(node).norm() / output.float().norm()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(difference, op=torch.distributed.ReduceOp.MAX)
        estimate = float(difference)
        return not estimate <= self.config.threshold, estimate

    def _compute(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        try:
            return self.fn_ref.original_forward(*args, **kwargs)
        except BaseException:
            self._clock.reset()
            raise

    def _node(self, tick: Tick) -> float:
        """The value of the polynomial's variable at a step."""
        if self.config.variable == "index":
            return float(tick.step)
        if self.config.variable == "timestep" or self._path is None:
            return tick.timestep
        return self._path.log_ratio(tick.timestep * self._unit)

    def _conversion(self, tick: Tick, *, cached_to_output: bool) -> tuple[float, float]:
        """Scalars on sample and quantity that turn output into cached quantity, or back."""
        if self._path is None or self.quantity == "model_output":
            return 0.0, 1.0
        ends = (self._path.prediction, self.quantity)
        source, target = reversed(ends) if cached_to_output else ends
        return self._path.convert(source, target, tick.timestep * self._unit)

    def _to_cached(
        self, tick: Tick, tensors: tuple[torch.Tensor, ...], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[torch.Tensor, ...]:
        pair = self._conversion(tick, cached_to_output=False)
        return _convert_first(tensors, self._reader.sample(args, kwargs), pair)

    def _from_cached(
        self, tick: Tick, tensors: tuple[torch.Tensor, ...], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[torch.Tensor, ...]:
        pair = self._conversion(tick, cached_to_output=True)
        return _convert_first(tensors, self._reader.sample(args, kwargs), pair)


def _convert_first(
    tensors: tuple[torch.Tensor, ...], sample: torch.Tensor, pair: tuple[float, float]
) -> tuple[torch.Tensor, ...]:
    """Convert the first tensor by ``u sample + w tensor``; a learned variance behind it stays as it is."""
    if pair == (0.0, 1.0):
        return tensors
    first = tensors[0]
    prediction, rest = (first, None) if first.shape == sample.shape else first.tensor_split([sample.shape[1]], dim=1)
    if prediction.shape != sample.shape or (rest is not None and rest.shape != sample.shape):
        raise ValueError(
            f"the clean sample follows from an output of the sample's shape, or of twice its channels, received "
            f'output {tuple(first.shape)} and sample {tuple(sample.shape)}; use quantity="model_output".'
        )
    precise = sample.to(torch.promote_types(sample.dtype, torch.float32))
    converted = linear(pair[0], precise, pair[1], prediction).value().to(first.dtype)
    return (converted if rest is None else torch.cat([converted, rest], dim=1), *tensors[1:])


def apply_ab_cache(model: torch.nn.Module, config: ABCacheConfig | None = None, *, scheduler: Any = None) -> ABCache:
    """Skip steps inside ``model``: scheduler, number of steps and strength of the pipeline stay as they are.

    A computed output is kept, and a skipped step is answered by the polynomial through the last ``order`` of them
    (AB-Cache, arXiv:2504.10540). Conditional, unconditional and further calls of a step are told apart, and each run
    starts with an empty cache, also after an exception. Where the scheduler draws fresh noise, the implied clean sample
    must be cached, since with it the answer sees the new noise: pass the scheduler then.

    Theory: docs/theory/02-linear-relation.md.

    Args:
        model: The denoiser, for example ``pipe.transformer`` or ``pipe.unet``.
        config: Which steps are computed; the defaults of `ABCacheConfig` where None.
        scheduler: The pipeline's scheduler. With it the clean sample is cached (see ``ABCacheConfig.quantity``);
            without it the model's output, which is right for schedulers that draw no noise.

    Returns:
        The cache, whose `summary()` tells what the latest run skipped.

    Raises:
        TypeError: If ``model`` or ``config`` is of the wrong type.
        ValueError: If the model carries a cache, takes no sample and timestep, was compiled in place, or the config
            needs a scheduler; if the scheduler draws noise and the model's output shall be cached.

    Examples:
        >>> import torch
        >>> from ab_schedulers.models import load
        >>> bundled = load("dit-flow")
        >>> cache = apply_ab_cache(bundled.model, ABCacheConfig(interval=3), scheduler=bundled.scheduler)
        >>> bundled.scheduler.set_timesteps(20)
        >>> sample = torch.randn(1, 1, 28, 28)
        >>> for t in bundled.scheduler.timesteps:
        ...     output = bundled.predict(sample, t, torch.tensor([0]))
        ...     sample = bundled.scheduler.step(output, t, sample).prev_sample
        >>> print(cache.summary().splitlines()[1])
        steps (C computed, . predicted): CC..C..C..C..C..C..C
    """
    config = ABCacheConfig() if config is None else config
    if not isinstance(config, ABCacheConfig):
        raise TypeError(f"`config` must be an ABCacheConfig, received {type(config).__name__}; build one.")
    check_model(model)
    if model._compiled_call_impl is not None:
        raise ValueError(
            f"{type(model).__name__}.compile() put the compiler around the hooks, which would compile every decision; "
            "use model = torch.compile(model) and pass the result, whose hooks lie outside."
        )
    reader = CallReader.of(model)
    path = None if scheduler is None else NoisePath.of(scheduler)
    if path is None and (config.quantity in ("sample", "signal") or config.variable == "lambda"):
        raise ValueError(
            f"`quantity`={config.quantity!r} with `variable`={config.variable!r} needs noise levels, and `scheduler` "
            "is None; pass scheduler=pipe.scheduler."
        )
    if path is not None and config.quantity == "model_output" and draws_noise(scheduler):
        raise ValueError(
            f"{type(scheduler).__name__} draws fresh noise, which a cached model output cannot see; leave `quantity` "
            "at None, which caches the clean sample or its part of the noisy one."
        )
    cache = ABCache(reader, config, path, Clock(scheduler))
    place(model, cache, {})
    return cache
