"""The other ways of calling a pipeline: hand-over, own timesteps, callbacks, windows, threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers.callbacks import SD3CFGCutoffCallback, SDCFGCutoffCallback, SDXLCFGCutoffCallback
from tiny_pipelines import (
    BY_NAME,
    Case,
    cached,
    components_of,
    counterpart,
    difference,
    named,
    placed,
    rounding,
    sample,
    watched,
)

# -- SDXL base and refiner ----------------------------------------------------------------------------------------


def hand_over(
    case: Case, scheduler: Any, refiner_scheduler: Any, calls: int, share: float
) -> tuple[torch.Tensor, list[float]]:
    """The latents after base and refiner, which share their weights, and the timesteps of all calls."""
    base = case.build(scheduler)
    refiner = diffusers.StableDiffusionXLImg2ImgPipeline(**components_of(case), scheduler=refiner_scheduler)
    refiner.set_progress_bar_config(disable=True)
    with watched(base, case) as first, watched(refiner, case) as second:
        latents = sample(base, case, num_inference_steps=calls, denoising_end=share)
        given = case.arguments((0,), 32)
        text = {key: placed(given[key], case.device) for key in given if key not in ("height", "width")}
        sizes = {"original_size": (32, 32), "target_size": (32, 32)}
        latents = refiner(**text, **sizes, image=latents, num_inference_steps=calls, denoising_start=share).images
    return latents, first.timesteps + second.timesteps


@named("StableDiffusionXLPipeline-karras")
def test_base_and_refiner_make_the_calls_of_one_run_and_meet_at_one_level(case: Case) -> None:
    """Without memory (first order throughout) the run in two parts is the run in one."""
    plain: dict[str, Any] = {"cache_order": 1, "cache_corrector": None, "solver_order": 1}
    latents, timesteps = hand_over(case, cached(case, **plain), cached(case, **plain), 10, 0.6)
    whole = case.build(cached(case, **plain))
    expected = sample(whole, case, num_inference_steps=10, original_size=(32, 32), target_size=(32, 32))
    assert timesteps == whole.scheduler.timesteps.tolist()
    assert difference(latents, expected) < 5 * rounding(case)


@named("StableDiffusionXLPipeline-karras")
def test_base_and_refiner_at_interval_one_are_the_stock_hand_over(case: Case) -> None:
    one = [cached(case, cache_interval=1) for _ in range(2)]
    latents, timesteps = hand_over(case, *one, 10, 0.6)
    expected, stock_timesteps = hand_over(case, case.scheduler(), case.scheduler(), 10, 0.6)
    assert timesteps == stock_timesteps
    assert difference(latents, expected) < rounding(case)


# -- timesteps and sigmas given by the user -------------------------------------------------------------------------

OWN_GRIDS: dict[str, dict[str, Any]] = {
    "StableDiffusionXLPipeline-karras": {"timesteps": [951, 800, 555, 321, 100]},
    "StableDiffusion3Pipeline": {"sigmas": [1.0, 0.8, 0.5, 0.2]},
    "FluxPipeline-distilled": {"sigmas": [1.0, 0.9, 0.6, 0.3, 0.1]},
    "QwenImagePipeline": {"sigmas": [1.0, 0.75, 0.5, 0.25]},
    "CogView4Pipeline": {"timesteps": [1000, 700, 400, 100], "sigmas": [1.0, 0.7, 0.4, 0.1]},
    "HunyuanVideoPipeline": {"sigmas": [1.0, 0.7, 0.4]},
}


@named(*OWN_GRIDS)
def test_own_timesteps_and_sigmas_are_the_nodes_of_the_calls(case: Case) -> None:
    grid = OWN_GRIDS[case.name]
    if case.pipeline == "StableDiffusionXLPipeline":
        plain = {"use_karras_sigmas": False}
        stock = case.build(diffusers.DPMSolverMultistepScheduler.from_config(case.scheduler().config, **plain))
    else:
        plain, stock = {}, case.build(counterpart(case))
    with watched(stock, case) as expected:
        result = sample(stock, case, **grid)
    one = case.build(cached(case, cache_interval=1, **plain))
    assert difference(sample(one, case, **grid), result) < rounding(case)
    ours = case.build(cached(case, **plain))
    with watched(ours, case) as seen:
        sample(ours, case, **grid)
    count = len(next(iter(grid.values())))
    assert len(seen.timesteps) == len(expected.timesteps) == count
    assert len(ours.scheduler.base_timesteps) == 3 * count
    if "shift_terminal" not in ours.scheduler.config or ours.scheduler.config.shift_terminal is None:
        assert seen.timesteps == pytest.approx(expected.timesteps, abs=1e-3)


def test_ddim_takes_no_timesteps_from_the_user_as_in_diffusers() -> None:
    case = BY_NAME["StableDiffusionPipeline-ddim"]
    with pytest.raises(ValueError, match="does not support custom timestep"):
        sample(case.build(cached(case)), case, timesteps=[900, 500, 100])


# -- callbacks that change the guidance ------------------------------------------------------------------------------

CUTOFFS: dict[str, Any] = {
    "StableDiffusionPipeline-ddim": SDCFGCutoffCallback,
    "StableDiffusionXLPipeline-karras": SDXLCFGCutoffCallback,
    "StableDiffusion3Pipeline": SD3CFGCutoffCallback,
}


@named(*CUTOFFS)
def test_guidance_that_a_callback_switches_off_stays_off_and_the_run_is_complete(case: Case) -> None:
    arguments = {"num_inference_steps": 8, "callback_on_step_end": CUTOFFS[case.name](cutoff_step_ratio=0.5)}
    result = sample(case.build(counterpart(case)), case, **arguments)
    assert difference(sample(case.build(cached(case, cache_interval=1)), case, **arguments), result) < rounding(case)
    pipe = case.build(cached(case))
    with watched(pipe, case) as seen:
        cut = sample(pipe, case, **arguments)
    assert seen.timesteps == pipe.scheduler.timesteps.tolist()
    assert difference(cut, sample(pipe, case, num_inference_steps=8)) > 1e-4


@named("StableDiffusionPipeline-ddim", "StableDiffusion3Pipeline", "WanPipeline-2.2")
def test_reset_history_in_a_callback_restarts_the_rows_there(case: Case) -> None:
    pipe = case.build(cached(case))

    def forget(pipe: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if index == 4:
            pipe.scheduler.reset_history()
        return tensors

    sample(pipe, case, num_inference_steps=8, callback_on_step_end=forget)
    rows = pipe.scheduler.rows
    assert [row.order for row in rows] == [1, 2, 2]
    assert len(rows[0].history) == 1


@named("StableDiffusion3Pipeline-skip-layer guidance", "StableDiffusionControlNetPipeline-window")
def test_windows_in_fractions_of_the_run_hold_as_many_calls_as_with_stock(case: Case) -> None:
    stock, ours = case.build(counterpart(case)), case.build(cached(case))
    counted: list[list[int]] = []
    for pipe in (stock, ours):
        control = getattr(pipe, "controlnet", None)
        weights: list[int] = []
        hook = None
        if control is not None:
            hook = control.register_forward_pre_hook(
                lambda module, inputs, kwargs, seen=weights: seen.append(int(kwargs["conditioning_scale"] > 0)),
                with_kwargs=True,
            )
        with watched(pipe, case) as seen:
            sample(pipe, case, num_inference_steps=10)
        counted.append([len(seen.forwards), *weights])
        if hook is not None:
            hook.remove()
    assert counted[0] == counted[1]


# -- threads -------------------------------------------------------------------------------------------------------


@named("StableDiffusion3Pipeline", "StableDiffusionPipeline-ddim")
def test_two_pipelines_run_in_two_threads_with_their_own_schedulers(case: Case) -> None:
    cases = [case, replace(BY_NAME["PixArtAlphaPipeline"], device=case.device)]
    expected = [sample(case.build(cached(case)), case, num_inference_steps=8) for case in cases]
    pipes = [case.build(cached(case)) for case in cases]
    with ThreadPoolExecutor(2) as threads:
        for _ in range(3):
            runs = [
                threads.submit(sample, pipe, case, num_inference_steps=8)
                for pipe, case in zip(pipes, cases, strict=True)
            ]
            assert all(torch.equal(run.result(), known) for run, known in zip(runs, expected, strict=True))


@named("WanPipeline-2.2")
def test_the_callback_of_the_page_resets_once_where_wans_second_expert_takes_over(case: Case) -> None:
    page = (Path(__file__).parents[2] / "docs" / "pipelines.md").read_text(encoding="utf-8")
    source = "def forget_at_the_boundary" + page.partition("def forget_at_the_boundary")[2].partition("\n\n\n")[0]
    names: dict[str, Any] = {}
    exec(source, names)
    pipe = case.build(cached(case))
    with watched(pipe, case) as seen:
        sample(pipe, case, num_inference_steps=12, callback_on_step_end=names["forget_at_the_boundary"])
    first_of_second = seen.forwards.index("transformer_2") // 2
    assert 0 < first_of_second < 11
    assert len(pipe.scheduler.rows) == 12 - first_of_second
    assert pipe.scheduler.rows[0].order == 1
