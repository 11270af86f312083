"""What may happen in the middle of a run: resets, other noise, copies, and outputs of another dtype."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch

from ab_schedulers import (
    ABCacheDDIMScheduler,
    ABCacheDPMSolverMultistepScheduler,
    ABCacheFlowMatchEulerScheduler,
)

TRAILING = {"timestep_spacing": "trailing"}
KINDS: dict[str, tuple[type, dict[str, Any], dict[str, Any]]] = {
    "ddim": (ABCacheDDIMScheduler, {**TRAILING, "clip_sample": False}, {}),
    "ddim clipped": (ABCacheDDIMScheduler, TRAILING, {"use_clipped_model_output": True}),
    "ddim eta": (ABCacheDDIMScheduler, TRAILING, {"eta": 0.7}),
    "dpmsolver": (ABCacheDPMSolverMultistepScheduler, {"solver_order": 3, "cache_order": 3}, {}),
    "dpmsolver noise": (ABCacheDPMSolverMultistepScheduler, {"cache_quantity": "epsilon", "cache_order": 3}, {}),
    "dpmsolver sde": (ABCacheDPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}, {}),
    "flow": (ABCacheFlowMatchEulerScheduler, {"shift": 2.0, "cache_order": 3}, {}),
    "flow stochastic": (ABCacheFlowMatchEulerScheduler, {"stochastic_sampling": True}, {}),
}
STOCHASTIC = ["ddim eta", "dpmsolver sde", "flow stochastic"]
every_kind = pytest.mark.parametrize("kind", KINDS)


class Run:
    """A run that can be walked in pieces, with a generator of its own."""

    def __init__(self, kind: str, model: Callable[..., torch.Tensor], calls: int = 10, **options: Any) -> None:
        ours, config, self.step = KINDS[kind]
        self.scheduler, self.model = ours(**{**config, **options}), model
        self.scheduler.set_timesteps(calls)
        self.generator = torch.Generator().manual_seed(7)

    def walk(self, sample: torch.Tensor, begin: int, end: int) -> torch.Tensor:
        """The sample after the calls from `begin` to before `end`."""
        for timestep in self.scheduler.timesteps[begin:end]:
            output = self.model(sample, timestep)
            step = self.scheduler.step(output, timestep, sample, generator=self.generator, **self.step)
            sample = step.prev_sample
        return sample


@every_kind
@pytest.mark.parametrize("at", [1, 4, 9])
def test_a_reset_equals_a_start_from_there_with_the_same_noise(kind: str, at: int, denoiser: Any, start: Any) -> None:
    run, fresh = Run(kind, denoiser), Run(kind, denoiser)
    sample = run.walk(start(), 0, at)
    fresh.generator.set_state(run.generator.get_state())
    run.scheduler.reset_history()
    fresh.scheduler.set_begin_index(at)
    assert run.scheduler.history == ()
    assert torch.equal(run.walk(sample, at, 10), fresh.walk(sample, at, 10))
    assert len(run.scheduler.rows) == 10 - at


@every_kind
def test_resets_at_every_call_are_the_plain_walk_of_order_one(kind: str, denoiser: Any, start: Any) -> None:
    """Without a history there is nothing but plain reuse, and the base's own start."""
    run, sample = Run(kind, denoiser), start()
    reuse = Run(kind, denoiser, cache_order=1, cache_corrector=None)
    expected = start()
    for call in range(10):
        for each in (run, reuse):
            each.scheduler.reset_history()
        sample, expected = run.walk(sample, call, call + 1), reuse.walk(expected, call, call + 1)
    torch.testing.assert_close(sample, expected, rtol=1e-12, atol=1e-12)


@every_kind
def test_a_reset_after_a_start_in_the_middle_and_before_its_first_call_does_nothing(
    kind: str, denoiser: Any, start: Any
) -> None:
    run, untouched = Run(kind, denoiser), Run(kind, denoiser)
    for each in (run, untouched):
        each.scheduler.set_begin_index(4)
    run.scheduler.reset_history()
    assert torch.equal(run.walk(start(), 4, 10), untouched.walk(start(), 4, 10))


@every_kind
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))], ids=["deep", "pickle"]
)
@pytest.mark.parametrize("moment", ["before", "started in the middle", "reset", "ended"])
def test_a_copy_is_independent_at_every_moment(kind: str, copied: Any, moment: str, denoiser: Any, start: Any) -> None:
    run, untouched = Run(kind, denoiser), Run(kind, denoiser)
    begin = {"before": 0, "started in the middle": 3, "reset": 0, "ended": 0}[moment]
    at = {"before": 0, "started in the middle": 6, "reset": 5, "ended": 10}[moment]
    samples = []
    for each in (run, untouched):
        each.scheduler.set_begin_index(begin)
        samples.append(each.walk(start(), begin, at))
        if moment == "reset":
            each.scheduler.reset_history()
    twin = copied(run.scheduler)
    assert twin.describe() == run.scheduler.describe()
    original, run.scheduler = run.scheduler, twin
    generator = run.generator.get_state()
    if moment == "ended":
        with pytest.raises(ValueError, match="`step`"):
            run.walk(samples[0], 9, 10)
        twin.set_timesteps(10)
        original.set_timesteps(10)
        untouched.scheduler.set_timesteps(10)
        samples, at = [start(), start()], 0
    expected = untouched.walk(samples[1], at, 10)
    assert torch.equal(run.walk(samples[0], at, 10), expected)
    run.scheduler = original  # the twin's run has not touched it
    run.generator.set_state(generator)
    assert torch.equal(run.walk(samples[0], at, 10), expected)


