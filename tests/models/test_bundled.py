"""The bundled models load as diffusers loads them, listen to their labels, and draw what they are asked for."""

from __future__ import annotations

import shutil
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from safetensors import safe_open

from ab_schedulers.models import BUNDLED, BundledModel, load, load_classifier, reference_statistics
from ab_schedulers.models.bundled import WEIGHTS

PREDICTION = {"dit-epsilon": "epsilon", "unet-v": "v_prediction"}


@pytest.fixture(scope="module", params=BUNDLED)
def bundled(request: pytest.FixtureRequest) -> BundledModel:
    return load(request.param)


def noise(bundled: BundledModel, count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, *bundled.sample_shape, generator=torch.Generator().manual_seed(seed))


def sampled(bundled: BundledModel, labels: torch.Tensor, steps: int) -> torch.Tensor:
    scheduler = bundled.scheduler
    scheduler.set_timesteps(steps)
    sample = noise(bundled, len(labels))
    for timestep in scheduler.timesteps:
        sample = scheduler.step(bundled.predict(sample, timestep, labels), timestep, sample, return_dict=False)[0]
    return sample.clamp(-1, 1)


CLASSES = {
    "dit-epsilon": diffusers.DiTTransformer2DModel,
    "dit-flow": diffusers.DiTTransformer2DModel,
    "unet-v": diffusers.UNet2DModel,
}


@pytest.mark.parametrize("path", sorted(WEIGHTS.rglob("*.safetensors")), ids=lambda path: path.parent.name)
def test_weights_are_at_most_four_megabytes_and_float16(path: Path) -> None:
    """But for the counters of batch normalization and the statistics, which are float64."""
    assert path.stat().st_size <= 4_000_000
    with safe_open(path, "pt") as tensors:
        kinds = {tensors.get_slice(key).get_dtype() for key in tensors.keys()}  # noqa: SIM118
    assert kinds == {"classifier": {"F16", "I64"}, "statistics": {"F64"}}.get(path.parent.name, {"F16"})


@pytest.mark.parametrize("name", BUNDLED)
def test_a_copy_of_the_folder_loads_by_diffusers_own_from_pretrained(name: str, tmp_path: Path) -> None:
    shutil.copytree(WEIGHTS / name, tmp_path / "elsewhere")
    model, rest = CLASSES[name].from_pretrained(tmp_path / "elsewhere", output_loading_info=True)
    assert not any(rest.values()), rest
    ours = load(name)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(ours.model.state_dict()[key], value.float(), rtol=0, atol=0)
    sample, labels = noise(ours, 2), torch.tensor([0, ours.num_classes])
    output = model(sample, timestep=torch.full((2,), 300), class_labels=labels).sample
    torch.testing.assert_close(output, ours.predict(sample, 300, labels))
    scheduler = type(ours.scheduler).from_pretrained(tmp_path / "elsewhere", subfolder="scheduler")
    assert dict(scheduler.config) == dict(ours.scheduler.config)


def test_the_model_card_tells_the_true_numbers_of_parameters_and_bytes() -> None:
    card = (WEIGHTS.parent / "README.md").read_text(encoding="utf-8")
    models = {name: load(name).model for name in BUNDLED} | {"classifier": load_classifier()}
    for name, model in models.items():
        (row,) = (line for line in card.splitlines() if line.startswith(f"| `{name}`"))
        (file,) = (WEIGHTS / name).glob("*.safetensors")
        assert f"| {sum(p.numel() for p in model.parameters()):,} | {file.stat().st_size:,} bytes |" in row


def test_a_loaded_model_is_float32_in_evaluation_mode_without_gradients(bundled: BundledModel) -> None:
    assert not bundled.model.training
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in bundled.model.parameters())


def test_the_scheduler_is_the_plain_sampler_of_the_probability_flow(bundled: BundledModel) -> None:
    config = bundled.scheduler.config
    if bundled.name in PREDICTION:
        assert isinstance(bundled.scheduler, diffusers.DDIMScheduler)
        assert config.prediction_type == PREDICTION[bundled.name]
        assert (config.clip_sample, config.set_alpha_to_one, config.timestep_spacing) == (False, True, "trailing")
    else:
        assert isinstance(bundled.scheduler, diffusers.FlowMatchEulerDiscreteScheduler)
        assert config.shift == 1.0


def test_a_prediction_has_the_samples_shape_and_repeats_exactly(bundled: BundledModel) -> None:
    sample, labels = noise(bundled, 3), torch.tensor([0, 5, 9])
    first = bundled.predict(sample, torch.tensor(500), labels)
    assert first.shape == sample.shape and first.dtype == torch.float32
    assert torch.equal(first, bundled.predict(sample, 500, labels))


def test_the_label_changes_the_prediction_and_so_does_leaving_it_out(bundled: BundledModel) -> None:
    sample = noise(bundled, 1).repeat(3, 1, 1, 1)
    trouser, bag, none = bundled.predict(sample, 700, torch.tensor([1, 8, bundled.num_classes]))
    for other in (bag, none):
        assert (trouser - other).square().mean().sqrt() > 0.02


def test_the_classifier_recognises_four_of_five_samples_of_twenty_steps(bundled: BundledModel) -> None:
    labels = torch.arange(64) % bundled.num_classes
    recognised = load_classifier()(sampled(bundled, labels, 20)).argmax(1) == labels
    assert recognised.float().mean() >= 0.8


def test_a_sample_of_a_wrong_shape_is_refused(bundled: BundledModel) -> None:
    with pytest.raises(ValueError, match=r"\(2, 1, 32, 32\).*\(batch, 1, 28, 28\)"):
        bundled.predict(torch.zeros(2, 1, 32, 32), 10, torch.zeros(2, dtype=torch.long))


def test_labels_that_do_not_match_the_batch_are_refused(bundled: BundledModel) -> None:
    with pytest.raises(ValueError, match=r"labels have shape \(3,\).*\(2,\)"):
        bundled.predict(noise(bundled, 2), 10, torch.zeros(3, dtype=torch.long))


def test_an_unknown_name_is_refused_with_the_names_that_exist() -> None:
    with pytest.raises(ValueError, match=r"'sd-turbo'.*'dit-epsilon', 'dit-flow', 'unet-v'"):
        load("sd-turbo")


def test_missing_weights_are_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="reinstall ab_schedulers, or train"):
        load("dit-flow", weights=tmp_path)
    with pytest.raises(FileNotFoundError, match="reinstall ab_schedulers, or train"):
        load_classifier(weights=tmp_path)
    with pytest.raises(FileNotFoundError, match="reinstall ab_schedulers, or train"):
        reference_statistics(weights=tmp_path)


def test_the_reference_covariance_is_symmetric_and_positive() -> None:
    mean, covariance = reference_statistics()
    assert mean.shape == (64,) and covariance.shape == (64, 64)
    assert mean.dtype == covariance.dtype == np.float64
    np.testing.assert_array_equal(covariance, covariance.T)
    assert np.linalg.eigvalsh(covariance).min() > -1e-9 * np.trace(covariance)
    assert np.trace(covariance) > 1.0


def test_the_classifier_gives_64_features_and_10_logits() -> None:
    classifier, images = load_classifier(), torch.zeros(2, 1, 28, 28)
    assert classifier.features(images).shape == (2, 64)
    assert classifier(images).shape == (2, 10)
    assert torch.equal(classifier(images), classifier.to_logits(classifier.features(images)))
