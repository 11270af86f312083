"""Fashion-MNIST as Debian ships it (package ``dataset-fashion-mnist``, Expat licence, Zalando SE 2017).

The files are in the IDX format of LeCun's MNIST page: two zero bytes, a type code (8 for unsigned bytes), the number
of axes, each axis as a big-endian 32-bit integer, then the values.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

DEBIAN_DIRECTORY = Path("/usr/share/datasets/fashion-mnist")

CLASS_NAMES: tuple[str, ...] = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

IMAGE_SHAPE: tuple[int, int, int] = (1, 28, 28)


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """Reads one gzipped IDX file of unsigned bytes.

    Args:
        path: the file, for example ``train-images-idx3-ubyte.gz``.

    Returns:
        The values with the axes the header names.

    Raises:
        FileNotFoundError: the file is absent; the message names the Debian package that holds it.
        ValueError: the header is not that of an IDX file of unsigned bytes, or disagrees with the length.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"no file {path}: expected Fashion-MNIST in IDX format; install the Debian package "
            "'dataset-fashion-mnist' (apt-get install dataset-fashion-mnist) or pass its folder as --data"
        )
    with gzip.open(path, "rb") as stream:
        content = stream.read()
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path} is not an IDX file of unsigned bytes: it begins with {content[:4]!r}")
    axes = content[3]
    shape = tuple(int.from_bytes(content[4 + 4 * i : 8 + 4 * i], "big") for i in range(axes))
    values = np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * axes)
    if values.size != int(np.prod(shape)):
        raise ValueError(f"{path} announces shape {shape} but holds {values.size} values: the file is damaged")
    return values.reshape(shape)


def read_split(directory: Path, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Reads the images and labels of one split.

    Args:
        directory: the folder with the four gzipped IDX files.
        split: ``"train"`` (60,000 images) or ``"t10k"`` (10,000 images).

    Returns:
        Images (count, 1, 28, 28) as bytes and labels (count,) as integers.

    Raises:
        ValueError: the numbers of images and labels disagree, or the images are not 28 by 28.
    """
    images = read_idx(directory / f"{split}-images-idx3-ubyte.gz")
    labels = read_idx(directory / f"{split}-labels-idx1-ubyte.gz")
    if images.shape != (len(labels), *IMAGE_SHAPE[1:]):
        raise ValueError(
            f"split {split!r} in {directory}: expected images ({len(labels)}, 28, 28) for {len(labels)} labels, "
            f"received {images.shape}"
        )
    return torch.from_numpy(images.copy())[:, None], torch.from_numpy(labels.astype(np.int64))


def scale(images: torch.Tensor) -> torch.Tensor:
    """Maps bytes 0..255 to float32 in [-1, 1], the range the bundled models were trained on."""
    return images.float().div_(127.5).sub_(1.0)
