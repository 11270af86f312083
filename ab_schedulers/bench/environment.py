"""What every result file records about the run that wrote it."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import diffusers
import torch


def environment(*packages: str) -> dict[str, object]:
    """Versions, those of further `packages` among them, processor threads and platform."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        **{package: _version(package) for package in packages},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def chosen_device(name: str) -> torch.device:
    """The device that ``--device`` asks for; "auto" is CUDA where there is one, each process on its own.

    Raises:
        ValueError: CUDA is asked for and missing.
    """
    if name == "auto":
        count = torch.cuda.device_count()
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % count) if count else torch.device("cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"--device {name}: this torch ({torch.__version__}) sees no CUDA device; use --device cpu (bench latency: "
            "with --scale tiny)"
        )
    return device


def fingerprint(model: torch.nn.Module | None, *settings: object) -> str:
    """Short hash of the weights of `model` and of `settings`: changed weights or options get a new one."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=_described).encode())
    for name, tensor in sorted(({} if model is None else model.state_dict()).items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()[:16]


def _described(value: object) -> object:
    return value.tolist() if isinstance(value, torch.Tensor) else str(value)


def read_json(path: Path) -> Any:
    """Content of the JSON file `path`, `None` where there is none.

    Raises:
        ValueError: the file is not JSON.
    """
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}); remove it or choose another --out") from error


def write_json(path: Path, content: Any) -> None:
    """Write `content` to `path` in one move, so that an interrupted run leaves the earlier file whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(f".{os.getpid()}.part")
    beside.write_text(json.dumps(content, indent=1), encoding="utf-8")
    os.replace(beside, path)
