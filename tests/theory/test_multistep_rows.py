"""The rows that the theory writes down are those that are read off the stock schedulers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import diffusers
import pytest

pytest.importorskip("sympy")

from ab_schedulers.theory.multistep_rows import adams_row, deis_row, lms_row, unipc_row

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
