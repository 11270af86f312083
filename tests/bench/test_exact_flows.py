"""The exact flows solve their differential equation, and their model outputs belong together."""

from __future__ import annotations

import itertools

import pytest
import torch

from ab_schedulers.bench.exact_flows import (
    ExactFlow,
    FrozenFlow,
    GaussianFlow,
    LinearFlow,
    LogisticFlow,
)
from ab_schedulers.bench.mixtures import MixtureFlow, random_mixture, ring_mixture
from ab_schedulers.bench.sampling import sample
from ab_schedulers.bench.subjects import mixture_subject

CLOSED_FORMS: list[ExactFlow] = [
    FrozenFlow(quantity="epsilon"),
    FrozenFlow(quantity="sample"),
    FrozenFlow(quantity="flow_prediction"),
    LinearFlow(),
    LogisticFlow(),
    GaussianFlow(),
]
MIXTURES = [random_mixture(), ring_mixture()]


def _name(flow: ExactFlow) -> str:
    return type(flow).__name__ + getattr(flow, "quantity", "") + str(getattr(flow, "dimension", ""))


def _states(flow: ExactFlow, count: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    width = flow.dimension if isinstance(flow, MixtureFlow) else 4
    states = torch.randn(count, width, generator=generator, dtype=torch.float64)
    return torch.sigmoid(states) if isinstance(flow, LogisticFlow) else states


@pytest.mark.parametrize("flow", CLOSED_FORMS, ids=_name)
def test_closed_form_has_the_velocity_as_its_derivative(flow: ExactFlow) -> None:
    start, step = 0.9, 1e-4
    for r in (0.15, 0.4, 0.8):
        z = _states(flow)
        ahead, behind = flow.solution(z, start, r + step), flow.solution(z, start, r - step)
        expected = flow.velocity(flow.solution(z, start, r), r)
        torch.testing.assert_close((ahead - behind) / (2 * step), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("flow", CLOSED_FORMS, ids=_name)
def test_closed_form_starts_at_its_start_and_composes(flow: ExactFlow) -> None:
    z = _states(flow)
    torch.testing.assert_close(flow.solution(z, 0.7, 0.7), z)
    halfway = flow.solution(flow.solution(z, 0.9, 0.5), 0.5, 0.2)
    torch.testing.assert_close(halfway, flow.solution(z, 0.9, 0.2))


def test_mixture_of_one_component_is_the_gaussian_flow() -> None:
    gaussian = GaussianFlow(mean=0.5, std=0.3)
    mixture = MixtureFlow(
        means=torch.full((1, 3), 0.5, dtype=torch.float64),
        stds=torch.tensor([0.3], dtype=torch.float64),
        weights=torch.ones(1, dtype=torch.float64),
    )
    z = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(mixture.velocity(z, 0.6), gaussian.velocity(z, 0.6))
    torch.testing.assert_close(mixture.solution(z, 1.0, 0.0), gaussian.solution(z, 1.0, 0.0), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("flow", MIXTURES, ids=_name)
def test_mixture_score_is_the_gradient_of_its_log_density(flow: MixtureFlow) -> None:
    for r in (0.05, 0.5, 1.0):
        z = _states(flow).requires_grad_(True)
        (gradient,) = torch.autograd.grad(flow.log_density(z, r).sum(), z)
        torch.testing.assert_close(flow.score(z.detach(), r), gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("flow", MIXTURES, ids=_name)
def test_mixture_noise_prediction_is_minus_sigma_times_score(flow: MixtureFlow) -> None:
    alpha_t, sigma_t = 0.6, 0.8
    x = _states(flow)
    scale = alpha_t + sigma_t
    score_of_x = flow.score(x / scale, sigma_t / scale) / scale
    torch.testing.assert_close(flow.model_output(x, alpha_t, sigma_t, "epsilon"), -sigma_t * score_of_x)


@pytest.mark.parametrize("flow", MIXTURES, ids=_name)
def test_mixture_reference_reverses(flow: MixtureFlow) -> None:
    z = _states(flow, 3)
    there_and_back = flow.solution(flow.solution(z, 1.0, 0.3), 0.3, 1.0)
    torch.testing.assert_close(there_and_back, z, rtol=1e-8, atol=1e-8)


def test_mixture_trajectories_from_noise_end_at_the_data() -> None:
    flow = ring_mixture()
    noise = torch.randn(400, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ends = flow.solution(noise, 1.0, 0.0)
    distance = (ends[:, None] - flow.means[None]).norm(dim=2).min(dim=1).values
    assert float(distance.max()) < 5 * 0.15
    assert abs(float(ends.norm(dim=1).mean()) - 1.5) < 0.05


@pytest.mark.parametrize("flow", [*CLOSED_FORMS, *MIXTURES], ids=_name)
def test_all_predictions_describe_one_state(flow: ExactFlow) -> None:
    x = _states(flow)
    for alpha_t, sigma_t in ((0.6, 0.8), (0.3, 0.7)):
        noise = flow.model_output(x, alpha_t, sigma_t, "epsilon")
        clean = flow.model_output(x, alpha_t, sigma_t, "sample")
        torch.testing.assert_close(alpha_t * clean + sigma_t * noise, x)
        torch.testing.assert_close(flow.model_output(x, alpha_t, sigma_t, "flow_prediction"), noise - clean)
        v = flow.model_output(x, alpha_t, sigma_t, "v_prediction")
        torch.testing.assert_close(v, alpha_t * noise - sigma_t * clean)


@pytest.mark.parametrize("quantity", ["epsilon", "sample", "flow_prediction"])
def test_frozen_flow_returns_its_value(quantity: str) -> None:
    flow = FrozenFlow(quantity=quantity, value=-0.4)  # type: ignore[arg-type]
    output = flow.model_output(_states(flow), 0.6, 0.8, quantity)  # type: ignore[arg-type]
    torch.testing.assert_close(output, torch.full_like(output, -0.4))


def test_unknown_prediction_type_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"prediction_type must be one of .* received 'score'"):
        LinearFlow().model_output(torch.zeros(1), 0.6, 0.8, "score")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["vp", "flow"])
def test_stock_sampler_converges_to_the_mixture_reference_at_first_order(kind: str) -> None:
    subject = mixture_subject(kind, ring_mixture())
    noise = torch.randn(8, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    errors = []
    for steps in (125, 250, 500):
        run = sample(subject, subject.scheduler, steps, noise)
        errors.append(float((run.images - subject.converged(noise, subject.scheduler.timesteps[0])).norm()))
    for coarse, fine in itertools.pairwise(errors):
        assert 1.6 < coarse / fine < 2.6


def test_mixture_subject_interpolates_alphas_between_timesteps() -> None:
    subject = mixture_subject("vp")
    table = subject.scheduler.alphas_cumprod.double()
    alpha_t, sigma_t = subject.noise_level(10.25)
    assert alpha_t**2 == pytest.approx(float(0.75 * table[10] + 0.25 * table[11]))
    assert alpha_t**2 + sigma_t**2 == pytest.approx(1.0)
    assert subject.noise_level(999)[0] == pytest.approx(float(table[999]) ** 0.5)


def test_mixture_subject_refuses_an_unknown_kind() -> None:
    with pytest.raises(ValueError, match="kind must be one of vp, sd, flow; received 'edm'"):
        mixture_subject("edm")
