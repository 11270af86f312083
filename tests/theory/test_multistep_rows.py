"""The rows that the theory writes down are those that are read off the stock schedulers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import diffusers
import pytest
import torch

pytest.importorskip("sympy")

from ab_schedulers.theory.multistep_rows import adams_row, deis_row, lms_row, unipc_row

from ab_schedulers.bench.exact_flows import GaussianFlow, PredictionType
from ab_schedulers.schedulers.probe import probe

pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__ must accept context:DeprecationWarning")

CALLS = 20
Levels = tuple[Sequence[float], Sequence[float], Sequence[float]]
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
KARRAS = {"use_karras_sigmas": True}

# name of the class, its options, the row as a formula of alphas, sigmas and lambdas (the end of the step first)
CASES: dict[str, tuple[str, dict[str, Any], Callable[..., list[Any]]]] = {
    "PLMS": ("PNDMScheduler", {"skip_prk_steps": True}, lambda a, s, _: adams_row(4, a, s)),
    "iPNDM": ("IPNDMScheduler", {}, lambda a, s, _: adams_row(4, a, s)),
    "LMS": ("LMSDiscreteScheduler", KARRAS, lambda a, s, _: lms_row(4, a, s)),
    **{
        f"DEIS {k}": ("DEISMultistepScheduler", {"solver_order": k}, lambda a, s, lam, k=k: deis_row(k, a, s, lam))
        for k in (1, 2, 3)
    },
    **{
        f"UniPC {p}, {name}": (
            "UniPCMultistepScheduler",
            {"solver_order": p, **options},
            lambda a, s, lam, p=p, name=name: unipc_row(p, a, s, lam, bh1=name == "bh1"),
        )
        for p in (1, 2, 3)
        for name, options in {
            "even": {},
            "graded": KARRAS,
            "flow": FLOW,
            "bh1": {"solver_type": "bh1", "final_sigmas_type": "sigma_min"},
        }.items()
    },
}


@pytest.mark.parametrize("name", CASES)
def test_the_formula_of_a_row_is_what_the_stock_scheduler_does(name: str) -> None:
    scheduler, options, formula = CASES[name]
    probed = probe(getattr(diffusers, scheduler)(**options), CALLS)
    compared = 0
    for call in range(6, len(probed.rows) - 4):  # all histories are full, and no final order is lowered yet
        places = range(call + 1, call - 5, -1)
        alphas, sigmas = ([levels[i] for i in places] for levels in (probed.alphas, probed.sigmas))
        lambdas = [math.log(a / s) for a, s in zip(alphas, sigmas, strict=True)]
        sample, *outputs = (float(weight) for weight in formula(alphas, sigmas, lambdas))
        row = probed.rows[call]
        assert row.sample == pytest.approx(sample, rel=1e-5)
        assert row.history == pytest.approx(outputs, rel=2e-3, abs=2e-4 * max(map(abs, outputs))), f"call {call}"
        compared += 1
    assert compared == CALLS - 10 + (name == "PLMS")


FLOW_OF_DATA = GaussianFlow(mean=0.5, std=1.2)
OUTPUTS: dict[str, PredictionType] = {"epsilon": "epsilon", "sample": "sample"}


def middle_error(scheduler: str, options: dict[str, Any], calls: int) -> float:
    """Largest error of the stock rows over the middle half of a run that is exact until then."""
    probed = probe(getattr(diffusers, scheduler)(**options), calls)
    levels = list(zip(probed.alphas, probed.sigmas, strict=True))
    first, last = len(probed.rows) // 4, 3 * len(probed.rows) // 4
    sample = torch.tensor([1.3], dtype=torch.float64)

    def output(x: torch.Tensor, call: int) -> torch.Tensor:
        return FLOW_OF_DATA.model_output(x, *levels[call], OUTPUTS[probed.quantity])

    exact = [FLOW_OF_DATA.solve(sample, levels[first], levels[call]) for call in range(last + 1)]
    outputs = [output(exact[call], call) for call in range(first - 1, -1, -1)]
    errors = []
    for call in range(first, last):
        outputs.insert(0, output(sample, call))
        row = probed.rows[call]
        sample = row.sample * sample + sum(b * f for b, f in zip(row.history, outputs, strict=False))
        errors.append(float((sample - exact[call + 1]).abs()))
    return max(errors)


# class, options, calls of the coarser run, order that the theory gives on a graded grid
SLOPES: dict[str, tuple[str, dict[str, Any], int, int]] = {
    "DDIM": ("DDIMScheduler", {"clip_sample": False}, 50, 1),
    "PLMS": ("PNDMScheduler", {"skip_prk_steps": True}, 50, 2),
    "iPNDM": ("IPNDMScheduler", {}, 50, 2),
    "LMS": ("LMSDiscreteScheduler", KARRAS, 100, 4),
    "DPM++2M": ("DPMSolverMultistepScheduler", KARRAS, 50, 2),
    "DEIS 2": ("DEISMultistepScheduler", {"solver_order": 2, **KARRAS}, 50, 2),
    "DEIS 3": ("DEISMultistepScheduler", {"solver_order": 3, **KARRAS}, 25, 3),
    **{f"UniPC {p}": ("UniPCMultistepScheduler", {"solver_order": p, **KARRAS}, 50, p + 1) for p in (1, 2, 3)},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOPES)
def test_stock_schedulers_show_the_orders_of_the_theory_on_graded_grids(name: str) -> None:
    scheduler, options, calls, order = SLOPES[name]
    coarse, fine = (middle_error(scheduler, options, count) for count in (calls, 2 * calls))
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.2)


@pytest.mark.slow
def test_stock_deis_of_order_three_loses_in_float32_what_more_steps_gain() -> None:
    options = {"solver_order": 3, **KARRAS}
    few, many = (middle_error("DEISMultistepScheduler", options, calls) for calls in (50, 200))
    assert many > 2 * few
