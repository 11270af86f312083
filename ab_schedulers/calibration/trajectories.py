"""Reference trajectories: recorded once, kept in a file, read at any noise level."""

from __future__ import annotations

import bisect
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ab_schedulers.numerics import lagrange_weights

_FORMAT = "ab_schedulers trajectories 1"
_NEIGHBOURS = 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trajectories:
    """Excerpts of the states of reference trajectories.

    Args:
        states: (trajectories, nodes, values), float32, from noise to data.
        alphas: Signal scale of every node.
        sigmas: Noise scale of every node.
        source: What was sampled: the pipeline's or the function's class, with the scheduler's.
        num_base_steps: Base steps of the scheduler's own run, all computed; None for converged trajectories.

    Raises:
        ValueError: If there are no trajectories, or they are not finite, or do not fit their nodes.
    """

    states: torch.Tensor
    alphas: tuple[float, ...]
    sigmas: tuple[float, ...]
    source: str
    num_base_steps: int | None = None

    def __post_init__(self) -> None:
        shape = tuple(self.states.shape)
        if len(shape) != 3 or 0 in shape:
            raise ValueError(
                f"`states` must be (trajectories, nodes, values) with at least one of each, received {shape}; record "
                "at least one trajectory."
            )
        if len(self.alphas) != shape[1] or len(self.sigmas) != shape[1] or shape[1] < _NEIGHBOURS:
            raise ValueError(
                f"`states` of {shape[1]} nodes need as many alphas and sigmas, and at least {_NEIGHBOURS}, received "
                f"{len(self.alphas)} and {len(self.sigmas)}; record again."
            )
        finite = torch.isfinite(self.states).flatten(1).all(dim=1)
        if not bool(finite.all()):
            bad = (~finite).nonzero().flatten().tolist()
            raise ValueError(
                f"the trajectories {bad} hold values that are not finite, expected finite ones; check the model and "
                "its precision, and record again."
            )

    @property
    def count(self) -> int:
        """Number of trajectories."""
        return len(self.states)

    @property
    def final(self) -> torch.Tensor:
        """Where the trajectories end, (trajectories, values)."""
        return self.states[:, -1]

    def at(self, alphas: Sequence[float], sigmas: Sequence[float]) -> torch.Tensor:
        """States at given noise levels, (trajectories, levels, values), by cubic interpolation between nodes.

        On the straight path ``x / (α + σ)`` as a function of ``σ / (α + σ)``, which is finite at both ends.
        """
        places = [sigma / (alpha + sigma) for alpha, sigma in zip(self.alphas, self.sigmas, strict=True)]
        rising = [-place for place in places]
        found = []
        for alpha, sigma in zip(alphas, sigmas, strict=True):
            place = sigma / (alpha + sigma)
            left = bisect.bisect_right(rising, -place) - _NEIGHBOURS // 2
            start = min(max(left, 0), len(places) - _NEIGHBOURS)
            window = range(start, start + _NEIGHBOURS)
            weights = lagrange_weights([places[i] for i in window], place)
            scaled = [
                (alpha + sigma) * weight / (self.alphas[i] + self.sigmas[i])
                for i, weight in zip(window, weights, strict=True)
            ]
            found.append(torch.einsum("tnv,n->tv", self.states[:, window.start : window.stop], torch.tensor(scaled)))
        return torch.stack(found, dim=1)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file."""
        notes = {"format": _FORMAT, "source": self.source, "levels": json.dumps([self.alphas, self.sigmas])}
        if self.num_base_steps is not None:
            notes["num_base_steps"] = str(self.num_base_steps)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        save_file({"states": self.states.contiguous()}, str(path), metadata=notes)

    @classmethod
    def load(cls, path: str | Path) -> Trajectories:
        """Read a file that `save` wrote.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If it is not such a file.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"no file {path}: expected trajectories that were saved before; record them.")
        try:
            with safe_open(str(path), framework="pt") as stored:
                notes = stored.metadata() or {}
                if notes.get("format") != _FORMAT:
                    raise ValueError(f"it says format {notes.get('format')!r}, expected {_FORMAT!r}")
                alphas, sigmas = json.loads(notes["levels"])
                states, source = stored.get_tensor("states"), notes["source"]
                steps = int(notes["num_base_steps"]) if "num_base_steps" in notes else None
        except (SafetensorError, ValueError, KeyError) as error:
            raise ValueError(f"{path} holds no trajectories ({error}); record them again.") from error
        return cls(states=states, alphas=tuple(alphas), sigmas=tuple(sigmas), source=source, num_base_steps=steps)
