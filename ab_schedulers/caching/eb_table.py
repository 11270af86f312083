"""The table of EB-Cache: what each kind of module does at each step."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .families import KINDS

COMPUTE, REUSE, EXTRAPOLATE = "C", "R", "E"
_ACTIONS = (COMPUTE, REUSE, EXTRAPOLATE)
_STATES = {0: (COMPUTE, COMPUTE), 1: (REUSE, COMPUTE), 2: (REUSE, REUSE)}


@dataclass(frozen=True, slots=True, kw_only=True)
class EBTable:
    """One letter per step and kind: ``C`` compute, ``R`` reuse the last output, ``E`` extrapolate the last ones.

    Theory: docs/theory/09-exposure-bias.md.

    Args:
        attention: What attention does, first (noisiest) step first.
        mlp: What the MLPs do.
        cross_attention: What cross-attention does; the same as attention where it is empty.
        provenance: How the table came about; JSON.

    Raises:
        TypeError: If a row is no string.
        ValueError: If the rows are empty or of different lengths, hold other letters, or do not begin with ``C``.

    Examples:
        >>> table = EBTable.from_states([0, 2, 1, 0])
        >>> table.attention, table.mlp, table.num_steps
        ('CRRC', 'CRCC', 4)
    """

    attention: str
    mlp: str
    cross_attention: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.cross_attention == "":
            object.__setattr__(self, "cross_attention", self.attention)
        for kind in KINDS:
            row = getattr(self, kind)
            if not isinstance(row, str):
                raise TypeError(f"`{kind}` must be a string of the letters C, R and E, received {row!r}; pass one.")
            wrong = sorted(set(row) - set(_ACTIONS))
            if wrong:
                raise ValueError(f"`{kind}` must hold the letters C, R and E alone, received {wrong}; correct the row.")
            if len(row) != len(self.attention) or not row:
                lengths = {name: len(getattr(self, name)) for name in KINDS}
                raise ValueError(f"the rows must have one positive length, received {lengths}; one letter per step.")
            if row[0] != COMPUTE:
                raise ValueError(
                    f"`{kind}` must begin with C, received {row[0]!r}: the first step has no cached output to go by."
                )

    @classmethod
    def from_states(cls, states: Sequence[int], provenance: Mapping[str, Any] | None = None) -> EBTable:
        """The table of a list of states, first (noisiest) step first.

        Args:
            states: 0 computes both, 1 reuses attention and computes the MLP, 2 reuses both.
            provenance: How the states came about.

        Raises:
            ValueError: If a state is another value, or the first is not 0.
        """
        unknown = sorted({repr(state) for state in states if isinstance(state, bool) or state not in _STATES})
        if unknown or not len(states):
            raise ValueError(f"`states` must hold 0, 1 and 2 alone, received {unknown or 'none'}; correct the list.")
        rows = ["".join(letters) for letters in zip(*(_STATES[state] for state in states), strict=True)]
        return cls(attention=rows[0], mlp=rows[1], provenance=provenance or {})

    @classmethod
    def uniform(cls, num_steps: int, interval: int, *, action: str = REUSE, end_steps: int = 0) -> EBTable:
        """Every ``interval``-th step computed, attention and MLP alike (as FORA does).

        Args:
            num_steps: Number of steps of the runs.
            interval: Distance of the computed steps.
            action: What the others do, ``"R"`` or ``"E"``.
            end_steps: Last steps, all computed: there a sampler that draws noise has little time left to undo an error.

        Raises:
            ValueError: If ``interval`` is not positive or ``end_steps`` lies outside the run.
        """
        if interval < 1 or not 0 <= end_steps <= num_steps:
            raise ValueError(
                f"`interval` must be positive and `end_steps` between 0 and `num_steps`={num_steps}, received "
                f'{interval} and {end_steps}; EBTable.uniform(50, 2, action="E", end_steps=10) is a start.'
            )
        computed = [step % interval == 0 or step >= num_steps - end_steps for step in range(num_steps)]
        row = "".join(COMPUTE if compute else action for compute in computed)
        noted = {"method": "uniform", "interval": interval, "action": action, "end_steps": end_steps}
        return cls(attention=row, mlp=row, provenance=noted)

    @property
    def num_steps(self) -> int:
        """Number of steps of the runs that the table is for."""
        return len(self.attention)

    def computed(self, kind: str) -> int:
        """Number of steps at which a kind is computed."""
        return int(getattr(self, kind).count(COMPUTE))

    def used_later(self, kind: str, order: int) -> tuple[bool, ...]:
        """Per step, whether an output computed there serves a later one; the others need not be kept."""
        used, last = [False] * self.num_steps, list[int]()
        for step, action in enumerate(getattr(self, kind)):
            if action == COMPUTE:
                last = [step, *last][:order]
            for source in last[: {COMPUTE: 0, REUSE: 1, EXTRAPOLATE: order}[action]]:
                used[source] = True
        return tuple(used)

    def save(self, path: Path | str) -> None:
        """Write the table as JSON."""
        content = {kind: getattr(self, kind) for kind in KINDS} | {"provenance": dict(self.provenance)}
        Path(path).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path | str) -> EBTable:
        """Read what `save` wrote.

        Raises:
            ValueError: If the file is no JSON table.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is not JSON ({error}); pass a file that EBTable.save wrote.") from error
        if not isinstance(content, dict) or not {"attention", "mlp"} <= set(content) <= {*KINDS, "provenance"}:
            raise ValueError(f"{path} holds no table; expected the keys {[*KINDS, 'provenance']}.")
        return cls(**content)


def _released_states() -> list[int]:
    """States of the released script, which counts from the cleanest step (index 0) to the noisiest (index 49)."""
    late = [0, 2, 2, 0, 2, 2, 0, 2, 2, 2, *[0, 2] * 9]
    return [*late, *[0] * 22][::-1]


_GRADED = "CEEE" * 4 + "CE" * 12 + "C" * 10

NAMED_TABLES: dict[str, EBTable] = {
    "dit-ddpm-50": EBTable.from_states(
        _released_states(),
        {"source": "released with arXiv:2503.07120", "model": "DiT-XL/2, ImageNet 256", "sampler": "DDPM, 50 steps"},
    ),
    "graded-50": EBTable(
        attention=_GRADED,
        mlp=_GRADED,
        provenance={"source": "ab-schedulers bench ablation --arms explored", "model": "bundled dit-epsilon"},
    ),
}
"""Tables by name: that published for DiT-XL/2 with 50 DDPM steps, and one that extrapolates, seldom computes where the
noise is strong, every other step in the middle, and the last ten steps all."""


def resolve_table(table: EBTable | str | Sequence[int]) -> EBTable:
    """A table from a table, a name of `NAMED_TABLES`, or a list of states.

    Raises:
        TypeError: If it is none of them.
        ValueError: If the name is unknown or the states are wrong.
    """
    if isinstance(table, EBTable):
        return table
    if isinstance(table, str):
        if table not in NAMED_TABLES:
            raise ValueError(f"`table` must be one of {sorted(NAMED_TABLES)} or an EBTable, received {table!r}.")
        return NAMED_TABLES[table]
    if not isinstance(table, (list, tuple)):
        raise TypeError(f"`table` must be an EBTable, a name or a list of states, received {type(table).__name__}.")
    return EBTable.from_states(table)
