"""Rows are read off stock schedulers by unit vectors: they reproduce stock's runs, and run inside ours."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from ab_schedulers import ABCacheScheduler
from ab_schedulers.numerics import Row, convert_quantity, ddim_step, dpmsolver_step, quantity_map
from ab_schedulers.schedulers.base import PREDICTION_QUANTITIES
from ab_schedulers.schedulers.probe import ProbedRows, probe
from ab_schedulers.schedulers.probed_calibrations import calibration_entry

from .conftest import denoise, run_through, starting_sample

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*algorithm_type .* is deprecated:FutureWarning"),
    # stock DEIS calls numpy's functions on tensors
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept context and return_scalar:DeprecationWarning"),
]

CALLS = 10
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
V = {"prediction_type": "v_prediction"}
TO_MINIMUM = {"final_sigmas_type": "sigma_min"}
SIGMAS = [1 - i / CALLS for i in range(CALLS)]

# name of the class, its options, the quantity it integrates, the most outputs a row weights
STOCK: dict[str, tuple[str, dict[str, Any], str, int]] = {
    "DDIM": ("DDIMScheduler", {"clip_sample": False, "timestep_spacing": "trailing"}, "epsilon", 1),
    "CogVideoX": ("CogVideoXDDIMScheduler", V, "epsilon", 1),
    "PLMS": ("PNDMScheduler", {"skip_prk_steps": True}, "epsilon", 5),
    "DPM++1": ("DPMSolverMultistepScheduler", {"solver_order": 1, **V}, "sample", 1),
    "DPM++2M": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}, "sample", 2),
    "DPM++3M": ("DPMSolverMultistepScheduler", {"solver_order": 3}, "sample", 3),
    "DPM++2M flow": ("DPMSolverMultistepScheduler", FLOW, "sample", 2),
    "DPM-Solver 2": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver", **TO_MINIMUM}, "epsilon", 2),
    "DPM++2S": ("DPMSolverSinglestepScheduler", {"lower_order_final": True}, "sample", 2),
    "UniPC2": ("UniPCMultistepScheduler", {"solver_order": 2}, "sample", 3),
    "UniPC2 bh1": ("UniPCMultistepScheduler", {"solver_order": 2, "solver_type": "bh1", **TO_MINIMUM}, "sample", 3),
    "UniPC3": ("UniPCMultistepScheduler", {"solver_order": 3, **V}, "sample", 4),
    "UniPC3 flow": ("UniPCMultistepScheduler", {"solver_order": 3, **FLOW}, "sample", 4),
    "UniPC2 noise": ("UniPCMultistepScheduler", {"predict_x0": False, **TO_MINIMUM}, "epsilon", 3),
    "DEIS2": ("DEISMultistepScheduler", {"solver_order": 2}, "epsilon", 2),
    "DEIS3": ("DEISMultistepScheduler", {"solver_order": 3}, "epsilon", 3),
    "SA-Solver without noise": ("SASolverScheduler", {"tau_func": lambda t: 0}, "sample", 3),
    "Euler": ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}, "epsilon", 1),
    "LMS": ("LMSDiscreteScheduler", {"use_karras_sigmas": True}, "epsilon", 4),
    "IPNDM": ("IPNDMScheduler", {}, "epsilon", 4),
    "flow Euler": ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, "velocity", 1),
}
SIGMA_COORDINATES = ("Euler", "LMS")
# Stock DEIS subtracts antiderivatives in single precision: how much of their digits is left differs between processors.
ROUNDING = {"DEIS2": 2e-5, "DEIS3": 2e-5}


def build(name: str) -> Any:
    scheduler, options, _, _ = STOCK[name]
    return getattr(diffusers, scheduler)(**options)


def walk_rows(probed: ProbedRows, predicts: str, sample: torch.Tensor) -> list[torch.Tensor]:
    """The run of the test model by the rows alone, from a sample in their coordinates."""
    samples, outputs = [], []
    levels = zip(probed.timesteps, probed.alphas, probed.sigmas, probed.rows, strict=False)
    for timestep, alpha, sigma, row in levels:
        of_sample, of_output = convert_quantity(predicts, probed.quantity, alpha, sigma, flow=probed.flow)
        outputs.insert(0, of_sample * sample + of_output * denoise(sample, timestep))
        sample = row.sample * sample + sum(b * f for b, f in zip(row.history, outputs, strict=False))
        samples.append(sample)
    return samples


@pytest.mark.parametrize("name", STOCK)
def test_the_rows_reproduce_a_run_of_the_stock_scheduler_with_its_own_prediction(name: str) -> None:
    stock = build(name)
    probed = probe(stock, CALLS)
    stock.set_timesteps(CALLS)
    scale = probed.alphas[0] if name in SIGMA_COORDINATES else 1.0
    start = starting_sample()
    if name in SIGMA_COORDINATES:
        theirs, sample = [], start / scale
        for i, timestep in enumerate(stock.timesteps):
            output = denoise(stock.scale_model_input(sample, timestep), timestep)
            sample = stock.step(output, timestep, sample).prev_sample
            theirs.append(sample * probed.alphas[i + 1])
    else:
        theirs = run_through(stock, denoise, start)
    ours = walk_rows(probed, PREDICTION_QUANTITIES[stock.config.get("prediction_type", "v_prediction")], start)
    for i, (mine, their) in enumerate(zip(ours, theirs, strict=True)):
        assert float((mine - their).abs().max() / their.abs().max()) < 2e-5, f"call {i}"


@pytest.mark.parametrize("name", STOCK)
def test_the_rows_are_in_the_quantity_the_scheduler_integrates_and_as_deep_as_its_history(name: str) -> None:
    _, _, quantity, depth = STOCK[name]
    probed = probe(build(name), CALLS)
    assert (probed.quantity, max(len(row.history) for row in probed.rows)) == (quantity, depth)


def carried(probed: ProbedRows) -> tuple[list[float], list[float]]:
    """The levels a constant signal and a constant noise are carried to, call by call."""
    of_clean = {"epsilon": 0, "sample": 1, "velocity": -1}[probed.quantity]
    of_noise = {"epsilon": 1, "sample": 0, "velocity": 1}[probed.quantity]
    levels = list(zip(probed.rows, probed.alphas, probed.sigmas, strict=False))
    return (
        [row.sample * alpha + of_clean * sum(row.history) for row, alpha, _ in levels],
        [row.sample * sigma + of_noise * sum(row.history) for row, _, sigma in levels],
    )


@pytest.mark.parametrize("name", [name for name in STOCK if name != "IPNDM"])
def test_the_rows_carry_constant_signal_and_noise_exactly_along_the_levels(name: str) -> None:
    probed, rounding = probe(build(name), CALLS), ROUNDING.get(name, 2e-6)
    signals, noises = carried(probed)
    assert signals == pytest.approx(probed.alphas[1:], abs=rounding)
    assert noises == pytest.approx(probed.sigmas[1:], abs=rounding)


class DoubleDEIS(diffusers.DEISMultistepScheduler):
    """Stock DEIS with its levels in double precision."""

    def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        super().set_timesteps(*args, **kwargs)
        self.sigmas = self.sigmas.double()


@pytest.mark.parametrize("order", [2, 3])
def test_what_the_rows_of_deis_miss_is_rounding(order: int) -> None:
    probed = probe(DoubleDEIS(solver_order=order), CALLS)
    signals, noises = carried(probed)
    assert signals == pytest.approx(probed.alphas[1:], abs=1e-13)
    assert noises == pytest.approx(probed.sigmas[1:], abs=1e-13)


def test_ddim_with_linspace_spacing_walks_to_other_levels_than_its_next_timestep() -> None:
    probed = probe(diffusers.DDIMScheduler(clip_sample=False, timestep_spacing="linspace"), CALLS)
    misses = [abs(row.sample * probed.alphas[i] - probed.alphas[i + 1]) for i, row in enumerate(probed.rows)]
    assert max(misses) > 0.01


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("solver_type", ["midpoint", "heun"])
def test_probed_rows_of_dpmsolver_are_those_of_the_base_step(order: int, solver_type: str) -> None:
    stock = diffusers.DPMSolverMultistepScheduler(solver_order=order, solver_type=solver_type)
    probed = probe(stock, 16)  # from 15 steps on, the last but one keeps its order
    lambdas = [np.log(a / s) if s else np.inf for a, s in zip(probed.alphas, probed.sigmas, strict=True)]
    for i in range(order, 15):
        spans = [lambdas[i + 1], *(lambdas[i - lag] for lag in range(order))]
        ends = probed.alphas[i : i + 2], probed.sigmas[i : i + 2]
        step = dpmsolver_step(*ends, spans, order=order, solver_type=solver_type)
        assert probed.rows[i].sample == pytest.approx(step.sample, rel=1e-5)
        assert probed.rows[i].history == pytest.approx(step.outputs, rel=1e-3, abs=1e-5)


def test_probed_rows_of_ddim_are_those_of_the_base_step_in_each_quantity() -> None:
    for quantity in ("epsilon", "sample", "velocity"):
        probed = probe(build("DDIM"), CALLS, quantity=quantity)
        for i, row in enumerate(probed.rows):
            start = quantity_map(quantity, probed.alphas[i], probed.sigmas[i])
            step = ddim_step(start, probed.alphas[i + 1], probed.sigmas[i + 1])
            assert (row.sample, *row.history) == pytest.approx((step.sample, *step.outputs), rel=1e-4, abs=1e-6)


def test_in_another_quantity_the_history_grows_with_every_call() -> None:
    stock = build("DPM++2M")
    assert [len(row.history) for row in probe(stock, 6).rows] == [1, 2, 2, 2, 2, 1]
    assert [len(row.history) for row in probe(stock, 6, quantity="epsilon").rows][:5] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("name", ["UniPC3", "DEIS2", "LMS", "flow Euler"])
def test_probing_leaves_the_scheduler_and_the_random_numbers_as_they_were(name: str) -> None:
    stock = build(name)
    stock.set_timesteps(5)
    before, config, state = copy.deepcopy(stock.__dict__), dict(stock.config), torch.random.get_rng_state()
    probe(stock, CALLS)
    assert dict(stock.config) == config
    assert set(stock.__dict__) == set(before)
    assert torch.equal(stock.timesteps, before["timesteps"]) and torch.equal(stock.sigmas, before["sigmas"])
    assert stock.step_index == before["_step_index"] and stock.begin_index == before["_begin_index"]
    assert torch.equal(torch.random.get_rng_state(), state)


class Squashed(diffusers.DDIMScheduler):
    """A scheduler that is not linear, without an option that says so."""

    def step(self, model_output: Any, timestep: Any, sample: Any, **kwargs: Any) -> Any:
        return (super().step(model_output, timestep, sample, return_dict=False)[0].tanh(),)


class ClippingDDIM(diffusers.DDIMScheduler):
    """A subclass with the defaults of its parent, which clips."""


REFUSALS: list[tuple[Any, str]] = [
    (diffusers.DDIMScheduler(), "DDIMScheduler with `clip_sample`"),
    (ClippingDDIM(), "DDIMScheduler with `clip_sample`"),
    (diffusers.DDIMScheduler(clip_sample=False, thresholding=True), "`thresholding` set is no linear"),
    (diffusers.DPMSolverMultistepScheduler(thresholding=True), "`thresholding` set is no linear"),
    (
        diffusers.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++"),
        "`algorithm_type='sde-...'` set draws noise",
    ),
    (diffusers.FlowMatchEulerDiscreteScheduler(stochastic_sampling=True), "`stochastic_sampling` set draws noise"),
    (diffusers.UniPCMultistepScheduler(solver_p=diffusers.DDIMScheduler()), "`solver_p` set"),
    (diffusers.UniPCMultistepScheduler(predict_x0=False), "is singular at call 5 of 6"),
    (diffusers.SASolverScheduler(), "does not follow fixed rows"),
    (Squashed(clip_sample=False), "does not follow fixed rows"),
    (diffusers.HeunDiscreteScheduler(), "HeunDiscreteScheduler .* calls the model 2 times per step"),
    (diffusers.FlowMatchHeunDiscreteScheduler(), "FlowMatchHeunDiscreteScheduler .* calls the model 2 times"),
    (diffusers.EulerAncestralDiscreteScheduler(), "EulerAncestralDiscreteScheduler .* draws noise"),
    (ABCacheScheduler.from_config(diffusers.DDIMScheduler().config), "read `scheduler.rows`"),
]


@pytest.mark.parametrize(
    ("scheduler", "complaint"), REFUSALS, ids=lambda value: value if isinstance(value, str) else type(value).__name__
)
def test_what_has_no_rows_is_refused_by_name(scheduler: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        probe(scheduler, 6)


def test_arguments_of_step_and_unknown_quantities_are_refused() -> None:
    stock = build("DDIM")
    with pytest.raises(TypeError, match=r"no argument \['eta'\], expected some of \['device'\]"):
        probe(stock, 6, eta=1.0)
    with pytest.raises(ValueError, match="`quantity` must be one of"):
        probe(stock, 6, quantity="score")


# -- inside our schedulers ------------------------------------------------------------------------------------------

INSIDE = ["DDIM", "CogVideoX", "DPM++3M", "DPM++2M flow", "DPM++2S", "UniPC2", "UniPC3", "UniPC2 noise", "DEIS3"]


@pytest.mark.parametrize("name", [*INSIDE, "SA-Solver without noise", "flow Euler"])
def test_our_scheduler_walks_as_the_stock_scheduler_with_its_probed_rows(name: str) -> None:
    stock = build(name)
    ours = ABCacheScheduler.from_config(stock.config)
    entry = calibration_entry(probe(stock, CALLS), ours)
    ours = ABCacheScheduler.from_config(ours.config, calibrations=entry)
    stock.set_timesteps(CALLS)
    ours.set_timesteps(CALLS)
    assert ours.rows == tuple(
        Row(sample=row["sample"], history=tuple(row["history"]), order=len(row["history"]))
        for row in entry[str(CALLS)]["rows"]
    )
    for mine, theirs in zip(
        run_through(ours, denoise, starting_sample()), run_through(stock, denoise, starting_sample()), strict=True
    ):
        assert float((mine - theirs).abs().max() / theirs.abs().max()) < 1e-4


def test_unipc_runs_inside_flow_euler_where_both_are_given_the_same_sigmas() -> None:
    stock = build("UniPC3 flow")
    ours = ABCacheScheduler.from_config(diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0).config)
    entry = calibration_entry(probe(stock, CALLS, sigmas=np.array(SIGMAS)), ours, sigmas=SIGMAS)
    ours = ABCacheScheduler.from_config(ours.config, calibrations=entry)
    stock.set_timesteps(CALLS, sigmas=np.array(SIGMAS))
    ours.set_timesteps(sigmas=SIGMAS)
    model = lambda sample, timestep: denoise(sample, 400)  # noqa: E731 - stock cuts its timesteps off
    for mine, theirs in zip(
        run_through(ours, model, starting_sample()), run_through(stock, model, starting_sample()), strict=True
    ):
        assert float((mine - theirs).abs().max()) < 1e-4


def test_rows_of_another_grid_are_refused_with_the_first_node_that_differs() -> None:
    ours = ABCacheScheduler.from_config(build("DPM++3M").config)
    for name in ("DPM++2M", "DPM++2M flow", "PLMS"):
        with pytest.raises(ValueError, match=r"first at node \d+ .*; its rows would not fit"):
            calibration_entry(probe(build(name), CALLS), ours)
    assert ours.plan is None, "the scheduler itself was given a grid"


def test_the_example_of_the_docstring_holds() -> None:
    assert "('sample', [1, 2, 3, 3, 3, 3, 3, 1])" in (inspect.getdoc(probe) or "")
    probed = probe(diffusers.UniPCMultistepScheduler(), 8)
    assert (probed.quantity, [len(row.history) for row in probed.rows]) == ("sample", [1, 2, 3, 3, 3, 3, 3, 1])
