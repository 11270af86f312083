"""EB-Cache: attention and MLP cached apart from each other, before the gate, by a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.hooks import ModelHook

from ab_schedulers.schedulers.options import MAX_ORDER, check_integer

from .clock import Clock, Tick
from .eb_table import COMPUTE, REUSE, EBTable, resolve_table
from .families import KINDS, family_of
from .history import OutputHistory
from .observing import CallReader, ContextName
from .outputs import put_together, take_apart
from .placement import HookedModule, check_model, lift, place, put_back
from .report import CallRecord, summarize


@dataclass(frozen=True, slots=True, kw_only=True)
class EBCacheConfig:
    """What `apply_eb_cache` does at each step.

    Theory: docs/theory/09-exposure-bias.md.

    Args:
        table: An `EBTable`, the name of a published one (``"dit-ddpm-50"``), or a list of states as
            `EBTable.from_states` takes them. It must be as long as the runs.
        order: Number of computed outputs that an extrapolated one (``E`` in the table) follows from.
        num_inference_steps: Number of steps of the runs; the table is checked against it.

    Raises:
        TypeError: If an option has the wrong type.
        ValueError: If an option is out of range, or the table has another number of steps.
    """

    table: EBTable | str | Sequence[int]
    order: int = 2
    num_inference_steps: int | None = None

    def __post_init__(self) -> None:
        options = {"order": self.order, "num_inference_steps": self.num_inference_steps}
        check_integer(options, "order", 1, MAX_ORDER)
        check_integer(options, "num_inference_steps", 1, None, optional=True)
        steps = resolve_table(self.table).num_steps
        if self.num_inference_steps not in (None, steps):
            raise ValueError(
                f"`table` is for runs of {steps} steps, but `num_inference_steps` is {self.num_inference_steps}; build "
                "a table for that number with build_eb_table."
            )


class EBCache(ModelHook):  # type: ignore[misc]  # diffusers' class carries no annotations
    """The hook on the root of a transformer, and the handle that `apply_eb_cache` returns."""

    _is_stateful = True

    def __init__(self, reader: CallReader, config: EBCacheConfig, clock: Clock) -> None:
        super().__init__()
        self.table, self.order = resolve_table(config.table), config.order
        self.kept = {kind: self.table.used_later(kind, config.order) for kind in KINDS}
        steps = range(self.table.num_steps)
        self._busy = [any(self.kept[k][i] or getattr(self.table, k)[i] != COMPUTE for k in KINDS) for i in steps]
        self._never_skips = not any(self._busy)
        self.records: list[CallRecord] = []
        self.tick: Tick | None = None
        self.called: dict[str, bool] = {}
        self.modules: tuple[HookedModule, ...] = ()
        self._reader, self._context, self._clock, self._run = reader, ContextName(), clock, 0

    def reset_state(self, module: torch.nn.Module | None = None) -> None:
        """Forget the run and free its outputs; diffusers calls it after a run, the records stay."""
        self._clock.reset()

    def summary(self) -> str:
        """What the latest run computed in full and where modules answered from the cache."""
        return summarize("EB-Cache", self.records)

    def new_forward(self, module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Run the model; its modules ask for the step."""
        if self._never_skips:
            tick, busy = self._clock.count(self._reader.timestep(args, kwargs)), False
        else:
            tick = self._clock.observe(self._reader.observe(args, kwargs, self._context.name))
            busy = self._is_busy(tick)
        if tick.run != self._run:
            self._run, self.records = tick.run, []
        self.tick, self.called = tick if busy else None, {}
        lifted = () if busy else lift(self.modules)
        try:
            output = self.fn_ref.original_forward(*args, **kwargs)
        except BaseException:
            self._clock.reset()
            raise
        finally:
            put_back(lifted)
            self.tick = None
        self.records.append(CallRecord(tick.step, tick.timestep, tick.place, all(self.called.values())))
        return output

    def _is_busy(self, tick: Tick) -> bool:
        """Whether a module skips in this call, or must remember its output."""
        if tick.step >= self.table.num_steps:
            self._clock.reset()
            raise ValueError(
                f"the table of the EB-Cache has {self.table.num_steps} steps, but the run goes on to step "
                f"{tick.step + 1}; build a table for runs of that length, or call remove_cache(model)."
            )
        return self._busy[tick.step]

    def action(self, kind: str) -> str:
        """What modules of a kind do in this call."""
        assert self.tick is not None
        return str(getattr(self.table, kind)[self.tick.step])

    def keep(self, module: ModuleCache, output: Any) -> None:
        """Remember a computed output if a later step needs it."""
        assert self.tick is not None
        if self.kept[module.kind][self.tick.step]:
            remember(self.tick, module.name, output, self.order)


