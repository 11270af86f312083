"""What a module returned, taken apart into tensors and put together again."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputForm:
    """How an output holds its tensors: alone, in a tuple, or in a diffusers output class.

    Args:
        kind: The class of the output.
        keys: Names of the entries of an output class.
        others: Entries that are no tensors, by place.
        length: Number of entries.
    """

    kind: type[Any]
    keys: tuple[str, ...]
    others: tuple[tuple[int, Any], ...]
    length: int


def take_apart(output: Any) -> tuple[OutputForm, tuple[torch.Tensor, ...]]:
    """The form and the tensors of an output.

    Raises:
        TypeError: If the output is neither a tensor, nor a tuple or diffusers output that holds at least one.
    """
    keys: tuple[str, ...] = ()
    if isinstance(output, torch.Tensor):
        entries: tuple[Any, ...] = (output,)
    elif isinstance(output, (tuple, list)):
        entries = tuple(output)
    elif isinstance(output, OrderedDict):
        keys, entries = tuple(output), tuple(output.values())
    else:
        entries = ()
    tensors = tuple(entry for entry in entries if isinstance(entry, torch.Tensor))
    if not tensors:
        raise TypeError(
            f"a cached module must return a tensor, or a tuple or diffusers output with tensors, received "
            f"{type(output).__name__}; call remove_cache(model) for this model."
        )
    others = tuple((i, entry) for i, entry in enumerate(entries) if not isinstance(entry, torch.Tensor))
    return OutputForm(kind=type(output), keys=keys, others=others, length=len(entries)), tensors


def put_together(form: OutputForm, tensors: tuple[torch.Tensor, ...]) -> Any:
    """The inverse of `take_apart`."""
    if issubclass(form.kind, torch.Tensor):
        return tensors[0]
    others, rest = dict(form.others), iter(tensors)
    entries = [others[i] if i in others else next(rest) for i in range(form.length)]
    return form.kind(**dict(zip(form.keys, entries, strict=True))) if form.keys else form.kind(entries)
