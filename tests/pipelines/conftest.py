"""Real pipelines need transformers, which only the tests ask for; diffusers' own warnings are not ours to fix."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

pytest.importorskip("transformers", reason="pipelines of diffusers import transformers")

OURS = "tests/pipelines"
IGNORED = (
    "ignore::FutureWarning:diffusers",
    "ignore:In CPU autocast:UserWarning",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let diffusers' own deprecation warnings pass in this folder."""
    for item in items:
        if OURS in item.path.as_posix():
            for warning in IGNORED:
                item.add_marker(pytest.mark.filterwarnings(warning))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small models are fastest so, and results do not depend on the machine's number of cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _reproducible_kernels(request: pytest.FixtureRequest) -> Iterator[None]:
    """On CUDA, convolutions in float32 proper, by the same algorithm every time."""
    if request.node.get_closest_marker("gpu") is None:
        yield
        return
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield
