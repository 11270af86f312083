"""Caches hook what they should, skip what they say, and say why where they cannot."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DiTTransformer2DModel, UNet2DModel

from ab_schedulers.bench.cache_methods import cache_methods, calibrated_cache, scheduler_cache
from ab_schedulers.bench.cache_peers import cache_dit, magnitude_ratios, taylorseer_plans
from ab_schedulers.bench.cache_runs import CachedRun, CacheMethod, bisected, hooked_run
from ab_schedulers.bench.caches import cache_table, caches, measure_caches
from ab_schedulers.bench.methods import DEFAULTS, base
from ab_schedulers.bench.metrics import rmse
from ab_schedulers.bench.sampling import sample
from ab_schedulers.bench.trials import ModelTrial
from ab_schedulers.calibration import Calibration

_STEPS, _CALLS = 12, 6
_STOCK = DDIMScheduler(timestep_spacing="trailing", clip_sample=False)


@dataclass(frozen=True)
class _Tiny:
    """A small random transformer behind the interface of the bundled models."""

    model: Any
    name: str = "tiny"
    scheduler: Any = _STOCK
    sample_shape: tuple[int, ...] = (1, 8, 8)
    num_classes: int = 2

    def predict(self, sample: torch.Tensor, timestep: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        timesteps = torch.as_tensor(timestep).expand(len(sample))
        output: torch.Tensor = self.model(sample, timestep=timesteps, class_labels=labels, return_dict=False)[0]
        return output


def _transformer() -> _Tiny:
    torch.manual_seed(0)
    size = {"num_attention_heads": 2, "attention_head_dim": 4, "in_channels": 1, "num_layers": 3, "patch_size": 4}
    model = DiTTransformer2DModel(**size, sample_size=8, num_embeds_ada_norm=3, norm_num_groups=1)
    for block in model.transformer_blocks:
        block.norm1.emb.class_embedder.dropout_prob = 0.0
    return _Tiny(model=model.eval())


def _trial(subject: Any) -> ModelTrial:
    noise = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1])
    converged = sample(subject, base(subject.scheduler, 24).scheduler, 24, noise, labels).images
    return ModelTrial(subject=subject, noise=noise, labels=labels, converged=converged, sets=2, mark="")


def _ratios(subject: Any, trial: ModelTrial) -> dict[str, list[float]]:
    return {subject.name: magnitude_ratios(subject, _STEPS, trial.noise, trial.labels)}


def test_every_cache_skips_steps_of_a_transformer_and_ends_near_the_base() -> None:
    subject = _transformer()
    trial = _trial(subject)
    fine = sample(subject, base(subject.scheduler, _STEPS).scheduler, _STEPS, trial.noise, trial.labels).images
    for method in cache_methods(_ratios(subject, trial)):
        entry = measure_caches(trial, method, _CALLS, _STEPS, fine)
        assert entry.refused == "", method.name
        assert 2 <= entry.computed <= _CALLS, method.name
        assert entry.share < 0.75, method.name
        assert max(entry.to_base) < 0.5 * float(fine.std()), method.name


def _unet() -> _Tiny:
    torch.manual_seed(0)
    size = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "layers_per_block": 1, "block_out_channels": (8,)}
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    return _Tiny(model=UNet2DModel(**size, **blocks, norm_num_groups=4, num_class_embeds=3).eval())


def test_caches_of_transformer_blocks_say_why_they_cannot_serve_a_unet_and_the_others_serve_it() -> None:
    subject = _unet()
    trial = _trial(subject)
    fine = sample(subject, base(subject.scheduler, _STEPS).scheduler, _STEPS, trial.noise, trial.labels).images
    for method in cache_methods({}):
        entry = measure_caches(trial, method, _CALLS, _STEPS, fine)
        if method.name in ("first block (diffusers)", "MagCache (diffusers)", "cache-dit"):
            assert entry.refused == "ValueError: UNet2DModel has no list of transformer blocks to cache"
        else:
            assert entry.refused == "", method.name
            assert 2 <= entry.computed <= _CALLS, method.name
            assert entry.share < 0.75, method.name
            assert max(entry.to_base) < 0.5 * float(fine.std()), method.name


def test_a_calibration_to_the_base_ends_nearer_to_it_than_the_defaults_and_is_kept(tmp_path: Path) -> None:
    subject = _transformer()
    trial = _trial(subject)
    fine = sample(subject, base(subject.scheduler, _STEPS).scheduler, _STEPS, trial.noise, trial.labels).images
    calibrated, plain = (
        measure_caches(trial, method, _CALLS, _STEPS, fine)
        for method in (calibrated_cache(16, tmp_path), scheduler_cache(DEFAULTS))
    )
    assert (calibrated.refused, calibrated.computed, calibrated.share) == ("", _CALLS, _CALLS / _STEPS)
    assert sum(calibrated.to_base) < sum(plain.to_base)
    (kept,) = tmp_path.glob(f"tiny_{_CALLS}_of_{_STEPS}_*.json")
    assert Calibration.load(kept).report["num_base_steps"] == _STEPS


def test_cache_dit_skips_as_many_calls_as_it_says_itself() -> None:
    library = pytest.importorskip("cache_dit")
    subject = _transformer()
    trial = _trial(subject)
    models: list[Any] = []

    def place(model: Any) -> object:
        config = library.DBCacheConfig(
            Fn_compute_blocks=1, num_inference_steps=_STEPS, residual_diff_threshold=0.3, max_warmup_steps=2
        )
        models.append(model)
        return library.enable_cache(model, cache_config=config)

    run = hooked_run(subject, _STEPS, trial.noise, trial.labels, place, "")
    told = library.summary(models[0], details=False)[0].cached_steps
    assert _STEPS - run.computed == len(told) > 0
    blocks = len(subject.model.transformer_blocks)
    assert run.share == pytest.approx((blocks * run.computed + len(told)) / (blocks * _STEPS))


def test_without_cache_dit_its_row_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cache_dit", None)
    trial = _trial(_transformer())
    entry = measure_caches(trial, cache_dit(), _CALLS, _STEPS, trial.converged)
    assert "is not installed" in entry.refused and "ab-schedulers[cache-dit]" in entry.refused


def test_without_a_cache_every_layer_runs_and_the_result_is_the_base() -> None:
    subject = _transformer()
    trial = _trial(subject)
    run = hooked_run(subject, _STEPS, trial.noise, trial.labels, lambda model: None, "")
    assert (run.computed, run.share) == (_STEPS, 1.0)
    fine = sample(subject, base(subject.scheduler, _STEPS).scheduler, _STEPS, trial.noise, trial.labels).images
    assert rmse(run.images, fine) == 0.0


def test_taylorseer_plans_compute_what_they_promise() -> None:
    plans = taylorseer_plans(17, 50)
    assert (3, 1) in plans
    for interval, first in plans:
        assert sum(step < first or (step - first - 1) % interval == 0 for step in range(50)) == 17


@pytest.mark.parametrize(("needed", "computed"), [(17, 17), (20, 18), (2, 5)])
def test_bisection_finds_the_most_steps_within_the_calls(needed: int, computed: int) -> None:
    def at(threshold: float) -> CachedRun:
        steps = 50 if threshold < 0.01 else 18 if threshold < 0.1 else 17 if threshold < 0.3 else 5
        return CachedRun(images=torch.zeros(1), computed=steps, share=0.0, setting="")

    assert bisected(at, needed).computed == computed


def test_magnitude_ratios_are_those_of_the_residuals_of_all_blocks() -> None:
    subject = _transformer()
    ratios = magnitude_ratios(subject, 6, _trial(subject).noise, torch.tensor([0, 1]))
    assert ratios[0] == 1.0
    assert len(ratios) == 6
    assert all(0.2 < ratio < 5 for ratio in ratios)


def test_the_setting_nearest_to_the_base_stands_for_a_cache() -> None:
    subject = _transformer()
    trial = _trial(subject)
    runs = [
        CachedRun(images=trial.converged + shift, computed=3, share=0.5, setting=str(shift)) for shift in (0.2, 0.1)
    ]
    method = CacheMethod(name="two", run=lambda *arguments: iter(runs))
    entry = measure_caches(trial, method, 3, _STEPS, trial.converged)
    assert entry.setting == "0.1"
    assert "| two | 0.1 | 3 | 9 | 50 % | 0.1000 ± 0.0000 | 0.1000 ± 0.0000 |" in cache_table([entry], _STEPS)
    nothing = CacheMethod(name="none", run=lambda *arguments: iter(()))
    refused = measure_caches(trial, nothing, 3, _STEPS, trial.converged)
    assert "| none | no setting computes 3 steps or fewer |" in cache_table([refused], _STEPS)


def test_as_many_calls_as_steps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="smaller than the 50 steps"):
        caches(models=[], calls=[50], steps=50, sets=1, samples=1, trajectories=8, out=tmp_path)
