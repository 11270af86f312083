"""The parts, in the order in which they are read."""

from __future__ import annotations

from . import (
    adams,
    amplification,
    base_step_maps,
    corrected_orders,
    exposure_bias,
    fitted_rows,
    folded_rows,
    global_bound,
    linear_relation,
    multistep_orders,
    multistep_rows,
    observed_orders,
    row_limits,
    stability,
    truncation,
)
from .statements import Part

# A long part goes on in further modules, which add their statements to it.
CONTINUATIONS = (row_limits, multistep_orders, corrected_orders, observed_orders, amplification)

PARTS: tuple[Part, ...] = (
    adams.part,
    linear_relation.part,
    base_step_maps.part,
    folded_rows.part,
    multistep_rows.part,
    truncation.part,
    global_bound.part,
    stability.part,
    exposure_bias.part,
    fitted_rows.part,
)
