"""The classifier whose penultimate features measure how close samples are to real images."""

from __future__ import annotations

import torch
from torch import nn


class FashionClassifier(nn.Module):
    """A small convolutional network on images (batch, 1, 28, 28) in [-1, 1].

    Three stages of two 3x3 convolutions with batch normalization, halving the resolution between stages, the mean
    over space, a linear layer to 64 features and one to 10 logits.
    """

    num_features = 64

    def __init__(self, channels: tuple[int, int, int] = (32, 64, 96), num_classes: int = 10) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        width = 1
        for index, next_width in enumerate(channels):
            if index:
                stages.append(nn.MaxPool2d(2))
            for incoming in (width, next_width):
                stages += [
                    nn.Conv2d(incoming, next_width, 3, padding=1, bias=False),
                    nn.BatchNorm2d(next_width),
                    nn.ReLU(),
                ]
            width = next_width
        self.body = nn.Sequential(*stages)
        self.to_features = nn.Linear(width, self.num_features)
        self.to_logits = nn.Linear(self.num_features, num_classes)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """The penultimate features (batch, 64) of images (batch, 1, 28, 28) in [-1, 1]."""
        features: torch.Tensor = torch.relu(self.to_features(self.body(images).mean(dim=(2, 3))))
        return features

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The logits (batch, 10) of images (batch, 1, 28, 28) in [-1, 1]."""
        logits: torch.Tensor = self.to_logits(self.features(images))
        return logits
