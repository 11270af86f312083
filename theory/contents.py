"""The parts, in the order in which they are read."""

from __future__ import annotations

from . import adams, linear_relation
from .statements import Part

PARTS: tuple[Part, ...] = (adams.part, linear_relation.part)
