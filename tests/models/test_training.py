"""The training script reads IDX files, trains every subject, and writes what the package loads."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ab_schedulers.models import BUNDLED, load, load_classifier, reference_statistics
from ab_schedulers.models.fashion_mnist import read_idx, read_split, scale
from ab_schedulers.models.recipes import LOGIT_SCALE, RECIPES
from ab_schedulers.models.train import main
from ab_schedulers.models.train_classifier import frechet_distance
from ab_schedulers.models.training import WeightAverage, learning_rate_factor, stratified_uniform


def write_idx(path: Path, values: np.ndarray) -> None:
    header = bytes([0, 0, 8, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
    path.write_bytes(gzip.compress(header + values.tobytes()))


@pytest.fixture(scope="module")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("idx")
    random = np.random.default_rng(0)
    for split, count in (("train", 24), ("t10k", 20)):
        write_idx(folder / f"{split}-images-idx3-ubyte.gz", random.integers(0, 256, (count, 28, 28), dtype=np.uint8))
        write_idx(folder / f"{split}-labels-idx1-ubyte.gz", (np.arange(count) % 10).astype(np.uint8))
    return folder


@pytest.fixture
def train(tiny_data: Path, tmp_path: Path) -> Callable[..., Path]:
    def run(subject: str, *options: str, out: str = "out") -> Path:
        common = ["--data", str(tiny_data), "--steps", "2", "--batch-size", "8", "--float32"]
        main([subject, *common, "--out", str(tmp_path / out), *options])
        return tmp_path / out

    return run


@pytest.mark.parametrize("name", BUNDLED)
def test_two_training_steps_write_a_model_that_loads_again(name: str, train: Callable[..., Path]) -> None:
    bundled = load(name, weights=train(name))
    assert bundled.predict(torch.zeros(2, 1, 28, 28), 10, torch.tensor([0, 1])).isfinite().all()


def test_the_same_seed_trains_the_same_model_and_another_seed_another(train: Callable[..., Path]) -> None:
    first, again = (load("unet-v", weights=train("unet-v", out=out)).model.state_dict() for out in ("a", "b"))
    other = load("unet-v", weights=train("unet-v", "--seed", "1", out="c")).model.state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_the_classifier_and_its_statistics_are_written_and_load_again(
    train: Callable[..., Path], tiny_data: Path
) -> None:
    train("classifier")
    out = train("statistics")
    features = load_classifier(weights=out).features(scale(read_split(tiny_data, "train")[0])).double().numpy()
    mean, covariance = reference_statistics(weights=out)
    np.testing.assert_allclose(mean, features.mean(0), atol=1e-6)
    np.testing.assert_allclose(covariance, np.cov(features.T), atol=1e-6)


def test_missing_data_name_the_debian_package(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="dataset-fashion-mnist"):
        main(["dit-flow", "--data", str(tmp_path), "--out", str(tmp_path), "--steps", "1"])


def test_a_file_of_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(b"PNG and so on"))
    with pytest.raises(ValueError, match="not an IDX file of unsigned bytes"):
        read_idx(path)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 5, 1, 2])))
    with pytest.raises(ValueError, match=r"shape \(5,\) but holds 2 values"):
        read_idx(path)


def test_idx_values_come_back_as_written(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    write_idx(tmp_path / "x.gz", values)
    np.testing.assert_array_equal(read_idx(tmp_path / "x.gz"), values)


@pytest.mark.parametrize("name", ["dit-epsilon", "unet-v"])
def test_ddim_returns_the_image_from_an_exact_output(name: str) -> None:
    recipe = RECIPES[name]
    scheduler = recipe.scheduler()
    image, noise = torch.randn(2, 1, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    scheduler.set_timesteps(10)
    timestep = scheduler.timesteps[-1]
    pair = recipe.objective(image, noise, (timestep[None] + 0.5) / 1000)
    assert pair.timestep.item() == timestep
    final = scheduler.step(pair.target, timestep, pair.sample, return_dict=False)[0]
    torch.testing.assert_close(final, image, rtol=0, atol=1e-4)


def test_flow_euler_stays_on_the_line_from_noise_to_image_with_an_exact_output() -> None:
    recipe = RECIPES["dit-flow"]
    scheduler = recipe.scheduler()
    image, noise = torch.randn(2, 1, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    scheduler.set_timesteps(10)
    timestep, sigma, next_sigma = scheduler.timesteps[4], scheduler.sigmas[4], scheduler.sigmas[5]
    scheduler.set_begin_index(4)
    uniform = torch.special.ndtr(torch.logit(sigma) / LOGIT_SCALE)
    pair = recipe.objective(image, noise, uniform[None])
    assert pair.timestep.item() == pytest.approx(timestep.item(), rel=1e-5)
    moved = scheduler.step(pair.target, timestep, pair.sample, return_dict=False)[0]
    torch.testing.assert_close(moved, (1 - next_sigma) * image + next_sigma * noise, rtol=0, atol=1e-4)


def test_the_learning_rate_warms_up_and_ends_at_zero() -> None:
    assert learning_rate_factor(0, 0.0, 10) == pytest.approx(0.1)
    assert learning_rate_factor(100, 0.5, 10) == pytest.approx(0.5)
    assert learning_rate_factor(100, 1.0, 10) == 0.0


def test_stratified_numbers_fall_one_into_each_part() -> None:
    numbers = stratified_uniform(50, torch.Generator().manual_seed(0))
    torch.testing.assert_close((numbers * 50).floor(), torch.arange(50.0), rtol=0, atol=0)


def test_the_weight_average_follows_the_parameters() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 1.0)
    average = WeightAverage(model, 0.9)
    torch.nn.init.constant_(model.weight, 2.0)
    average.update(step=10_000)
    assert average.model.weight.item() == pytest.approx(1.1)


def test_the_frechet_distance_of_diagonal_gaussians_is_the_sum_over_their_axes() -> None:
    first = torch.tensor([0.0, 1.0]).double(), torch.diag(torch.tensor([4.0, 9.0]).double())
    second = torch.tensor([3.0, 1.0]).double(), torch.diag(torch.tensor([1.0, 16.0]).double())
    assert frechet_distance(first, second) == pytest.approx(9 + 1 + 1)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-9)
