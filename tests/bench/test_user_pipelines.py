"""A saved pipeline is measured as a black box: its own loop and conditioning, every scheduler from the same noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import CogVideoXDDIMScheduler, DDIMScheduler, HeunDiscreteScheduler, PNDMScheduler
from tiny_pipelines import CASES

from ab_schedulers.bench.competitors import competitors, own_competitors
from ab_schedulers.bench.methods import DEFAULTS, Contender, base
from ab_schedulers.bench.midpoint import FlowMatchMidpointScheduler
from ab_schedulers.bench.mixtures import ring_mixture
from ab_schedulers.bench.peers import is_flow, peers, saved_peers
from ab_schedulers.bench.pipeline_overhead import small_pipeline
from ab_schedulers.bench.sampling import sample
from ab_schedulers.bench.solver_results import OWN, STOCK, Results
from ab_schedulers.bench.solvers import measure, run_solvers
from ab_schedulers.bench.subjects import mixture_subject
from ab_schedulers.bench.trials import PipelineTrial, prepare
from ab_schedulers.bench.user_pipelines import PipelineSubject, Start, load_pipeline, read_runs
from ab_schedulers.cli import main

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning:diffusers"),
    pytest.mark.filterwarnings("ignore:In CPU autocast:UserWarning"),
]

_STOCK = DDIMScheduler(timestep_spacing="trailing", clip_sample=False)
_LABELS = ({"class_labels": [3], "guidance_scale": 1.0}, {"class_labels": [7], "guidance_scale": 1.0})


def _dit(inputs: Any = _LABELS, steps: int = 20) -> PipelineSubject:
    pipe = small_pipeline(8, 1)
    pipe.scheduler = _STOCK
    return PipelineSubject(name="dit", pipe=pipe, inputs=inputs, reference_steps=steps)


def _of_matrix(pipeline: str, steps: int) -> PipelineSubject:
    case = next(case for case in CASES if case.pipeline == pipeline and case.mode == "text")
    if not case.available():
        pytest.skip(f"the installed diffusers has no {pipeline}")
    inputs = [{k: v for k, v in case.arguments([seed], case.sizes[0]).items() if k != "generator"} for seed in (0, 1)]
    return PipelineSubject(name=pipeline, pipe=case.build(), inputs=inputs, reference_steps=steps)


def _flux() -> PipelineSubject:
    return _of_matrix("FluxPipeline", 40)


def test_a_run_ends_where_the_plain_loop_ends_and_puts_the_own_scheduler_back() -> None:
    subject = _dit()
    own = subject.pipe.scheduler
    contender = base(_STOCK, 6)
    run = subject.run(contender, [Start(seed=5, place=1), Start(seed=6, place=0)])
    assert subject.pipe.scheduler is own
    assert run.model_calls == 6
    assert 0 < run.model_seconds < run.seconds

    class Model:
        name, sample_shape = "plain", (1, 8, 8)

        def predict(self, noisy: torch.Tensor, timestep: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            timesteps = torch.as_tensor(timestep).expand(len(noisy))
            output: torch.Tensor = subject.pipe.transformer(noisy, timestep=timesteps, class_labels=labels).sample
            return output

    for i, (seed, label) in enumerate(((5, 7), (6, 3))):
        noise = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
        plain = sample(Model(), base(_STOCK, 6).scheduler, 6, noise, torch.tensor([label])).images
        assert torch.allclose(run.images[i : i + 1], plain, atol=1e-6)


def test_pictures_are_those_that_the_pipeline_returns_itself() -> None:
    subject = _dit()
    start = Start(seed=1, place=0)
    contender = base(_STOCK, 4)
    finals = subject.run(contender, [start]).images
    subject.pipe.scheduler = base(_STOCK, 4).scheduler
    generator = torch.Generator().manual_seed(start.seed)
    returned = subject.pipe(**_LABELS[0], generator=generator, num_inference_steps=4, output_type="np").images[0]
    subject.pipe.scheduler = _STOCK
    (decoded,) = subject.pictures(finals, [start])
    assert np.allclose(decoded, returned, atol=1e-6)
    (other,) = subject.pictures(finals + 1.0, [start])
    assert not np.allclose(other, returned, atol=1e-3)


@pytest.mark.parametrize("make", [_dit, _flux])
def test_the_reference_of_a_pipeline_is_nearer_than_any_few_calls_and_is_read_back(make: Any, tmp_path: Path) -> None:
    subject = make()
    trial, note = prepare(subject, 2, 2, tmp_path)
    assert isinstance(trial, PipelineTrial)
    assert [start.place for start in trial.starts] == [0, 1, 0, 1]
    assert len({start.seed for start in trial.starts}) == 4
    few = trial.errors(trial.run(base(subject.scheduler, 5)).images)
    assert len(few) == 2
    assert note["halving_error"] < 0.5 * min(few)
    forwards: list[int] = []
    counted = subject.pipe.transformer.register_forward_pre_hook(lambda *arguments: forwards.append(1))
    again, _ = prepare(subject, 2, 2, tmp_path)
    counted.remove()
    assert forwards == []
    assert torch.equal(again.converged, trial.converged)


def test_every_kind_of_competitor_runs_in_a_flow_pipeline_that_passes_its_own_shift(tmp_path: Path) -> None:
    _, last = run_solvers(_flux(), [4], 1, 1, 1, Results.read(tmp_path / "solvers.json"))
    search = Results.read(tmp_path / "solvers.json").entries.values()
    measured = {(entry.solver, entry.setting) for entry in search if not entry.refused}
    shifted = {solver for solver, setting in measured if setting == "the model's shift"}
    assert {"flow Euler", "DPM++ 2M", "UniPC 2", "DEIS 2"} <= shifted
    assert {("defaults", "as saved"), ("placed calls", "one grid"), ("UniPC 3", "shift 3")} <= measured
    assert {entry.model_calls for entry in last} == {4}
    assert all("\n" not in entry.refused and not entry.refused.endswith(": ") for entry in search)


@pytest.mark.slow
@pytest.mark.parametrize(
    "pipeline",
    ["StableDiffusionXLPipeline", "StableDiffusion3Pipeline", "SanaPipeline", "WanPipeline", "CogVideoXPipeline"],
)
def test_ours_and_the_saved_scheduler_run_in_pipelines_of_every_kind(pipeline: str, tmp_path: Path) -> None:
    subject = _of_matrix(pipeline, 8)
    trial, note = prepare(subject, 1, 1, tmp_path)
    assert note["method"].startswith("midpoint" if is_flow(subject.scheduler) else "DPM-Solver++")
    for one in competitors(subject.scheduler, saved=True):
        if one.group == OWN or one.setting == "as saved":
            entry = measure(trial, one, 4, {})
            assert entry.refused == "", one.solver
            assert entry.model_calls == 4


def test_the_midpoint_rule_has_order_two_and_ends_at_the_data() -> None:
    subject = mixture_subject("flow", ring_mixture(radius=0.5, std=0.4))
    noise = torch.randn(8, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = subject.converged(noise, 1000.0)
    errors = []
    for steps in (20, 40):
        run = sample(subject, FlowMatchMidpointScheduler(), steps, noise)
        assert run.model_calls == 2 * steps
        errors.append(float((run.images - exact).square().mean().sqrt()))
    assert abs(np.log2(errors[0] / errors[1]) - 2.0) < 0.2


@pytest.mark.parametrize("stock", [PNDMScheduler(skip_prk_steps=True), HeunDiscreteScheduler(), _STOCK])
def test_the_saved_scheduler_makes_no_more_calls_than_it_may(stock: Any, tmp_path: Path) -> None:
    subject = _dit()
    peer = saved_peers(stock)[0]
    run = subject.run(peer.contender(stock, 7), [Start(seed=0, place=0)])
    assert run.model_calls == 7
    assert peer.setting == "as saved"


def test_a_saved_scheduler_competes_only_where_asked() -> None:
    plain = {(one.group, one.solver, one.setting) for one in competitors(_STOCK)}
    saved = {(one.group, one.solver, one.setting) for one in competitors(_STOCK, saved=True)}
    assert {setting for _, _, setting in saved - plain} == {"as saved"}
    assert (STOCK, "DDIMScheduler", "as saved") in saved


def test_a_zero_terminal_schedule_is_passed_on_or_refused() -> None:
    stock = DDIMScheduler(rescale_betas_zero_snr=True, timestep_spacing="trailing")
    found = {peer.solver: peer for peer in peers(stock)}
    assert float(found["Euler"].contender(stock, 5).scheduler.alphas_cumprod[-1]) < 1e-4
    with pytest.raises(ValueError, match="PNDMScheduler has no rescale_betas_zero_snr"):
        found["PNDM"].contender(stock, 5)


@pytest.mark.parametrize("zero", [False, True])
def test_every_solver_of_a_shifted_schedule_stands_on_its_noise_levels(zero: bool) -> None:
    stock = CogVideoXDDIMScheduler(snr_shift_scale=3.0, rescale_betas_zero_snr=zero, prediction_type="v_prediction")
    wanted = stock.alphas_cumprod.double().clamp(min=2.0**-24)
    plain = DDIMScheduler.from_config(stock.config).alphas_cumprod.double()
    assert not torch.allclose(plain[:-1], wanted[:-1], rtol=0.1)
    found = {peer.solver: peer.contender(stock, 5).scheduler for peer in peers(stock)}
    schedulers = [found["Euler"], found["UniPC 2"], found["DDIM"], found["DPM++ 2M"]]
    schedulers += [one.make(5).scheduler for one in own_competitors(stock, DEFAULTS)]
    for scheduler in schedulers:
        assert torch.allclose(scheduler.alphas_cumprod.double(), wanted, rtol=1e-3, atol=1e-8)


def test_the_command_measures_a_pipeline_from_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    subject = _dit()
    subject.pipe.save_pretrained(tmp_path / "boots")
    (tmp_path / "runs.json").write_text(json.dumps([{"class_labels": [3]}, {"class_labels": [7]}]), encoding="utf-8")
    capsys.readouterr()
    arguments = ["bench", "solvers", "--pipeline", str(tmp_path / "boots"), "--inputs", str(tmp_path / "runs.json")]
    arguments += ["--guidance", "2.0", "--calls", "4", "--seed-sets", "2", "--samples", "1", "--search-samples", "1"]
    out = tmp_path / "out"
    assert main([*arguments, "--reference-steps", "8", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "## `boots`" in printed
    assert "DPM-Solver++ 2M, 8 steps, halving error" in printed
    assert "| DDIMScheduler (stock) |" in printed
    assert (out / "solvers_boots_grid.png").stat().st_size > 10_000
    stored = Results.read(out / "solvers.json")
    assert {len(entry.errors) for entry in stored.entries.values() if not entry.refused} == {1, 2}
    assert main([*arguments, "--reference-steps", "8", "--out", str(out)]) == 0
    again = Results.read(out / "solvers.json").entries
    assert {key: entry for key, entry in again.items() if not entry.refused} == {
        key: entry for key, entry in stored.entries.items() if not entry.refused
    }


def test_runs_are_read_from_json_or_as_one_prompt_per_line(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a boat\n\n  a house \n", encoding="utf-8")
    assert read_runs(tmp_path / "prompts.txt") == [{"prompt": "a boat"}, {"prompt": "a house"}]
    (tmp_path / "runs.json").write_text('[{"prompt": "a boat"}]', encoding="utf-8")
    assert read_runs(tmp_path / "runs.json") == [{"prompt": "a boat"}]
    for text in ("[]", '{"prompt": "a boat"}', '["a boat"]'):
        (tmp_path / "wrong.json").write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=r"wrong\.json must hold a JSON list"):
            read_runs(tmp_path / "wrong.json")


def test_bad_input_is_refused_before_any_call(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="nor the folder of a saved pipeline"):
        load_pipeline(tmp_path)
    with pytest.raises(ValueError, match="received 1 with latents, sigmas"):
        _dit([{"class_labels": [1], "sigmas": [1.0], "latents": None}])
    with pytest.raises(ValueError, match="at least one run"):
        _dit([])
    assert main(["bench", "solvers", "--guidance", "3", "--out", str(tmp_path)]) == 2
    assert "--inputs and --guidance are those of a pipeline" in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert main(["bench", "solvers", "--device", "cuda", "--out", str(tmp_path)]) == 2
        assert "sees no CUDA device" in capsys.readouterr().err


def test_runs_of_different_sizes_are_refused() -> None:
    subject = _dit([{"class_labels": [1]}, {"class_labels": [1, 2]}])
    with pytest.raises(ValueError, match="samples of shapes"):
        subject.run(base(_STOCK, 2), [Start(seed=0, place=0), Start(seed=0, place=1)])


def test_what_a_pipeline_does_not_take_is_said() -> None:
    contender = Contender(label="", scheduler=base(_STOCK, 2).scheduler, num_inference_steps=2, grid={"sigmas": [1.0]})
    with pytest.raises(ValueError, match="DiTPipeline takes no sigmas"):
        _dit().run(contender, [Start(seed=0, place=0)])
