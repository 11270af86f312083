"""One step of each base sampler as a linear map of the sample and of its outputs.

Notation: ``x_t = alpha_t x_0 + sigma_t epsilon``, ``lambda_t = log(alpha_t / sigma_t)``. A *quantity* is what a model
predicts or a cache holds: ``"epsilon"`` (the noise), ``"sample"`` (the clean sample x_0) or ``"velocity"``
(``alpha epsilon - sigma x_0`` on variance-preserving paths, ``epsilon - x_0`` on flow paths).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .interpolation import Number

QUANTITIES = ("epsilon", "sample", "velocity")
ALGORITHM_TYPES = ("dpmsolver++", "dpmsolver", "sde-dpmsolver++", "sde-dpmsolver")
SOLVER_TYPES = ("midpoint", "heun")


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseStep:
    """One base step: ``x_next = sample x + sum_p outputs[p] m_p + sqrt(variance) z + clip (clipped x_0 - x_0)``.

    ``outputs`` are the weights of the base sampler's outputs, newest first (one for DDIM and flow Euler, up to three
    for DPM-Solver++); ``z`` is standard normal noise.

    Theory: docs/theory/03-base-steps.md.
    """

    sample: Number
    outputs: tuple[Number, ...]
    variance: Number = 0
    clip: Number = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantityMap:
    """``x_0 = x0_sample x + x0_output q`` and ``epsilon = eps_sample x + eps_output q`` for a quantity ``q``.

    Theory: docs/theory/03-base-steps.md.
    """

    x0_sample: Number
    x0_output: Number
    eps_sample: Number
    eps_output: Number


def quantity_map(quantity: str, alpha: Number, sigma: Number, *, flow: bool = False) -> QuantityMap:
    """Clean sample and noise as linear functions of the sample and of ``quantity`` at one node.

    Derived in docs/theory/03-base-steps.md.

    Args:
        quantity: ``"epsilon"``, ``"sample"`` or ``"velocity"``.
        alpha: Signal scale of the node.
        sigma: Noise scale of the node.
        flow: Whether ``"velocity"`` means ``epsilon - x_0`` (flow matching, where ``alpha = 1 - sigma``) rather than
            ``alpha epsilon - sigma x_0`` (Salimans and Ho 2022, arXiv:2202.00512, where ``alpha^2 + sigma^2 = 1``).

    Raises:
        ValueError: For an unknown quantity.
        ZeroDivisionError: With floats, for ``"epsilon"`` where alpha is zero and ``"sample"`` where sigma is zero.
    """
    zero, one = 0 * alpha, 1 + 0 * alpha
    if quantity == "epsilon":
        return QuantityMap(x0_sample=one / alpha, x0_output=-sigma / alpha, eps_sample=zero, eps_output=one)
    if quantity == "sample":
        return QuantityMap(x0_sample=zero, x0_output=one, eps_sample=one / sigma, eps_output=-alpha / sigma)
    if quantity == "velocity":
        if flow:
            return QuantityMap(x0_sample=one, x0_output=-sigma, eps_sample=one, eps_output=one - sigma)
        return QuantityMap(x0_sample=alpha, x0_output=-sigma, eps_sample=sigma, eps_output=alpha)
    raise ValueError(f"`quantity` must be one of {list(QUANTITIES)}, received {quantity!r}; choose one of them.")


def convert_quantity(
    source: str,
    target: str,
    alpha: Number,
    sigma: Number,
    *,
    flow: bool = False,
    noise_scale: Number | None = None,
) -> tuple[Number, Number]:
    """Scalars ``(u, w)`` with ``target = u x + w source`` at one node.

    Derived in docs/theory/03-base-steps.md.

    Args:
        source: The quantity at hand, usually the model's prediction.
        target: The quantity wanted, usually the cached one.
        alpha: Signal scale of the node.
        sigma: Noise scale of the node.
        flow: See `quantity_map`.
        noise_scale: If given, the implied noise is multiplied by it first, ``epsilon -> b epsilon``, and the clean
            sample follows as ``x_0 = (x - sigma b epsilon) / alpha`` (noise scaling of EB-Cache, arXiv:2503.07120).
    """
    for name, quantity in (("source", source), ("target", target)):
        if quantity not in QUANTITIES:
            raise ValueError(f"`{name}` must be one of {list(QUANTITIES)}, received {quantity!r}; choose one of them.")
    zero, one = 0 * alpha, 1 + 0 * alpha
    if noise_scale is None and source == target:
        return zero, one
    known = quantity_map(source, alpha, sigma, flow=flow)
    epsilon = (known.eps_sample, known.eps_output)
    clean = (known.x0_sample, known.x0_output)
    if noise_scale is not None:
        epsilon = (noise_scale * epsilon[0], noise_scale * epsilon[1])
        clean = ((one - sigma * epsilon[0]) / alpha, -sigma * epsilon[1] / alpha)
    if target == "epsilon":
        return epsilon
    if target == "sample":
        return clean
    noise_part, clean_part = (one, one) if flow else (alpha, sigma)
    return (
        noise_part * epsilon[0] - clean_part * clean[0],
        noise_part * epsilon[1] - clean_part * clean[1],
    )


def ddim_step(start: QuantityMap, alpha_next: Number, direction: Number, variance: Number = 0) -> BaseStep:
    """One step of DDIM, ``x_next = alpha_next x_0 + direction epsilon + sqrt(variance) z``.

    Deterministic DDIM has ``direction = sigma_next`` and no variance; with ``eta`` it is
    ``sqrt(sigma_next^2 - variance)`` (Song et al. 2021, arXiv:2010.02502, equation 12). On a flow path,
    ``alpha = 1 - sigma`` and ``direction = sigma_next`` give Euler's step ``x + (sigma_next - sigma) v`` exactly, and
    ``direction = 0, variance = sigma_next^2`` the stochastic sampling of flow matching.

    Derived in docs/theory/03-base-steps.md.

    Args:
        start: The quantity map of the output at the node where the step starts.
        alpha_next: Signal scale at the end of the step.
        direction: Weight of the noise at the end of the step.
        variance: Variance of the fresh noise.
    """
    return BaseStep(
        sample=alpha_next * start.x0_sample + direction * start.eps_sample,
        outputs=(alpha_next * start.x0_output + direction * start.eps_output,),
        variance=variance,
        clip=alpha_next,
    )


def dpmsolver_step(
    alphas: tuple[Number, Number],
    sigmas: tuple[Number, Number],
    lambdas: Sequence[Number],
    *,
    order: int,
    algorithm_type: str = "dpmsolver++",
    solver_type: str = "midpoint",
) -> BaseStep:
    """One multistep update of DPM-Solver or DPM-Solver++, orders 1 to 3, deterministic or SDE.

    With ``h = lambda_next - lambda``: ``x_next = (sigma_next/sigma) x - alpha_next (e^-h - 1) D_0 + c_1 D_1 + c_2 D_2``
    and the divided differences D_1, D_2 of the last outputs (Lu et al. 2022, arXiv:2211.01095; arXiv:2206.00927 for
    DPM-Solver, which is the same formula with alpha and sigma exchanged and ``h -> -h``). ``e^-h`` is the rational
    ``sigma_next alpha / (sigma alpha_next)``; the log-SNRs enter through ratios of their differences, so a node at
    infinite lambda is harmless wherever diffusers itself can handle it.

    Derived in docs/theory/03-base-steps.md.

    Args:
        alphas: Signal scales ``(alpha, alpha_next)``.
        sigmas: Noise scales ``(sigma, sigma_next)``.
        lambdas: ``(lambda_next, lambda, lambda_previous, ...)``, at least ``order + 1`` of them.
        order: 1, 2 or 3.
        algorithm_type: ``"dpmsolver++"``, ``"dpmsolver"``, ``"sde-dpmsolver++"`` or ``"sde-dpmsolver"``.
        solver_type: ``"midpoint"`` or ``"heun"``; order 3 knows only one form.

    Returns:
        The step in the sampler's own outputs: x_0 for the ``++`` types, epsilon for the others.

    Raises:
        ValueError: For an unknown order, algorithm or solver type, or ``"sde-dpmsolver"`` of order 3.
    """
    _check_solver(order, algorithm_type, solver_type)
    (alpha, alpha_next), (sigma, sigma_next) = alphas, sigmas
    stochastic = algorithm_type.startswith("sde-")
    spans = [lambdas[i] - lambdas[i + 1] for i in range(order)]
    if algorithm_type.endswith("++"):
        decay = sigma_next * alpha / (sigma * alpha_next)
        sample, scale = sigma_next / sigma, alpha_next
        if stochastic:
            outputs = _exponential_outputs(scale, decay * decay, spans, 2, order, solver_type)
            if order == 3:  # diffusers 0.42 subtracts 1/2 from the D_2 factor where the derivation adds it
                outputs = _add_second_difference(outputs, -scale, spans)
            variance = sigma_next * sigma_next * (1 - decay * decay)
            return BaseStep(sample=sample * decay, outputs=outputs, variance=variance)
        return BaseStep(sample=sample, outputs=_exponential_outputs(scale, decay, spans, 1, order, solver_type))
    growth = alpha_next * sigma / (alpha * sigma_next)
    outputs = _exponential_outputs(sigma_next, growth, spans, -1, order, solver_type)
    if stochastic:
        variance = sigma_next * sigma_next * (growth * growth - 1)
        return BaseStep(sample=alpha_next / alpha, outputs=tuple(2 * b for b in outputs), variance=variance)
    return BaseStep(sample=alpha_next / alpha, outputs=outputs)


def _check_solver(order: int, algorithm_type: str, solver_type: str) -> None:
    for name, value, choices in (
        ("order", order, (1, 2, 3)),
        ("algorithm_type", algorithm_type, ALGORITHM_TYPES),
        ("solver_type", solver_type, SOLVER_TYPES),
    ):
        if value not in choices:
            raise ValueError(f"`{name}` must be one of {list(choices)}, received {value!r}; choose one of them.")
    if order == 3 and algorithm_type == "sde-dpmsolver":
        raise ValueError(
            '`algorithm_type="sde-dpmsolver"` has no third-order update, received order 3; use order 2 or '
            '"sde-dpmsolver++".'
        )


def _exponential_outputs(
    scale: Number, decay: Number, spans: Sequence[Number], factor: int, order: int, solver_type: str
) -> tuple[Number, ...]:
    """Weights of the outputs in ``scale`` times the exponential integrator over ``factor * spans[0]``.

    ``-(decay - 1) D_0 + c_1 D_1 + c_2 D_2`` with ``decay = exp(-factor * spans[0])``.
    """
    first = scale * (1 - decay)
    if order == 1:
        return (first,)
    h = factor * spans[0]
    heun = scale * ((decay - 1) / h + 1)
    if order == 2:
        slope = (heun if solver_type == "heun" else first / 2) * (spans[0] / spans[1])
        return first + slope, -slope
    second = -scale * (2 * (decay - 1 + h) - h * h) / (2 * h * h)
    newer = heun * (1 + spans[1] / (spans[1] + spans[2])) * (spans[0] / spans[1])
    older = -heun * (spans[1] / (spans[1] + spans[2])) * (spans[0] / spans[2])
    return _add_second_difference((first + newer, older - newer, -older), second, spans)


def _add_second_difference(outputs: tuple[Number, ...], weight: Number, spans: Sequence[Number]) -> tuple[Number, ...]:
    """Add ``weight * D_2``, ``D_2 = h / (h_0 + h_1) * (h / h_0 (m_0 - m_1) - h / h_1 (m_1 - m_2))``."""
    common = weight * (spans[0] / (spans[1] + spans[2]))
    newer, older = common * (spans[0] / spans[1]), common * (spans[0] / spans[2])
    return outputs[0] + newer, outputs[1] - newer - older, outputs[2] + older
