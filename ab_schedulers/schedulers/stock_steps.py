"""The stock schedulers' own steps, which some pipelines call behind `step`'s back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn


def refused(name: str) -> Callable[..., NoReturn]:
    """A method in the place of the stock scheduler's `name`, which raises `NotImplementedError`.

    Pipelines that invert, or that run the solver themselves (LEDITS++, CycleDiffusion, ParaDiGMS), call such methods to
    learn what one step of the grid does. A call of ours walks several, so the answer would be wrong, silently.
    """

    def method(self: Any, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError(
            f"{type(self).__name__} has no `{name}`: that is one step of the stock scheduler, and a model call here "
            "walks several base steps. Keep the stock scheduler in a pipeline that takes the solver's steps itself "
            "(LEDITS++, CycleDiffusion, ParaDiGMS)."
        )

    method.__name__ = name
    method.__doc__ = f"Raises `NotImplementedError`: `{name}` is a step of the stock scheduler."
    return method
