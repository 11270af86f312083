"""The clock alone: what it makes of sequences of calls."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import diffusers
import pytest
import torch

from ab_schedulers.caching.clock import Clock, Excerpt, Observation, Tick
from ab_schedulers.caching.observing import ConditioningTraces, ContextName, batch_timestep

_NOISE = torch.randn(512, generator=torch.Generator().manual_seed(0))
_OTHER = torch.randn(512, generator=torch.Generator().manual_seed(1))


def see(clock: Clock, t: float, who: Any = "prompt", *, sample: Any = _NOISE, **changes: Any) -> Tick:
    excerpt = Excerpt(sample)
    given = {"timestep": t, "shape": (4, 8, 8), "batch": 2, "sample": excerpt, "conditioning": who, **changes}
    return clock.observe(Observation(**given))


def remembers(tick: Tick) -> bool:
    """Whether the stream had a call before this one."""
    seen = "mark" in tick.stream.memory
    tick.stream.memory["mark"] = True
    return seen


def test_steps_count_the_timesteps_and_streams_keep_their_memory() -> None:
    clock = Clock()
    for step, t in enumerate((900, 700, 300)):
        for place, who in enumerate(("empty", "prompt")):
            tick = see(clock, t, who)
            assert (tick.run, tick.step, tick.place) == (1, step, place)
            assert remembers(tick) == (step > 0)


@pytest.mark.parametrize("timesteps", [(900, 700, 300), (100, 300, 700)], ids=["falling", "rising"])
def test_a_timestep_that_turns_back_begins_a_run(timesteps: tuple[int, ...]) -> None:
    clock = Clock()
    for run in (1, 2, 3):
        for step, t in enumerate(timesteps):
            tick = see(clock, t)
            assert (tick.run, tick.step, remembers(tick)) == (run, step, step > 0)


def test_a_run_that_failed_at_its_first_step_is_begun_anew_when_the_noise_is_another() -> None:
    clock = Clock()
    remembers(see(clock, 900, "empty"))
    remembers(see(clock, 900, "prompt"))
    tick = see(clock, 900, "empty", sample=_OTHER)
    assert tick.run == 2 and not remembers(tick)


def test_a_run_that_failed_at_its_first_step_leaves_nothing_to_the_next_with_the_same_noise() -> None:
    clock = Clock()
    remembers(see(clock, 900, "prompt A"))
    remembers(see(clock, 900, "empty"))
    for who in ("prompt B", "empty"):
        assert not remembers(see(clock, 900, who))
    for who in ("prompt B", "empty"):
        assert remembers(see(clock, 800, who))


def test_a_lower_start_after_a_failed_run_is_seen_by_its_sample() -> None:
    clock = Clock()
    see(clock, 900)
    see(clock, 880)
    tick = see(clock, 600, sample=_OTHER)
    assert (tick.run, tick.step) == (2, 0)


def test_samples_of_one_run_follow_each_other_even_at_five_steps() -> None:
    clock, picture = Clock(), torch.linspace(-1, 1, 512)
    for step, sigma in enumerate((1.0, 0.8, 0.6, 0.4, 0.2)):
        tick = see(clock, 1000 * sigma, sample=(1 - sigma) * picture + sigma * _NOISE)
        assert (tick.run, tick.step) == (1, step)


@pytest.mark.parametrize(
    "change", [{"shape": (4, 8, 9)}, {"shape": ((4, 8, 8), torch.float16)}], ids=["shape", "dtype"]
)
def test_a_changed_shape_begins_a_run(change: dict[str, Any]) -> None:
    clock = Clock()
    see(clock, 900)
    assert see(clock, 800, **change).run == 2


def test_a_changed_batch_begins_a_stream() -> None:
    clock = Clock()
    remembers(see(clock, 900))
    assert not remembers(see(clock, 800, batch=4))


def test_a_second_evaluation_at_one_timestep_is_a_stream_of_its_own() -> None:
    """Heun's method evaluates at every later timestep twice, with different samples."""
    clock = Clock()
    remembers(see(clock, 900))
    ticks = [see(clock, t, sample=_NOISE + 0.1 * i) for i, t in enumerate((800, 800, 700, 700))]
    assert [tick.step for tick in ticks] == [1, 1, 2, 2]
    assert [remembers(tick) for tick in ticks] == [True, False, True, True]


