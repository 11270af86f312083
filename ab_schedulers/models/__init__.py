"""Small class-conditional models of Fashion-MNIST that ship with the package, and what measures their samples.

They exist so that the demo, the benchmarks and the tests run on trained networks anywhere; the model card is
``README.md`` in this folder.
"""

from ab_schedulers.models.bundled import (
    BUNDLED,
    BundledModel,
    load,
    load_classifier,
    reference_statistics,
)
from ab_schedulers.models.classifier import FashionClassifier

__all__ = [
    "BUNDLED",
    "BundledModel",
    "FashionClassifier",
    "load",
    "load_classifier",
    "reference_statistics",
]
