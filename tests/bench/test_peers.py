"""Stock solvers are given their documented settings, their calls are counted, and what is missing says why."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from ab_schedulers.bench.metrics import rmse
from ab_schedulers.bench.mixtures import ring_mixture
from ab_schedulers.bench.peers import FLOW_SHIFTS, Peer, deterministic, peers
from ab_schedulers.bench.sampling import SamplingRun, sample, seeded_noise
from ab_schedulers.bench.subjects import mixture_subject

_VP = DDIMScheduler(timestep_spacing="trailing", clip_sample=False)
_FLOW = FlowMatchEulerDiscreteScheduler()
_TWICE = ("Heun", "flow Heun")
_NO_FLOW = ("UniPC 2 ε", "UniPC 3 ε")


_SUBJECTS = {kind: mixture_subject(kind, ring_mixture(radius=0.5, std=0.4)) for kind in ("vp", "flow")}
_NOISE, _LABELS = seeded_noise(_SUBJECTS["vp"], 8, 0, torch.float64)


def _run(kind: str, peer: Peer, calls: int) -> SamplingRun:
    contender = peer.contender(_SUBJECTS[kind].scheduler, calls)
    return sample(_SUBJECTS[kind], contender.scheduler, contender.num_inference_steps, _NOISE, _LABELS)


def _named(stock: object, solver: str, setting: str) -> Peer:
    return next(peer for peer in peers(stock) if (peer.solver, peer.setting) == (solver, setting))


def test_labels_are_unique() -> None:
    for stock in (_VP, _FLOW, DDIMScheduler(beta_schedule="squaredcos_cap_v2")):
        labels = [(peer.solver, peer.setting) for peer in peers(stock)]
        assert len(set(labels)) == len(labels)


@pytest.mark.parametrize(("kind", "stock"), [("vp", _VP), ("flow", _FLOW)])
def test_no_peer_makes_more_calls_than_it_is_given_and_only_two_call_methods_make_fewer(
    kind: str, stock: object
) -> None:
    for peer in peers(stock):
        if kind == "flow" and peer.solver in _NO_FLOW:
            continue
        run = _run(kind, peer, 6)
        assert run.model_calls == (5 if peer.solver in _TWICE else 6), peer
        assert run.images.isfinite().all(), peer


def test_every_flow_solver_comes_with_every_shift() -> None:
    settings: dict[str, set[str]] = {}
    for peer in peers(_FLOW):
        settings.setdefault(peer.solver, set()).add(peer.setting)
    assert all(found == {f"shift {shift:g}" for shift in FLOW_SHIFTS} for found in settings.values())


def test_unipc_in_epsilon_has_no_flow_prediction() -> None:
    peer = next(peer for peer in peers(_FLOW) if peer.solver == "UniPC 2 ε")
    with pytest.raises(ValueError, match="flow_prediction"):
        _run("flow", peer, 6)


def test_only_the_cosine_schedule_clips_lambda() -> None:
    def clipped(schedule: str) -> int:
        return sum("clipped" in peer.setting for peer in peers(DDIMScheduler(beta_schedule=schedule)))

    assert clipped("linear") == 0
    assert clipped("squaredcos_cap_v2") == 6


@pytest.mark.parametrize(
    ("kind", "solver", "setting", "bound"),
    [
        ("vp", "DDIM", "trailing", 0.02),
        ("vp", "IPNDM", "trailing levels", 0.001),
        ("vp", "DPM++ 2M", "lu", 0.001),
        ("vp", "UniPC 2", "exponential", 0.001),
        ("flow", "flow Euler", "shift 2", 0.02),
        ("flow", "flow Heun", "shift 1", 0.001),
        ("flow", "DPM++ 2M", "shift 1.5", 0.003),
    ],
)
def test_peers_converge_to_the_same_trajectory_as_the_reference(
    kind: str, solver: str, setting: str, bound: float
) -> None:
    peer = _named(_VP if kind == "vp" else _FLOW, solver, setting)
    exact = _SUBJECTS[kind].converged(_NOISE, 999.0 if kind == "vp" else 1000.0)
    coarse, fine = (rmse(_run(kind, peer, calls).images, exact) for calls in (20, 80))
    assert fine < min(bound, 0.6 * coarse)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_first_step_of_ipndm_is_ddim_on_the_same_levels(prediction_type: str) -> None:
    stock = DDIMScheduler(timestep_spacing="trailing", clip_sample=False, prediction_type=prediction_type)
    steps = []
    for solver, setting in (("IPNDM", "trailing levels"), ("DDIM", "trailing")):
        contender = _named(stock, solver, setting).contender(stock, 4)
        contender.scheduler.set_timesteps(4)
        noise, output = torch.randn(2, 8, 3, generator=torch.Generator().manual_seed(0))
        steps.append(contender.scheduler.step(output, contender.scheduler.timesteps[0].long(), noise)[0])
    first, second = (step if isinstance(step, torch.Tensor) else step.prev_sample for step in steps)
    assert rmse(first, second) < 1e-3 * float(second.square().mean().sqrt())


def test_ipndm_refuses_a_prediction_it_cannot_convert() -> None:
    stock = DDIMScheduler(prediction_type="sample")
    with pytest.raises(ValueError, match="epsilon or v_prediction"):
        _named(stock, "IPNDM", "trailing levels").contender(stock, 4)


def test_too_few_calls_are_refused() -> None:
    with pytest.raises(ValueError, match="takes no step with 1 model calls"):
        _named(_VP, "PNDM", "leading").contender(_VP, 1)


def test_sa_solver_draws_no_noise() -> None:
    assert deterministic(500) == 0.0
    peer = _named(_VP, "SA-Solver 2", "trailing")
    assert torch.equal(_run("vp", peer, 5).images, _run("vp", peer, 5).images)
