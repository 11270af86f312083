"""A second device for machines without one: it computes on the CPU, and mixes with the CPU no more than CUDA does.

Tensors on it say that they lie on "meta". Operations that mix them with CPU tensors raise, and every value that the host
reads from the device is counted, since it is there that a GPU is waited for.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta")
aten = torch.ops.aten
# Operations that take CPU tensors beside those of the device: a copy, and an index.
_MIXING = {aten.copy_.default, aten.index.Tensor, aten.index_put.default, aten.index_put_.default}


class OnDevice(torch.Tensor):
    """A tensor on the device: the values lie in `values`, on the CPU."""

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

    def untyped_storage(self) -> Any:
        return self.values.untyped_storage()

    def item(self) -> Any:
        return aten._local_scalar_dense.default(self)

    def __getitem__(self, index: Any) -> Any:
        return super().__getitem__(torch.tensor(index) if isinstance(index, list) else index)

    def tolist(self) -> Any:
        return self.to("cpu").tolist()

    def __bool__(self) -> bool:
        return bool(self.item())

    def __repr__(self) -> str:
        return f"OnDevice({self.values})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} outside of the device's own block")


@dataclass
class Reads:
    """What the host read from the device: the function of the scheduler that asked, or "" for any other."""

    by: list[str] = field(default_factory=list)


class _Computing(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.reads = Reads()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        keywords = dict(kwargs or {})
        leaves = [leaf for leaf in tree_leaves((args, keywords)) if isinstance(leaf, torch.Tensor)]
        here = [leaf for leaf in leaves if isinstance(leaf, OnDevice)]
        target = keywords.get("device")
        onto = target is not None and torch.device(target).type == DEVICE.type
        if any(leaf.device == DEVICE and not isinstance(leaf, OnDevice) for leaf in leaves):
            raise RuntimeError(f"{func}: a tensor came to {DEVICE} without its values")
        if not here and not onto:
            return func(*args, **keywords)
        if onto and not here:
            generator = keywords.get("generator")
            if generator is not None:
                raise RuntimeError(f"{func}: a generator of the CPU cannot draw on {DEVICE}")
        away = target is not None and not onto
        if here and func not in _MIXING:
            others = [leaf for leaf in leaves if not isinstance(leaf, OnDevice) and leaf.dim() > 0]
            if others:
                raise RuntimeError(f"{func} mixes tensors on {DEVICE} and cpu")
        if func is aten.index.Tensor and not isinstance(args[0], OnDevice):
            raise RuntimeError(f"{func}: indices on {DEVICE} for a tensor on cpu")
        if away or func in (aten._local_scalar_dense.default, aten.nonzero.default) or (
            func is aten.copy_.default and not isinstance(args[0], OnDevice)
        ):
            self.reads.by.append(_reader())
        if onto:
            keywords["device"] = torch.device("cpu")
        plain_args, plain_keywords = tree_map(_values, (args, keywords))
        result = func(*plain_args, **plain_keywords)
        if away or (func is aten.copy_.default and not isinstance(args[0], OnDevice)):
            return result
        owners = {id(leaf.values): leaf for leaf in here}
        return tree_map(lambda x: _wrapped(x, owners), result)


def _values(item: Any) -> Any:
    return item.values if isinstance(item, OnDevice) else item


def _wrapped(item: Any, owners: dict[int, OnDevice]) -> Any:
    if not isinstance(item, torch.Tensor) or isinstance(item, OnDevice):
        return item
    return owners.get(id(item)) if id(item) in owners else OnDevice(item)


def _reader() -> str:
    """The innermost function of our schedulers on the stack."""
    for frame in reversed(traceback.extract_stack()):
        if "ab_schedulers" in frame.filename:
            return frame.name
    return ""


class _Constructing(TorchFunctionMode):
    """Constructors from data, which copy to the device below the level of operations."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        keywords = dict(kwargs or {})
        if func not in (torch.tensor, torch.as_tensor):
            return func(*args, **keywords)
        device = keywords.pop("device", None)
        read = tree_map(lambda item: item.item() if isinstance(item, OnDevice) and item.dim() == 0 else item, args)
        return func(*read, **keywords).to(device)


@contextmanager
def second_device() -> Iterator[Reads]:
    """The device works inside this block."""
    with torch.no_grad(), _Constructing(), _Computing() as mode:
        yield mode.reads
