from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def strict_build() -> Callable[[Path, Path], subprocess.CompletedProcess[str]]:
    """Builds the site of a configuration into a folder, as `make docs` does."""
    pytest.importorskip("mkdocs", reason="the site needs the extra `docs`")

    def build(configuration: Path, folder: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(configuration), "--site-dir", str(folder)],
            cwd=ROOT,
            env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )

    return build


@pytest.fixture(scope="session")
def site(
    strict_build: Callable[[Path, Path], subprocess.CompletedProcess[str]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The site, built strictly into a scratch folder."""
    folder = tmp_path_factory.mktemp("site")
    done = strict_build(ROOT / "mkdocs.yml", folder)
    assert done.returncode == 0, f"the strict build fails:\n{done.stdout}{done.stderr}"
    return folder
