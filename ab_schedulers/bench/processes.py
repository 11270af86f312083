"""Work shared by several processes, as `accelerate launch`, `torchrun` or `mpirun` start them.

Every process runs the same command. Each does its share of a list of tasks, all learn all results, and process 0 alone
writes what they have in common. Without such a launcher there is one process, and nothing here does anything.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

_RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK")
_COUNTS = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE")
_PATIENCE = timedelta(days=7)  # others wait for the longest share
Task = TypeVar("Task")
Result = TypeVar("Result")


def process_count() -> int:
    """How many processes run this command."""
    return _number(_COUNTS, 1)


def process_rank() -> int:
    """Which of them this one is; 0 writes the common results."""
    return _number(_RANKS, 0)


def shared_map(function: Callable[[Task], Result], tasks: Sequence[Task]) -> list[Result]:
    """`function` of every task, in order; each process computes every n-th of them, and all receive all.

    Every process must come here with the same tasks. What one raises ends it, and its launcher ends the others.
    """
    rank, count = process_rank(), process_count()
    own = [function(task) for task in tasks[rank::count]]
    if count == 1:
        return own
    dist = _group()
    shares: list[list[Result]] = [[] for _ in range(count)]
    dist.all_gather_object(shares, own)
    return [shares[i % count][i // count] for i in range(len(tasks))]


def from_first(function: Callable[[], Result]) -> Result:
    """What `function` returns in process 0, in all of them: for what depends on files that only it may see."""
    if process_count() == 1:
        return function()
    dist = _group()
    box = [function() if process_rank() == 0 else None]
    dist.broadcast_object_list(box, src=0)
    return box[0]  # type: ignore[return-value]


def own_path(path: Path) -> Path:
    """Where this process may write while others work: `path` for process 0, a file beside it for the others."""
    rank = process_rank()
    return path if rank == 0 else path.with_name(f"{path.stem}.process{rank}{path.suffix}")


def written_paths(path: Path) -> list[Path]:
    """The files beside `path` that other processes have left, and `path` itself, where they exist."""
    return [*sorted(path.parent.glob(f"{path.stem}.process*{path.suffix}")), *([path] if path.exists() else [])]


def leave() -> None:
    """End the connection to the other processes, if there is one."""
    if process_count() > 1:
        import torch.distributed as dist

        if dist.is_initialized():
            dist.destroy_process_group()


def _group() -> Any:
    """The processes, connected; torch is imported where there are several."""
    import torch.distributed as dist

    if not dist.is_initialized():
        dist.init_process_group("gloo", rank=process_rank(), world_size=process_count(), timeout=_PATIENCE)
    return dist


def _number(names: Sequence[str], default: int) -> int:
    return next((int(os.environ[name]) for name in names if name in os.environ), default)
