"""The mixture on a data set has images for means, whole and turned, and is a subject like any other."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from ab_schedulers.bench.image_mixtures import ImageMixture, image_mixture, image_subject
from ab_schedulers.bench.methods import base
from ab_schedulers.bench.metrics import rmse
from ab_schedulers.bench.sampling import sample, seeded_noise
from ab_schedulers.bench.solver_results import Results
from ab_schedulers.bench.trials import prepare
from ab_schedulers.cli import main


def _images(count: int = 40, size: int = 6) -> torch.Tensor:
    """Smooth random pictures in [-1, 1]."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(count, 1, 3, 3, generator=generator)
    return torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear").tanh()


def _mixture(dimension: int = 9) -> ImageMixture:
    return image_mixture(_images(), components=12, dimension=dimension)


def test_means_are_the_images_and_coordinates_keep_lengths() -> None:
    images, mixture = _images(), _mixture(36)
    assert torch.allclose(mixture.decode(mixture.flow.means), images[:12].double(), atol=1e-10)
    few = _mixture(4)
    assert torch.allclose(few.axes.T @ few.axes, torch.eye(4, dtype=torch.float64), atol=1e-10)
    kept = [rmse(_mixture(d).decode(_mixture(d).flow.means), images[:12].double()) for d in (1, 4, 9)]
    assert kept == sorted(kept, reverse=True) and kept[-1] < 0.5 * kept[0]


def test_the_width_is_the_mean_distance_to_the_nearest_image_per_coordinate() -> None:
    mixture = _mixture()
    nearest = [
        min(float((a - b).norm()) for j, b in enumerate(mixture.flow.means) if j != i)
        for i, a in enumerate(mixture.flow.means)
    ]
    assert float(mixture.flow.stds[0]) == pytest.approx(np.mean(nearest) / 3.0)
    assert len(mixture.flow.stds.unique()) == 1


@pytest.mark.parametrize("kind", ["vp", "flow"])
def test_a_fine_run_ends_on_the_exact_trajectory(kind: str, tmp_path: Path) -> None:
    subject = image_subject("pictures", kind, _mixture())
    noise, labels = seeded_noise(subject, 8, 0, torch.float64)
    exact = prepare(subject, 1, 8, tmp_path)[0]
    assert exact.converged.shape == (8, 9)
    converged = subject.converged(noise, 1000.0 if kind == "flow" else 999.0)
    errors = [
        rmse(sample(subject, base(subject.scheduler, steps).scheduler, steps, noise, labels).images, converged)
        for steps in (50, 200)
    ]
    assert errors[1] < 0.5 * errors[0] < 0.1


def test_another_data_set_is_another_subject(tmp_path: Path) -> None:
    first, second = (image_subject("pictures", "flow", image_mixture(_images(n), 12, 9)) for n in (40, 30))
    marks = {prepare(subject, 1, 2, tmp_path)[0].mark for subject in (first, second)}
    assert len(marks) == 2


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 2 to 40 components and at most 36 dimensions for 40 images"):
        image_mixture(_images(), components=41)
    with pytest.raises(ValueError, match="received 12 and 37"):
        image_mixture(_images(), components=12, dimension=37)


def _write_idx(path: Path, values: np.ndarray) -> None:
    header = bytes([0, 0, 8, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
    path.write_bytes(gzip.compress(header + values.astype(np.uint8).tobytes()))


def test_the_command_takes_the_data_set_from_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", "solvers", "--subjects", "fashion-flow", "--calls", "4", "--seed-sets", "2"]
    arguments += ["--samples", "2", "--search-samples", "1", "--out", str(tmp_path / "out"), "--data", str(tmp_path)]
    assert main(arguments) == 2
    assert "dataset-fashion-mnist" in capsys.readouterr().err
    pictures = (127.5 * (_images(300, 28) + 1.0)).round().numpy()[:, 0]
    _write_idx(tmp_path / "t10k-images-idx3-ubyte.gz", pictures)
    _write_idx(tmp_path / "t10k-labels-idx1-ubyte.gz", np.zeros(300))
    assert main(arguments) == 0
    assert "## `fashion-flow`" in capsys.readouterr().out
    assert (tmp_path / "out/solvers_fashion-flow_grid.png").stat().st_size > 10_000
    assert Results.read(tmp_path / "out/solvers.json").references["fashion-flow"]["method"] == "DOP853"