def test_a_name_decides_where_there_is_one_even_if_the_conditioning_changes() -> None:
    clock = Clock()
    for t in (900, 800):
        for name in ("cond", "uncond"):
            tick = see(clock, t, who=(name, t), name=name)
            assert remembers(tick) == (t == 800)


def test_a_stream_that_missed_a_step_has_no_memory() -> None:
    clock = Clock()
    for t, who in ((900, "prompt"), (900, "skip"), (800, "prompt"), (700, "prompt")):
        remembers(see(clock, t, who))
    assert not remembers(see(clock, 700, "skip"))


def test_unrelated_samples_at_one_timestep_are_never_taken_for_one_stream() -> None:
    """Views of a panorama share prompt and timestep: each call begins a run, so each is computed."""
    clock = Clock()
    for t in (900, 800, 700):
        for view in (_NOISE, _OTHER):
            assert not remembers(see(clock, t, sample=view))


def test_timesteps_laid_out_anew_begin_a_run_where_the_calls_alone_look_like_one() -> None:
    """A run fails outside the model, and image-to-image goes on with the same picture just below."""
    runs = []
    for watched in (False, True):
        scheduler = diffusers.DDIMScheduler()
        clock = Clock(scheduler if watched else None)
        scheduler.set_timesteps(10)
        ticks = [see(clock, t) for t in (900, 800)]
        scheduler.set_timesteps(10)
        ticks += [see(clock, t) for t in (700, 600)]
        runs.append([tick.run for tick in ticks])
    assert runs == [[1, 1, 1, 1], [1, 1, 2, 2]]


def test_a_watched_scheduler_is_not_kept_alive() -> None:
    scheduler = diffusers.DDIMScheduler()
    clock, gone = Clock(scheduler), weakref.ref(scheduler)
    see(clock, 900)
    del scheduler
    gc.collect()
    assert gone() is None
    assert see(clock, 800).run == 2  # noticed once, as a new run
    assert see(clock, 700).run == 2


def test_after_a_reset_the_next_call_begins_a_run() -> None:
    clock = Clock()
    remembers(see(clock, 900))
    clock.reset()
    tick = see(clock, 800)
    assert (tick.run, tick.step) == (2, 0) and not remembers(tick)


def test_the_timestep_of_a_batch_is_one_number() -> None:
    assert batch_timestep(7) == 7
    assert batch_timestep(torch.tensor(7)) == 7
    assert batch_timestep(torch.tensor(0.5).expand(4)) == 0.5
    assert batch_timestep(torch.tensor([[0.0, 7.0], [7.0, 7.0]])) == 7
    with pytest.raises(ValueError, match="one timestep"):
        batch_timestep(torch.tensor([7.0, 8.0]))


def test_the_name_of_the_context_is_read_in_both_forms_diffusers_uses() -> None:
    context = ContextName()
    assert context.name is None
    context.set_context("cond")
    assert context.name == "cond"
    context.set_context(type("Named", (), {"name": "uncond"})())
    assert context.name == "uncond"
    context.reset()
    assert context.name is None


def test_a_count_by_timesteps_alone_tells_runs_and_steps() -> None:
    clock = Clock()
    ticks = [clock.count(t) for t in (900, 900, 700, 300, 900, 700)]
    assert [(tick.run, tick.step, tick.place) for tick in ticks] == [
        (1, 0, 0),
        (1, 0, 1),
        (1, 1, 0),
        (1, 2, 0),
        (2, 0, 0),
        (2, 1, 0),
    ]


def test_equal_conditionings_have_equal_traces_and_written_ones_new_ones() -> None:
    """A tensor that was read once is not read again until somebody writes to it; of a dead one nothing stays."""
    traces = ConditioningTraces()
    text = torch.linspace(0, 1, 60).reshape(1, 5, 12)
    first = traces.of(text)
    assert traces.of(text) is first
    assert traces.of(text.clone()) == first != traces.of(text.reshape(1, 60))
    text.add_(1)
    assert traces.of(text) != first
    assert traces.of({"text": text}) == (("text", traces.of(text)),)
    del text
    other = torch.zeros(1, 60)
    traces.of(other)
    assert len(traces._known) == 1


def test_tensors_whose_writes_are_not_counted_are_read_every_time() -> None:
    with torch.inference_mode():
        text, traces = torch.zeros(1, 4), ConditioningTraces()
        before = traces.of(text)
        text.add_(1)
        assert traces.of(text) != before
