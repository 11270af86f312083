"""Which modules of a transformer are attention, cross-attention and MLP."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

from .placement import matching_modules

KINDS = ("attention", "cross_attention", "mlp")


@dataclass(frozen=True, slots=True, kw_only=True)
class EBFamily:
    """Names of the modules of one model class whose outputs are cached, as regular expressions on the full name.

    Each module must be called once per call of the model, and its output must be added to the hidden states behind a
    gate or a projection that stays outside the module: then the modulation of a skipped step is still exact.

    Args:
        attention: Self- and joint attention.
        cross_attention: Attention to the text alone; empty where the family has none.
        mlp: MLPs; in blocks that run them beside the attention, the first projection.

    Raises:
        ValueError: If a pattern is no regular expression, or attention or MLP have none.
    """

    attention: tuple[str, ...]
    mlp: tuple[str, ...]
    cross_attention: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for kind in KINDS:
            patterns = getattr(self, kind)
            if isinstance(patterns, str) or (not patterns and kind != "cross_attention"):
                raise ValueError(f"`{kind}` must be a tuple of patterns, received {patterns!r}; name the modules.")
            for pattern in patterns:
                try:
                    re.compile(pattern)
                except re.error as error:
                    raise ValueError(f"`{kind}` holds {pattern!r}, no regular expression ({error}).") from error

    def modules(self, model: torch.nn.Module) -> dict[str, tuple[str, torch.nn.Module]]:
        """Kind and module by name.

        Raises:
            ValueError: If a kind finds no module, or two kinds claim one.
        """
        found: dict[str, tuple[str, torch.nn.Module]] = {}
        for kind in KINDS:
            patterns = getattr(self, kind)
            matches = matching_modules(model, [re.compile(pattern) for pattern in patterns])
            if patterns and not matches:
                raise ValueError(
                    f"{type(model).__name__} has no modules for {kind}: looked for names like {', '.join(patterns)}. "
                    f"{_HOW_TO_REGISTER}"
                )
            twice = sorted(set(matches) & set(found))
            if twice:
                raise ValueError(f"{twice[0]!r} is claimed twice, as {found[twice[0]][0]} and {kind}; correct it.")
            found.update({name: (kind, module) for name, module in matches.items()})
        return found


_HOW_TO_REGISTER = 'Describe the model with register_eb_family("ClassName", EBFamily(attention=(...), mlp=(...))).'
_N = r"\d+"
_IN_BLOCK = rf"transformer_blocks\.{_N}\."
_IN_SINGLE = rf"single_transformer_blocks\.{_N}\."
_FLUX = EBFamily(
    attention=(_IN_BLOCK + "attn", _IN_SINGLE + "attn"),
    mlp=(_IN_BLOCK + "ff", _IN_BLOCK + "ff_context", _IN_SINGLE + "proj_mlp"),
)
_CROSS = EBFamily(attention=(_IN_BLOCK + "attn1",), cross_attention=(_IN_BLOCK + "attn2",), mlp=(_IN_BLOCK + "ff",))
_ONE_STREAM = EBFamily(attention=(_IN_BLOCK + "attn1",), mlp=(_IN_BLOCK + "ff",))

_FAMILIES: dict[str, EBFamily] = {
    "DiTTransformer2DModel": _ONE_STREAM,
    "PixArtTransformer2DModel": _CROSS,
    "SD3Transformer2DModel": EBFamily(
        attention=(_IN_BLOCK + "attn2?",), mlp=(_IN_BLOCK + "ff", _IN_BLOCK + "ff_context")
    ),
    "FluxTransformer2DModel": _FLUX,
    "HunyuanVideoTransformer3DModel": _FLUX,
    "WanTransformer3DModel": EBFamily(
        attention=(rf"blocks\.{_N}\.attn1",), cross_attention=(rf"blocks\.{_N}\.attn2",), mlp=(rf"blocks\.{_N}\.ffn",)
    ),
    "QwenImageTransformer2DModel": EBFamily(
        attention=(_IN_BLOCK + "attn",), mlp=(_IN_BLOCK + "img_mlp", _IN_BLOCK + "txt_mlp")
    ),
    "CogVideoXTransformer3DModel": _ONE_STREAM,
    "LTXVideoTransformer3DModel": _CROSS,
}


def register_eb_family(class_name: str, family: EBFamily) -> None:
    r"""Make `apply_eb_cache` know a model class, or describe a known one anew.

    Args:
        class_name: Name of the model's class.
        family: Its modules.

    Raises:
        TypeError: If ``family`` is no `EBFamily`.

    Examples:
        >>> family = EBFamily(attention=(r"layers\.\d+\.attn",), mlp=(r"layers\.\d+\.mlp",))
        >>> register_eb_family("MyTransformer", family)
    """
    if not isinstance(family, EBFamily):
        raise TypeError(f"`family` must be an EBFamily, received {type(family).__name__}; build one.")
    _FAMILIES[class_name] = family


def family_of(model: torch.nn.Module) -> EBFamily:
    """The family of a model's class or of one of its base classes.

    Raises:
        ValueError: If none is registered; the message names the modules of the families that are.
    """
    for cls in type(model).__mro__:
        if cls.__name__ in _FAMILIES:
            return _FAMILIES[cls.__name__]
    looked_for = sorted({p.replace("\\", "") for f in _FAMILIES.values() for k in KINDS for p in getattr(f, k)})
    raise ValueError(
        f"{type(model).__name__} is no transformer known to apply_eb_cache, which knows {sorted(_FAMILIES)} and looks "
        f"for modules named {', '.join(looked_for)}. {_HOW_TO_REGISTER}"
    )
