"""Placing hooks on a model and taking them off again without a trace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.hooks import HookRegistry, ModelHook

ROOT_HOOK = "ab_schedulers_cache"
MODULE_HOOK = "ab_schedulers_module_cache"
_FOREIGN_CACHES = (
    "faster_cache",
    "fbc_",
    "mag_cache",
    "pyramid_attention_broadcast",
    "sea_cache",
    "taylorseer_cache",
    "text_kv_cache",
)


def check_model(model: Any) -> None:
    """Refuse what cannot be hooked, before anything is placed.

    Raises:
        TypeError: If ``model`` is no module.
        ValueError: If it carries a cache already, or a hook of accelerate that would drop ours.
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(
            f"`model` must be the denoiser, a torch module such as pipe.transformer, received {type(model).__name__}; "
            "pass the module."
        )
    for name, module in model.named_modules():
        where = f"module {name!r} of {type(model).__name__}" if name else type(model).__name__
        registry = getattr(module, "_diffusers_hook", None)
        hooks = [] if registry is None else list(registry.hooks)
        if any(hook in (ROOT_HOOK, MODULE_HOOK) for hook in hooks):
            raise ValueError(f"{where} carries a cache of ab_schedulers already; call remove_cache(model) first.")
        foreign = [hook for hook in hooks if hook.startswith(_FOREIGN_CACHES)]
        if foreign:
            raise ValueError(
                f"{where} carries another cache ({', '.join(foreign)}), and two caches would answer for each other; "
                "call its disable_cache() first."
            )
    check_not_offloaded(model, "apply the cache")


def check_not_offloaded(model: torch.nn.Module, action: str) -> None:
    """Refuse to change forwards under accelerate's hooks, which put back the ones they found.

    Raises:
        ValueError: If accelerate has wrapped the model or one of its modules.
    """
    for name, module in model.named_modules():
        if hasattr(module, "_hf_hook"):
            raise ValueError(
                f"accelerate's offloading wraps {f'module {name!r}' if name else type(model).__name__} and would drop "
                f"or keep hooks at the wrong time; call pipe.remove_all_hooks(), {action}, then enable offloading."
            )


def place(model: torch.nn.Module, root: ModelHook, modules: Mapping[torch.nn.Module, ModelHook]) -> None:
    """Register the root hook and the hooks of modules; nothing stays if one of them fails."""
    try:
        HookRegistry.check_if_exists_or_initialize(model).register_hook(root, ROOT_HOOK)
        for module, hook in modules.items():
            HookRegistry.check_if_exists_or_initialize(module).register_hook(hook, MODULE_HOOK)
    except BaseException:
        _take_off(model)
        raise
    _forget_child_registries(model)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HookedModule:
    """A module, its forward with our hook and the one beneath."""

    module: torch.nn.Module
    hooked: Any
    beneath: Any

    @classmethod
    def of(cls, module: torch.nn.Module, hook: ModelHook) -> HookedModule:
        """A module on which `place` has just put ``hook``."""
        return cls(module=module, hooked=vars(module)["forward"], beneath=hook.fn_ref.original_forward)


def lift(modules: Sequence[HookedModule]) -> list[HookedModule]:
    """Take our hooks off for one call, since each costs some frames; where others wrapped a module since, they stay."""
    lifted = [entry for entry in modules if vars(entry.module)["forward"] is entry.hooked]
    for entry in lifted:
        vars(entry.module)["forward"] = entry.beneath
    return lifted


def put_back(lifted: Sequence[HookedModule]) -> None:
    """The inverse of `lift`."""
    for entry in lifted:
        vars(entry.module)["forward"] = entry.hooked


def remove_cache(model: torch.nn.Module) -> None:
    """Remove what `apply_ab_cache` or `apply_eb_cache` placed; the model is then what it was before.

    Args:
        model: The denoiser that was passed to them.

    Raises:
        ValueError: If the model carries no cache, or accelerate's offloading has wrapped it since.

    Examples:
        >>> from diffusers import UNet2DModel
        >>> from ab_schedulers import ABCacheConfig, apply_ab_cache
        >>> unet = UNet2DModel(sample_size=8, block_out_channels=(32,), down_block_types=("DownBlock2D",),
        ...                    up_block_types=("UpBlock2D",))
        >>> cache = apply_ab_cache(unet, ABCacheConfig(interval=3))
        >>> remove_cache(unet)
    """
    registry = getattr(model, "_diffusers_hook", None)
    if registry is None or ROOT_HOOK not in registry.hooks:
        raise ValueError(
            f"{type(model).__name__} carries no cache of ab_schedulers; pass the module that apply_ab_cache or "
            "apply_eb_cache was given."
        )
    check_not_offloaded(model, "remove the cache")
    _forget_child_registries(model)
    _take_off(model)


def _take_off(model: torch.nn.Module) -> None:
    for module in model.modules():
        registry = getattr(module, "_diffusers_hook", None)
        if registry is None:
            continue
        for name in (ROOT_HOOK, MODULE_HOOK):
            registry.remove_hook(name, recurse=False)
        if not registry.hooks:
            del module._diffusers_hook
            _drop_own_forward(module)


def _drop_own_forward(module: torch.nn.Module) -> None:
    """Remove the instance attribute that the registry leaves where it is nothing but the class's own method."""
    forward = vars(module).get("forward")
    if getattr(forward, "__func__", None) is type(module).forward and getattr(forward, "__self__", None) is module:
        del module.forward


def _forget_child_registries(model: torch.nn.Module) -> None:
    registry = HookRegistry.check_if_exists_or_initialize(model)
    forget = getattr(registry, "invalidate_child_registries_cache", None)  # not in all supported versions of diffusers
    if forget is not None:
        forget()


def matching_modules(model: torch.nn.Module, patterns: Sequence[Any]) -> dict[str, torch.nn.Module]:
    """Modules whose full name one of the compiled ``patterns`` matches from end to end."""
    return {
        name: module for name, module in model.named_modules() if any(pattern.fullmatch(name) for pattern in patterns)
    }
