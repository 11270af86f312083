"""Trains the classifier and takes the moments of its features over the real images."""

from __future__ import annotations

import time

import torch
from safetensors.torch import save_file
from torch.nn import functional
from tqdm import tqdm

from ab_schedulers.models.bundled import load_classifier
from ab_schedulers.models.classifier import FashionClassifier
from ab_schedulers.models.fashion_mnist import read_split, scale
from ab_schedulers.models.training import Settings, learning_rate_factor, training_batches

LEARNING_RATE = 3e-3


def train_classifier(settings: Settings) -> float:
    """Trains the classifier, writes it in float16 and returns its accuracy on the test images."""
    torch.manual_seed(settings.seed)
    generator = torch.Generator(settings.device).manual_seed(settings.seed)
    model = FashionClassifier().to(settings.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
    batches = training_batches(settings, generator)
    started = time.monotonic()
    step = 0
    with tqdm(total=settings.budget.steps, desc="classifier", unit="step", mininterval=5.0) as bar:
        while (progress := settings.budget.progress(step, started)) < 1.0:
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * learning_rate_factor(step, progress, settings.warm_up_steps)
            images, labels = next(batches)
            with settings.autocast():
                logits = model(images)
            functional.cross_entropy(logits.float(), labels, label_smoothing=0.05).backward()
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            bar.update()
    folder = settings.out / "classifier"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {key: value.contiguous() for key, value in model.half().cpu().state_dict().items()},
        folder / "model.safetensors",
    )
    accuracy = test_accuracy(load_classifier(weights=settings.out).to(settings.device), settings)
    print(f"classifier: {step} steps, {time.monotonic() - started:.0f} s, test accuracy {accuracy:.4f}")
    return accuracy


@torch.no_grad()
def test_accuracy(classifier: FashionClassifier, settings: Settings) -> float:
    """The share of the 10,000 test images whose class the classifier names."""
    images, labels = (part.to(settings.device) for part in read_split(settings.data, "t10k"))
    guesses = torch.cat([classifier(scale(chunk)).argmax(1) for chunk in images.split(500)])
    return (guesses == labels).double().mean().item()


@torch.no_grad()
def feature_moments(classifier: FashionClassifier, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (64,) and covariance (64, 64) in float64 of the features of byte images (count, 1, 28, 28)."""
    features = torch.cat([classifier.features(scale(chunk)).double() for chunk in images.split(500)])
    covariance = torch.cov(features.T)
    return features.mean(0), 0.5 * (covariance + covariance.T)


def write_statistics(settings: Settings) -> None:
    """Writes the feature moments of the training images; prints how far real test images are, and the accuracy."""
    classifier = load_classifier(weights=settings.out).to(settings.device)
    print(f"statistics: test accuracy of the classifier {test_accuracy(classifier, settings):.4f}")
    training = feature_moments(classifier, read_split(settings.data, "train")[0].to(settings.device))
    folder = settings.out / "statistics"
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"mean": training[0].cpu(), "covariance": training[1].cpu()}, folder / "moments.safetensors")
    test_images = read_split(settings.data, "t10k")[0].to(settings.device)
    generator = torch.Generator().manual_seed(settings.seed)
    for count in sorted({min(2000, len(test_images)), len(test_images)}):
        chosen = torch.randperm(len(test_images), generator=generator)[:count].to(settings.device)
        distance = frechet_distance(training, feature_moments(classifier, test_images[chosen]))
        print(f"statistics: Frechet distance of {count} real test images to the training images {distance:.3f}")


def frechet_distance(first: tuple[torch.Tensor, torch.Tensor], second: tuple[torch.Tensor, torch.Tensor]) -> float:
    """``|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a^{1/2} C_b C_a^{1/2})^{1/2})`` (Heusel et al., 2017, equation 6)."""
    (mean_a, covariance_a), (mean_b, covariance_b) = first, second
    eigenvalues, vectors = torch.linalg.eigh(covariance_a)
    root = (vectors * eigenvalues.clamp(min=0).sqrt()) @ vectors.T
    traces = torch.trace(covariance_a) + torch.trace(covariance_b)
    trace_of_root = torch.linalg.eigvalsh(root @ covariance_b @ root).clamp(min=0).sqrt().sum()
    return float(((mean_a - mean_b).square().sum() + traces - 2 * trace_of_root).item())
