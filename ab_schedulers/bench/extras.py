"""Imports of optional packages, with an error that says which extra installs them."""

from __future__ import annotations

import importlib
from typing import Any

EXTRA = 'pip install "ab-schedulers[{}]"'


class MissingExtraError(ImportError):
    """An optional package of an extra is not installed."""


def import_extra(module: str, purpose: str, extra: str = "bench") -> Any:
    """Import `module`, or say what needs it and how to install it.

    Args:
        module: dotted name of the module.
        purpose: what the module is needed for, as the end of "… is needed for".
        extra: which extra installs it.

    Returns:
        The imported module.

    Raises:
        MissingExtraError: the package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name is not None and error.name.partition(".")[0] != package:
            raise
        raise MissingExtraError(
            f"{package} is needed for {purpose} but is not installed; install it with {EXTRA.format(extra)}"
        ) from error
