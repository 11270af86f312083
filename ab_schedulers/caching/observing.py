"""Reading a call of the model: its timestep, its noisy sample, what identifies its stream."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.hooks.hooks import StateManager

from .clock import Excerpt, Observation

SAMPLE_NAMES = ("hidden_states", "sample", "x")
TIMESTEP_NAMES = ("timestep", "timesteps", "t")
CONDITIONING_NAMES = (
    "encoder_hidden_states",
    "encoder_hidden_states_image",
    "pooled_projections",
    "class_labels",
    "added_cond_kwargs",
    "skip_layers",
)
_SAMPLE_VALUES = 512
_CONDITIONING_VALUES = 32


class ContextName(StateManager):  # type: ignore[misc]  # diffusers finds it by its class and sets the context
    """The name of diffusers' cache context, None outside one; unlike its base it needs no context."""

    def __init__(self) -> None:
        self._context: Any = None

    @property
    def name(self) -> str | None:
        """The name given to `cache_context`."""
        name: str | None = getattr(self._context, "name", self._context)
        return name

    def set_context(self, context: Any) -> None:
        """Enter or, with None, leave a context: a name in older diffusers, an object with a name in newer ones."""
        self._context = context

    def reset(self, *args: Any, **kwargs: Any) -> None:
        """Leave the context."""
        self._context = None


class ConditioningTraces:
    """Something that two equal conditionings share and two different ones most likely do not.

    Pipelines hand over the same tensors at every step, and reading one waits for the device. So what was read is kept
    for as long as the tensor lives and nobody writes to it; where torch does not count the writes, it is read again.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[torch.Tensor], int, Hashable]] = {}

    def of(self, argument: Any) -> Hashable:
        """The trace of one argument of a model."""
        if isinstance(argument, torch.Tensor):
            return self._of_tensor(argument)
        if isinstance(argument, Mapping):
            return tuple((key, self.of(argument[key])) for key in sorted(argument))
        if isinstance(argument, (list, tuple)):
            return tuple(self.of(item) for item in argument)
        return argument if isinstance(argument, (int, float, str, type(None))) else type(argument).__name__

    def _of_tensor(self, tensor: torch.Tensor) -> Hashable:
        if tensor.is_inference():
            return _trace(tensor)
        known = self._known.get(id(tensor))
        if known is not None and known[0]() is tensor and known[1] == tensor._version:
            return known[2]
        trace = _trace(tensor)
        self._known = {key: entry for key, entry in self._known.items() if entry[0]() is not None}
        self._known[id(tensor)] = (weakref.ref(tensor), tensor._version, trace)
        return trace


def _trace(tensor: torch.Tensor) -> Hashable:
    rows = tensor.detach().reshape(len(tensor) if tensor.ndim else 1, -1)
    width = max(_CONDITIONING_VALUES // max(len(rows), 1), 8)
    values = rows[:, :: -(-rows.shape[1] // width) or 1]
    return (tuple(tensor.shape), values.to("cpu", torch.float32).numpy().tobytes())


@dataclass(frozen=True, slots=True, kw_only=True)
class CallReader:
    """Finds the arguments of a model's forward by name or position.

    Args:
        positions: Position of every parameter, without ``self``.
        sample_name: The parameter that takes the noisy sample.
        timestep_name: The parameter that takes the timestep.
        conditioning_names: The parameters that tell streams apart.
        traces: What is known of their arguments.
    """

    positions: Mapping[str, int]
    sample_name: str
    timestep_name: str
    conditioning_names: tuple[str, ...]
    traces: ConditioningTraces = field(default_factory=ConditioningTraces)

    @classmethod
    def of(cls, model: torch.nn.Module) -> CallReader:
        """The reader for the forward of ``model``.

        Raises:
            ValueError: If the forward has no parameter for the sample or the timestep.
        """
        parameters = list(inspect.signature(getattr(model, "_orig_mod", model).forward).parameters)
        found = [next((n for n in names if n in parameters), None) for names in (SAMPLE_NAMES, TIMESTEP_NAMES)]
        if found[0] is None or found[1] is None:
            raise ValueError(
                f"the forward of {type(model).__name__} has parameters {parameters}; expected one of "
                f"{list(SAMPLE_NAMES)} and one of {list(TIMESTEP_NAMES)}. Pass the denoiser itself, for example "
                "pipe.transformer or pipe.unet."
            )
        return cls(
            positions={name: i for i, name in enumerate(parameters)},
            sample_name=found[0],
            timestep_name=found[1],
            conditioning_names=tuple(name for name in CONDITIONING_NAMES if name in parameters),
        )

    def argument(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """The argument for a parameter, None where it was not given."""
        if name in kwargs:
            return kwargs[name]
        position = self.positions.get(name)
        return args[position] if position is not None and position < len(args) else None

    def sample(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.Tensor:
        """The noisy sample of a call."""
        sample = self.argument(self.sample_name, args, kwargs)
        if not isinstance(sample, torch.Tensor) or sample.ndim < 2:
            raise TypeError(
                f"`{self.sample_name}` must be a tensor with the batch in front to be cached, received "
                f"{type(sample).__name__}; call remove_cache(model) for this model."
            )
        return sample

    def timestep(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> float:
        """The timestep of a call.

        Raises:
            ValueError: If the samples of the batch are at different timesteps.
        """
        return batch_timestep(self.argument(self.timestep_name, args, kwargs))

    def observe(self, args: Sequence[Any], kwargs: Mapping[str, Any], name: str | None) -> Observation:
        """What a call shows to the clock.

        Raises:
            TypeError: If the sample is no tensor.
            ValueError: If the samples of the batch are at different timesteps.
        """
        sample = self.sample(args, kwargs)
        traced = self.conditioning_names if name is None else ()
        return Observation(
            self.timestep(args, kwargs),
            (sample.shape[1:], sample.dtype, sample.device),
            len(sample),
            _excerpt(sample),
            name,
            tuple([self.traces.of(self.argument(name, args, kwargs)) for name in traced]),
        )


def batch_timestep(timestep: Any) -> float:
    """The one timestep of a batch; where every token has its own (image to video), that of the noisiest.

    Raises:
        ValueError: If the samples are at different timesteps.
    """
    if not isinstance(timestep, torch.Tensor):
        return float(timestep)
    if timestep.numel() > 1 and not any(timestep.stride()):
        timestep = timestep[(0,) * timestep.ndim]
    if timestep.numel() == 1:
        return float(timestep.item())
    values = timestep.reshape(len(timestep), -1).amax(dim=1).tolist()
    if min(values) != max(values):
        raise ValueError(
            f"the samples of a cached batch must be at one timestep, received {values}; call the model once per "
            "timestep or remove_cache(model) first."
        )
    return float(values[0])


def _excerpt(sample: torch.Tensor) -> Excerpt:
    """Values of the first sample of a batch at regular distances, not shared with it."""
    size = sample.numel() // max(len(sample), 1)
    values = sample.reshape(-1)[: size : -(-size // _SAMPLE_VALUES) or 1].to("cpu", torch.float32, copy=True)
    return Excerpt(values.detach() if values.requires_grad else values)
