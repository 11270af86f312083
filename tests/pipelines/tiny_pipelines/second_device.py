"""A second device for machines without one: it computes on the CPU, and mixes with it no more than CUDA does.

Tensors on it say that they lie on "meta". Operations that mix them with CPU tensors raise, and every value that the
host reads from it is counted, since that is where a GPU is waited for.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from .case import Case

DEVICE = torch.device("meta")
aten = torch.ops.aten
# Operations that take CPU tensors beside those of the device: a copy, and an index.
_MIXING = {aten.copy_.default, aten.index.Tensor, aten.index_put.default, aten.index_put_.default}
_READING = {aten._local_scalar_dense.default, aten.nonzero.default}


class OnDevice(torch.Tensor):
    """A tensor on the device: its values lie in `values`, on the CPU."""

    values: torch.Tensor

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> OnDevice:
        tensor = torch.Tensor._make_wrapper_subclass(
            cls,
            values.shape,
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=DEVICE,
        )
        tensor.values = values
        return tensor

    # What torch answers below the level of operations, where the values would be missing.

    def untyped_storage(self) -> Any:
        return self.values.untyped_storage()

    def item(self) -> Any:
        return aten._local_scalar_dense.default(self)

    def tolist(self) -> Any:
        return self.to("cpu").tolist()

    def __bool__(self) -> bool:
        return bool(self.item())

    def __getitem__(self, index: Any) -> Any:
        return super().__getitem__(torch.tensor(index) if isinstance(index, list) else index)

    def __repr__(self) -> str:
        return f"OnDevice({self.values})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} outside of the device's own block")


@dataclass
class Reads:
    """What the host read from the device: the name of the function of ours that asked, "" for any other."""

    by: list[str] = field(default_factory=list)


class _Computing(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.reads = Reads()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        keywords = dict(kwargs or {})
        tensors = [leaf for leaf in tree_leaves((args, keywords)) if isinstance(leaf, torch.Tensor)]
        device = keywords.get("device")
        onto = device is not None and torch.device(device).type == DEVICE.type
        away = (device is not None and not onto) or (func is aten.copy_.default and not isinstance(args[0], OnDevice))
        if not onto and not any(isinstance(tensor, OnDevice) for tensor in tensors):
            return func(*args, **keywords)
        _check(func, args, keywords, tensors)
        if away or func in _READING:
            self.reads.by.append(_reader())
        if onto:
            keywords["device"] = torch.device("cpu")
        result = func(*tree_map(_values, args), **tree_map(_values, keywords))
        owners = {id(tensor.values): tensor for tensor in tensors if isinstance(tensor, OnDevice)}
        return result if away else tree_map(lambda item: _owned(item, owners), result)


class _Constructing(TorchFunctionMode):
    """Constructors from data, which copy to the device below the level of operations."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        keywords = dict(kwargs or {})
        if func not in (torch.tensor, torch.as_tensor):
            return func(*args, **keywords)
        device = keywords.pop("device", None)
        data = tree_map(lambda item: item.item() if isinstance(item, OnDevice) and item.dim() == 0 else item, args)
        return func(*data, **keywords).to(device)


def _check(func: Any, args: Any, keywords: dict[str, Any], tensors: list[torch.Tensor]) -> None:
    here = [isinstance(tensor, OnDevice) for tensor in tensors]
    if any(tensor.device == DEVICE and not known for tensor, known in zip(tensors, here, strict=True)):
        raise RuntimeError(f"{func}: a tensor came to {DEVICE} without its values")
    if keywords.get("generator") is not None:
        raise RuntimeError(f"{func}: a generator of the CPU cannot draw on {DEVICE}")
    if func is aten.index.Tensor and not isinstance(args[0], OnDevice):
        raise RuntimeError(f"{func}: indices on {DEVICE} for a tensor on cpu")
    if func not in _MIXING and any(here) and any(t.dim() for t, known in zip(tensors, here, strict=True) if not known):
        raise RuntimeError(f"{func} mixes tensors on {DEVICE} and cpu")


def _values(item: Any) -> Any:
    return item.values if isinstance(item, OnDevice) else item


def _owned(item: Any, owners: dict[int, OnDevice]) -> Any:
    """A result on the device: the tensor itself where an operation worked in place."""
    if not isinstance(item, torch.Tensor):
        return item
    return owners[id(item)] if id(item) in owners else OnDevice(item)


def _reader() -> str:
    """The innermost function of the package on the stack."""
    for frame in reversed(traceback.extract_stack()):
        if "/ab_schedulers/" in frame.filename:
            return frame.name
    return ""


def there(case: Case) -> Case:
    """The case with its models and arguments on the device."""
    return replace(case, device=DEVICE.type)


@contextmanager
def second_device() -> Iterator[Reads]:
    """The device works inside this block."""
    with torch.no_grad(), _Constructing(), _Computing() as mode:
        yield mode.reads
