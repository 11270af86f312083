"""One rank of `test_ranks`: adaptive runs by itself and with the other, as JSON. Takes its rank and a meeting file."""

from __future__ import annotations

import json
import sys

import torch

from ab_schedulers import ABCacheConfig, apply_ab_cache
from ab_schedulers.models import load


def decisions(rank: int) -> list[tuple[bool, float | None]]:
    """Which of 16 steps are computed from the rank's own noise, and the estimates."""
    bundled = load("dit-flow")
    cache = apply_ab_cache(bundled.model, ABCacheConfig(threshold=0.2, interval=5), scheduler=bundled.scheduler)
    bundled.scheduler.set_timesteps(16)
    x = torch.randn(1, 1, 28, 28, generator=torch.Generator().manual_seed(rank))
    for t in bundled.scheduler.timesteps:
        x = bundled.scheduler.step(bundled.predict(x, t, torch.tensor([3 + 5 * rank])), t, x).prev_sample
    return [(record.computed, record.estimate) for record in cache.records]


def main() -> None:
    rank, meeting = int(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    alone = decisions(rank)
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    together = decisions(rank)
    torch.distributed.destroy_process_group()
    print(json.dumps({"alone": alone, "together": together}))


if __name__ == "__main__":
    main()
