"""The numerics of cached sampling: pure functions on ``+ - * /``, standard library only."""

from .base_steps import QUANTITIES, BaseStep, QuantityMap, convert_quantity, ddim_step, dpmsolver_step, quantity_map
from .bounds import (
    adams_bashforth_error_constant,
    adams_bashforth_weights,
    adams_moulton_error_constant,
    adams_moulton_weights,
    embedded_difference,
    embedded_weights,
    interpolation_error_constant,
    noise_gain,
    window_noise_gain,
)
from .error_bounds import gronwall_bound, prediction_error_bound, window_output_weights
from .folding import BaseGrid, Row, fold
from .integral_rows import integral_rows
from .interpolation import Number, binomial_weights, check_nodes, lagrange_integral_weights, lagrange_weights
from .noise_scales import correlated_variance, published_noise_scale
from .placement import flow_sigmas, noise_ratios, place_calls
from .plans import CachePlan
from .ridge import ridge_solution

__all__ = [
    "QUANTITIES",
    "BaseGrid",
    "BaseStep",
    "CachePlan",
    "Number",
    "QuantityMap",
    "Row",
    "adams_bashforth_error_constant",
    "adams_bashforth_weights",
    "adams_moulton_error_constant",
    "adams_moulton_weights",
    "binomial_weights",
    "check_nodes",
    "convert_quantity",
    "correlated_variance",
    "ddim_step",
    "dpmsolver_step",
    "embedded_difference",
    "embedded_weights",
    "flow_sigmas",
    "fold",
    "gronwall_bound",
    "integral_rows",
    "interpolation_error_constant",
    "lagrange_integral_weights",
    "lagrange_weights",
    "noise_gain",
    "noise_ratios",
    "place_calls",
    "prediction_error_bound",
    "published_noise_scale",
    "quantity_map",
    "ridge_solution",
    "window_noise_gain",
    "window_output_weights",
]