@pytest.mark.parametrize("changed", [{"eta": 0.5}, {"use_clipped_model_output": True}], ids=str)
def test_ddim_begins_its_history_anew_where_the_noise_changes(changed: Any, denoiser: Any, start: Any) -> None:
    """Other noise needs other rows, so the calls from there on are a run that starts in the middle."""
    run, fresh = Run("ddim clipped", denoiser), Run("ddim clipped", denoiser)
    run.step = {}
    sample = run.walk(start(), 0, 4)
    run.step = fresh.step = changed
    fresh.generator.set_state(run.generator.get_state())
    fresh.scheduler.set_begin_index(4)
    assert torch.equal(run.walk(sample, 4, 10), fresh.walk(sample, 4, 10))


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind != "ddim eta"]
)  # draws in the output's dtype, as stock
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("output", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_outputs_of_another_dtype_are_taken_and_the_sample_keeps_its_own(
    kind: str, dtype: torch.dtype, output: torch.dtype, denoiser: Any, start: Any, difference: Any
) -> None:
    """Autocast gives them. They count as if they had been converted to float32 by hand."""

    def model(sample: torch.Tensor, timestep: Any) -> torch.Tensor:
        return 0.3 * denoiser(0.1 * sample.float(), timestep).to(output)

    run, by_hand = Run(kind, model), Run(kind, lambda sample, timestep: model(sample, timestep).float())
    sample = start(dtype)
    for call in range(10):
        by_hand.generator.set_state(run.generator.get_state())
        by_hand.scheduler = copy.deepcopy(run.scheduler)
        expected = by_hand.walk(sample, call, call + 1)
        sample = run.walk(sample, call, call + 1)
        assert sample.dtype == dtype
        assert difference([sample.double()], [expected.double()]) <= 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("kind", STOCHASTIC)
def test_a_generator_for_each_sample_makes_it_independent_of_its_batch(kind: str, denoiser: Any, start: Any) -> None:
    def model(sample: torch.Tensor, timestep: Any) -> torch.Tensor:
        return torch.stack([denoiser(each, timestep) for each in sample])

    def ended(sample: torch.Tensor, seeds: list[int]) -> torch.Tensor:
        run = Run(kind, model)
        run.generator = [torch.Generator().manual_seed(seed) for seed in seeds]  # type: ignore[assignment]
        return run.walk(sample, 0, 10)

    both = ended(start(), [3, 4])
    for place, seed in enumerate((3, 4)):
        assert torch.equal(ended(start()[place : place + 1], [seed])[0], both[place])


def walk_float32(kind: str, context: Callable[[int], Any], after: Callable[[Any, int], None]) -> torch.Tensor:
    """A float32 run of 10 calls, the last sample; ``context`` surrounds every step, ``after`` follows it."""
    ours, config, step = KINDS[kind]
    scheduler = ours(**config)
    scheduler.set_timesteps(10)
    outputs = torch.randn(10, 2, 3, 4, 4, generator=torch.Generator().manual_seed(3))
    sample, generator = outputs[0] / 2, torch.Generator().manual_seed(7)
    for call, timestep in enumerate(scheduler.timesteps):
        with context(call):
            stepped = scheduler.step(outputs[call].clone(), timestep, sample.clone(), generator=generator, **step)
        sample = stepped.prev_sample
        after(scheduler, call)
    return sample.detach().clone()


@every_kind
def test_memory_that_is_used_again_changes_no_result(kind: str) -> None:
    def forget(scheduler: Any, _: int) -> None:
        scheduler._run.spare = None

    used = []
    again = walk_float32(kind, lambda _: torch.no_grad(), lambda s, _: used.append(s._run.spare is not None))
    assert any(used)
    torch.testing.assert_close(again, walk_float32(kind, lambda _: torch.no_grad(), forget), rtol=0, atol=0)


@every_kind
def test_a_run_may_enter_and_leave_inference_mode(kind: str) -> None:
    mixed = walk_float32(kind, lambda call: torch.inference_mode(call % 2 == 0), lambda *_: None)
    torch.testing.assert_close(mixed, walk_float32(kind, lambda _: torch.no_grad(), lambda *_: None), rtol=0, atol=0)


@every_kind
def test_outputs_read_from_the_history_stay_as_they_were(kind: str) -> None:
    read: list[tuple[torch.Tensor, torch.Tensor]] = []

    def keep(scheduler: Any, _: int) -> None:
        read.extend((output, output.clone()) for output in scheduler.history)

    walk_float32(kind, lambda _: torch.no_grad(), keep)
    assert all(torch.equal(output, copied) for output, copied in read)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "flow stochastic"])  # takes no given noise
def test_a_run_can_be_differentiated(kind: str) -> None:
    gradients = []
    for precision in (torch.float32, torch.float64):
        ours, config, step = KINDS[kind]
        scheduler = ours(**config)
        scheduler.set_timesteps(10)
        weight = torch.tensor(0.5, dtype=precision, requires_grad=True)
        sample = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(3)).to(precision)
        noise = torch.randn(10, 1, 3, 4, 4, generator=torch.Generator().manual_seed(4)).to(precision)
        drawn = {"variance_noise": noise} if kind in STOCHASTIC else {}
        for call, timestep in enumerate(scheduler.timesteps):
            given = {name: value[call] for name, value in drawn.items()}
            sample = scheduler.step(weight * torch.tanh(sample), timestep, sample, **step, **given).prev_sample
        sample.square().sum().backward()
        assert weight.grad is not None
        gradients.append(weight.grad.double())
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-3)
