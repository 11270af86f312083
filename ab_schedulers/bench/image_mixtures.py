"""A Gaussian mixture on a real data set: an exact flow whose means are images, in their principal coordinates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from ab_schedulers.bench.environment import fingerprint
from ab_schedulers.bench.mixtures import MixtureFlow
from ab_schedulers.bench.subjects import ExactSubject, mixture_subject
from ab_schedulers.models.fashion_mnist import read_split, scale

_RTOL = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageMixture:
    """A kernel density of images, on the principal axes of a data set.

    The density has a Gaussian at each of some images, all of one width: the mean distance of an image to the nearest
    other one, per coordinate. The coordinates are those of the pixels, turned and cut off, so noise means what it means
    for pixels.

    Attributes:
        flow: the mixture, in principal coordinates.
        centre: mean image (pixels,).
        axes: principal axes (pixels, dimension), orthonormal.
        shape: of one image.
    """

    flow: MixtureFlow
    centre: torch.Tensor
    axes: torch.Tensor
    shape: tuple[int, ...]

    def decode(self, samples: torch.Tensor) -> torch.Tensor:
        """Images (batch, *shape) of principal coordinates (batch, dimension)."""
        return (self.centre + samples.double() @ self.axes.T).reshape(len(samples), *self.shape)


def image_mixture(images: torch.Tensor, components: int = 256, dimension: int = 64) -> ImageMixture:
    """The mixture of the first `components` of `images` (count, channels, height, width) on all images' axes.

    Raises:
        ValueError: fewer images than `components`, two or more of which are needed, or than `dimension`, or not as many
            pixels.
    """
    count, pixels = len(images), images[0].numel()
    if not (2 <= components <= count and 1 <= dimension <= min(count, pixels)):
        raise ValueError(
            f"expected 2 to {count} components and at most {min(count, pixels)} dimensions for {count} images of "
            f"{pixels} pixels; received {components} and {dimension}"
        )
    flat = images.double().reshape(count, pixels)
    centre = flat.mean(dim=0)
    _, vectors = torch.linalg.eigh((flat - centre).T @ (flat - centre) / count)
    axes = vectors[:, -dimension:].flip(1)
    means = (flat[:components] - centre) @ axes
    distances = torch.cdist(means, means).fill_diagonal_(torch.inf).amin(dim=1)
    width = float(distances.mean()) / dimension**0.5
    flow = MixtureFlow(
        means=means,
        stds=torch.full((components,), width, dtype=torch.float64),
        weights=torch.full((components,), 1.0 / components, dtype=torch.float64),
        rtol=_RTOL,
    )
    return ImageMixture(flow=flow, centre=centre, axes=axes, shape=tuple(images.shape[1:]))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageSubject(ExactSubject):
    """An exact subject whose samples are images.

    Attributes:
        mixture: the density and its axes.
        mark: what identifies it.
    """

    mixture: ImageMixture
    mark: str

    def decode(self, samples: torch.Tensor) -> torch.Tensor:
        """Images of `samples`."""
        return self.mixture.decode(samples)


def fashion_subject(kind: str, data: Path) -> ImageSubject:
    """Fashion-MNIST's test images as the subject `fashion-KIND`; classes are not told apart.

    Raises:
        FileNotFoundError: the data set is not in the folder `data`.
        ValueError: unknown `kind`, or the files are not that data set.
    """
    images, _ = read_split(data, "t10k")
    return image_subject(f"fashion-{kind}", kind, image_mixture(scale(images)))


def image_subject(name: str, kind: str, mixture: ImageMixture) -> ImageSubject:
    """`mixture` as a subject of the given kind, see `mixture_subject`."""
    plain = mixture_subject(kind, mixture.flow)
    return ImageSubject(
        name=name,
        flow=plain.flow,
        scheduler=plain.scheduler,
        prediction_type=plain.prediction_type,
        sample_shape=plain.sample_shape,
        mixture=mixture,
        mark=fingerprint(None, mixture.flow.means, mixture.flow.stds),
    )
