"""Loads the bundled models: trained networks small enough to ship, with the stock scheduler each belongs to."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file

from ab_schedulers.models.classifier import FashionClassifier
from ab_schedulers.models.fashion_mnist import CLASS_NAMES, IMAGE_SHAPE

BUNDLED: tuple[str, ...] = ("dit-epsilon", "dit-flow", "unet-v")
"""The names `load` knows."""

WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True, slots=True, kw_only=True)
class BundledModel:
    """A trained class-conditional model of Fashion-MNIST images.

    Attributes:
        name: one of `BUNDLED`.
        model: the diffusers model, float32, in evaluation mode, without gradients.
        scheduler: the stock diffusers scheduler the model was trained for, on the plain probability-flow ODE.
        sample_shape: channels, height, width of one sample.
        num_classes: the number of classes; label `num_classes` itself means "no class".
        class_names: the name of each class.

    Examples:
        >>> import torch
        >>> bundled = load("dit-flow")
        >>> scheduler = bundled.scheduler
        >>> scheduler.set_timesteps(4)
        >>> sample = torch.randn(2, *bundled.sample_shape)
        >>> for timestep in scheduler.timesteps:
        ...     output = bundled.predict(sample, timestep, torch.tensor([1, 9]))
        ...     sample = scheduler.step(output, timestep, sample).prev_sample
        >>> tuple(sample.shape)
        (2, 1, 28, 28)
    """

    name: str
    model: Any
    scheduler: Any
    sample_shape: tuple[int, int, int]
    num_classes: int
    class_names: tuple[str, ...]

    def to(self, device: torch.device | str) -> BundledModel:
        """Moves the model to a device and returns this object."""
        self.model.to(device)
        return self

    @torch.no_grad()
    def predict(self, sample: torch.Tensor, timestep: torch.Tensor | float, labels: torch.Tensor) -> torch.Tensor:
        """The model output for a batch.

        Args:
            sample: noisy images (batch, 1, 28, 28).
            timestep: one timestep for the whole batch, a number or a tensor with one element on any device.
            labels: classes (batch,), integers from 0 to `num_classes`; `num_classes` means "no class".

        Returns:
            The output (batch, 1, 28, 28): ε, v or the flow, as `scheduler` expects it.

        Raises:
            ValueError: the sample's or the labels' shape is not the one above.
        """
        if sample.ndim != 4 or tuple(sample.shape[1:]) != self.sample_shape:
            raise ValueError(
                f"sample has shape {tuple(sample.shape)}: model {self.name!r} expects (batch, "
                f"{', '.join(map(str, self.sample_shape))})"
            )
        if labels.shape != sample.shape[:1]:
            raise ValueError(
                f"labels have shape {tuple(labels.shape)}: expected one label per sample, ({sample.shape[0]},)"
            )
        timesteps = torch.as_tensor(timestep, device=sample.device).expand(sample.shape[0])
        output: torch.Tensor = self.model(
            sample, timestep=timesteps, class_labels=labels.to(sample.device), return_dict=False
        )[0]
        return output


def _require(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(
            f"no file {path}: the bundled weights are missing from this installation; reinstall ab_schedulers, "
            "or train them with 'python -m ab_schedulers.models.train' (see ab_schedulers/models/README.md)"
        )
    return path


def _from_folder(config_file: Path) -> Any:
    """The diffusers object whose class and options `config_file` names."""
    class_name = json.loads(_require(config_file).read_text(encoding="utf-8"))["_class_name"]
    return getattr(diffusers, class_name).from_pretrained(config_file.parent)


def load(name: str, *, weights: Path = WEIGHTS) -> BundledModel:
    """Loads one bundled model with its stock scheduler, on the CPU in float32.

    Args:
        name: one of `BUNDLED`.
        weights: the folder that holds the weights; the package's own unless models were trained elsewhere.

    Raises:
        ValueError: there is no bundled model of that name.
        FileNotFoundError: the weights are absent from this installation.
    """
    if name not in BUNDLED:
        raise ValueError(f"no bundled model is called {name!r}: expected one of {', '.join(map(repr, BUNDLED))}")
    folder = weights / name
    _require(folder / "diffusion_pytorch_model.safetensors")
    model = _from_folder(folder / "config.json")
    return BundledModel(
        name=name,
        model=model.float().eval().requires_grad_(False),
        scheduler=_from_folder(folder / "scheduler" / "scheduler_config.json"),
        sample_shape=IMAGE_SHAPE,
        num_classes=len(CLASS_NAMES),
        class_names=CLASS_NAMES,
    )


def load_classifier(*, weights: Path = WEIGHTS) -> FashionClassifier:
    """Loads the classifier, on the CPU in float32, in evaluation mode, without gradients.

    Raises:
        FileNotFoundError: the weights are absent from this installation.
    """
    state = load_file(_require(weights / "classifier" / "model.safetensors"))
    classifier = FashionClassifier()
    classifier.load_state_dict(state)
    return classifier.eval().requires_grad_(False)


def reference_statistics(*, weights: Path = WEIGHTS) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean (64,) and covariance (64, 64) of the classifier's features over the 60,000 training images.

    Raises:
        FileNotFoundError: the statistics are absent from this installation.
    """
    moments = load_file(_require(weights / "statistics" / "moments.safetensors"))
    return moments["mean"].numpy(), moments["covariance"].numpy()
