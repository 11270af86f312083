"""Which cases a test runs on: each on the CPU, and on CUDA where there is a device."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from . import conditioned, image_transformers, unets, videos
from .case import Case

CASES: list[Case] = [*unets.CASES, *image_transformers.CASES, *videos.CASES, *conditioned.CASES]
BY_NAME = {case.name: case for case in CASES}


def of(cases: Iterable[Case]) -> pytest.MarkDecorator:
    """Parametrize by cases, on both devices."""
    return pytest.mark.parametrize("case", [entry for case in cases for entry in _on_both(case)])


def named(*names: str) -> pytest.MarkDecorator:
    """Parametrize by the cases with these names."""
    return of(BY_NAME[name] for name in names)


def _on_both(case: Case) -> list[Any]:
    missing = pytest.mark.skipif(not case.available(), reason=f"this diffusers has no {case.pipeline}")
    on_cuda = replace(case, device="cuda")
    return [
        pytest.param(case, id=case.name, marks=missing),
        pytest.param(on_cuda, id=f"{case.name}-cuda", marks=[missing, pytest.mark.gpu]),
    ]