def remember(tick: Tick, name: str, output: Any, order: int) -> None:
    """Put an output of a module in front of its history in the stream."""
    form, tensors = take_apart(output)
    cached = tick.stream.memory.get(name)
    history = OutputHistory(order=order) if cached is None else cached[1]
    history.record(float(tick.step), tensors)
    tick.stream.memory[name] = (form, history)


class ModuleCache(ModelHook):  # type: ignore[misc]  # diffusers' class carries no annotations
    """The hook on one attention or MLP module."""

    def __init__(self, root: Any, name: str, kind: str) -> None:
        super().__init__()
        self._root, self.name, self.kind = root, name, kind

    def new_forward(self, module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Compute, reuse or extrapolate, as the table says for the current step."""
        root, tick = self._root, self._root.tick
        if tick is None:
            return self.fn_ref.original_forward(*args, **kwargs)
        if self.name in root.called:
            raise ValueError(
                f"module {self.name!r} is called twice in one call of the model (chunked?), so its outputs cannot be "
                "told apart; disable chunking or call remove_cache(model)."
            )
        action = root.action(self.kind)
        cached = tick.stream.memory.get(self.name)
        if action != COMPUTE and cached is not None:
            root.called[self.name] = False
            form, history = cached
            return put_together(form, history.predict(float(tick.step), 1 if action == REUSE else None))
        root.called[self.name] = True
        output = self.fn_ref.original_forward(*args, **kwargs)
        root.keep(self, output)
        return output


def apply_eb_cache(model: torch.nn.Module, config: EBCacheConfig, *, scheduler: Any = None) -> EBCache:
    """Cache the outputs of attention and MLP in ``model`` apart from each other, by a table over the steps.

    Modulation, gates and projections around the cached modules are computed at every step (EB-Cache,
    arXiv:2503.07120). Caching shifts the scale of the predicted noise: combine it with the ``noise_scaling`` of our
    schedulers, or with `scale_noise` for stock ones. Each run starts with an empty cache, also after an exception.

    Theory: docs/theory/09-exposure-bias.md.

    Args:
        model: The transformer, for example ``pipe.transformer``; see `register_eb_family` for further classes.
        config: Table and order.
        scheduler: The pipeline's scheduler, at which the start of a run is seen where calls alone do not show it.

    Returns:
        The cache, whose `summary()` tells what the latest run computed.

    Raises:
        TypeError: If ``model`` or ``config`` is of the wrong type.
        ValueError: If the model is not known or lacks the modules, carries a cache, is compiled, or works in chunks.

    Examples:
        >>> from ab_schedulers.models import load
        >>> bundled = load("dit-epsilon")
        >>> cache = apply_eb_cache(bundled.model, EBCacheConfig(table="dit-ddpm-50"))
    """
    if not isinstance(config, EBCacheConfig):
        raise TypeError(f"`config` must be an EBCacheConfig, received {type(config).__name__}; build one.")
    reader, modules = check_transformer(model)
    cache = EBCache(reader, config, Clock(scheduler))
    hooks = {module: ModuleCache(cache, name, kind) for name, (kind, module) in modules.items()}
    place(model, cache, hooks)
    cache.modules = tuple(HookedModule.of(module, hook) for module, hook in hooks.items())
    return cache


def check_transformer(model: torch.nn.Module) -> tuple[CallReader, dict[str, tuple[str, torch.nn.Module]]]:
    """How the model is called and its modules by kind.

    Raises:
        TypeError: If ``model`` is no module.
        ValueError: If it cannot be cached module by module.
    """
    check_model(model)
    reader = CallReader.of(model)
    modules = family_of(model).modules(model)
    for name, module in model.named_modules():
        if getattr(module, "_chunk_size", None) is not None:
            raise ValueError(
                f"{name!r} computes its MLP in chunks, one call per chunk, so its output cannot be cached; call "
                "disable_forward_chunking() first."
            )
        if module._compiled_call_impl is not None or hasattr(module, "_orig_mod"):
            raise ValueError(
                f"{name or type(model).__name__!r} is compiled, and the table decides inside the compiled code at "
                "every step, which would compile it anew each time; use apply_ab_cache, which decides outside."
            )
    return reader, modules
