"""Which of the three schedulers serves the config of a diffusers scheduler, and with which values.

`resolve_config` reads the raw keys of a config, live (`scheduler.config`) or loaded from JSON. Values are resolved by
the *source* class's defaults and written explicitly, since `from_config` would otherwise fill gaps with the target's:
DDIM's clipping and `leading` grid, for instance, would slip in silently. The tables say, name by name, what is served,
how, and what is refused and why; the documentation is generated from them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

Target = Literal["ddim", "dpmsolver", "flow_match"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedConfig:
    """What a config means for our schedulers.

    Attributes:
        source: Name of the class the config came from, for example "EulerDiscreteScheduler".
        target: Which of our schedulers serves it.
        values: Explicit keyword values for that scheduler, JSON-able: every parameter of its diffusers base that the
            source determines, and our own options where the config carries them.
        carried: The source's other entries, raw, for the target's config: with them the stock class's own `from_config`
            restores the original. A key of `values` occurs here only where the two name the same choice differently
            (`solver_type`, `algorithm_type`); the scheduler then works by `values` and its config shows the raw name.
    """

    source: str
    target: Target
    values: dict[str, Any]
    carried: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedSource:
    """How a class is served; `fixed` is what it does without a key or whatever its key says, `remark` what differs."""

    target: Target
    fixed: Mapping[str, Any] = field(default_factory=dict)
    remark: str = ""


BASES: dict[Target, str] = {
    "ddim": "DDIMScheduler",
    "dpmsolver": "DPMSolverMultistepScheduler",
    "flow_match": "FlowMatchEulerDiscreteScheduler",
}
OWN: dict[str, Target] = {
    "ABCacheDDIMScheduler": "ddim",
    "ABCacheDPMSolverMultistepScheduler": "dpmsolver",
    "ABCacheFlowMatchEulerScheduler": "flow_match",
}
# Parameters of ours beyond those of the diffusers base: options of all three, and what one target needs for a source.
OWN_OPTIONS = (
    *("cache_interval", "cache_order", "cache_predictor", "cache_variable", "cache_quantity", "cache_corrector"),
    *("warmup_calls", "num_base_steps", "compute_steps", "cache_placement", "calibrations", "noise_scaling"),
)
EXTRA_PARAMETERS: dict[Target, dict[str, Any]] = {"ddim": {"snr_shift_scale": None}, "dpmsolver": {}, "flow_match": {}}


def _served(target: Target, remark: str = "", **fixed: object) -> ServedSource:
    return ServedSource(target=target, fixed=fixed, remark=remark)


_NODES = (
    "`linspace` has N intervals here and N - 1 there, `leading` N + 1 and N; karras, exponential and beta sigmas always"
    " span all betas here; the same: `trailing` without them, and they over `linspace`"
)
_NOISE = "deterministic here; `algorithm_type='sde-dpmsolver++'` brings noise back"
_TWO_CALLS = "one model call per step instead of two"
_NULL_STEP = "with flow sigmas this class stops one step early, at its last sigma; here the grid ends at zero"
_FLOW_START = "flow sigmas start at .999 instead of 1 - 1e-6, .001 lower before the shift"
_UNREAD_CLIP = "`clip_sample` is False, since this class never reads it"

SERVED: dict[str, ServedSource] = {
    "DDIMScheduler": _served("ddim"),
    "DDIMParallelScheduler": _served("ddim", "no batched step: not for ParaDiGMS pipelines"),
    "DDPMScheduler": _served("ddim", "deterministic here; `eta=1` brings the noise back"),
    "DDPMParallelScheduler": _served("ddim", "as DDPM; no batched step: not for ParaDiGMS pipelines"),
    "PNDMScheduler": _served("ddim", "no repeated step and no Runge-Kutta start", clip_sample=False),
    "CogVideoXDDIMScheduler": _served("ddim", _UNREAD_CLIP, clip_sample=False),
    "CogVideoXDPMScheduler": _served("ddim", f"deterministic here; {_UNREAD_CLIP}", clip_sample=False),
    "DPMSolverMultistepScheduler": _served("dpmsolver"),
    "DPMSolverSinglestepScheduler": _served("dpmsolver", "multistep instead of singlestep"),
    "UniPCMultistepScheduler": _served("dpmsolver", _FLOW_START),
    "DEISMultistepScheduler": _served("dpmsolver", _NULL_STEP, final_sigmas_type="sigma_min"),
    "SASolverScheduler": _served("dpmsolver", f"{_NOISE}; {_NULL_STEP}", final_sigmas_type="sigma_min"),
    "EulerDiscreteScheduler": _served("dpmsolver", _NODES),
    "EulerAncestralDiscreteScheduler": _served("dpmsolver", f"{_NOISE}; {_NODES}"),
    "LMSDiscreteScheduler": _served("dpmsolver", _NODES),
    "HeunDiscreteScheduler": _served("dpmsolver", f"{_TWO_CALLS}; clipping is thresholding at 1; {_NODES}"),
    "KDPM2DiscreteScheduler": _served("dpmsolver", f"{_TWO_CALLS}; {_NODES}"),
    "KDPM2AncestralDiscreteScheduler": _served("dpmsolver", f"{_TWO_CALLS}; {_NOISE}; {_NODES}"),
    "DPMSolverSDEScheduler": _served("dpmsolver", f"{_TWO_CALLS}; {_NOISE}; {_NODES}"),
    "FlowMatchEulerDiscreteScheduler": _served("flow_match"),
    "FlowMatchHeunDiscreteScheduler": _served("flow_match", _TWO_CALLS),
    **{name: _served(target) for name, target in OWN.items()},
}

# Classes, without "Scheduler", and why they are refused; what to use instead.
_REFUSALS = {
    "LCM TCD FlowMatchLCM SCM CMStochasticIterative ConsistencyDecoder FlowMapEulerDiscrete Piflow": "its model is"
    " distilled to a few calls, with nothing between them to skip; keep it, or use the base model",
    "EDMEuler EDMDPMSolverMultistep CosineDPMSolverMultistep KarrasVe": "it preconditions the model by sigma (EDM),"
    " which the base steps here do not; keep it with fewer steps",
    "ScoreSdeVe ScoreSdeVp DDPMWuerstchen RFD4Proteina": "it integrates a stochastic process of its own in a time"
    " variable of its own; keep it",
    "VQDiffusion Amused BlockRefinement DiscreteDDIM EntropyBound": "it samples discrete tokens, which cannot be"
    " combined linearly; keep it",
    "DDIMInverse DPMSolverMultistepInverse": "it walks from data to noise; keep it for the inversion, and sample with"
    " the config of DDIMScheduler",
    "Helios HeliosDMD": "it starts a new grid in every stage, and outputs do not combine across stages; keep it",
    "LTXEulerAncestralRF": "it draws noise in a step of its own; use the config of FlowMatchEulerDiscreteScheduler",
    "MiniMaxH3": "its pipelines count time upwards from noise; keep it",
    "UnCLIP": "its pipelines hand it the next timestep in every step; keep it",
    "RePaint": "it jumps back and forth in time; keep it, or inpaint with the config of DDIMScheduler",
    "IPNDM": "it has a noise schedule of its own and no prediction type; use the config of PNDMScheduler",
}
REFUSED: dict[str, str] = {f"{name}Scheduler": reason for names, reason in _REFUSALS.items() for name in names.split()}


def _shifts_linearly(config: Mapping[str, Any]) -> bool:
    return bool(config.get("use_dynamic_shifting")) and config.get("time_shift_type") == "linear"


_SCHEDULES = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")

# Settings of served classes that the target cannot express: what is set, when, and what to do.
# A condition sees the keys of the source class alone, so leftovers of other classes do not trip it.
REFUSED_SETTINGS: tuple[tuple[str, Callable[[Mapping[str, Any]], object], str], ...] = (
    (
        "timestep_type='continuous'",
        lambda c: c.get("timestep_type") == "continuous",
        "the model is told log(sigma)/4 instead of a timestep; keep the stock scheduler, or set 'discrete'",
    ),
    (
        "interpolation_type='log_linear'",
        lambda c: c.get("interpolation_type") == "log_linear",
        "DPM-Solver++ interpolates sigmas linearly; set 'linear', or use_exponential_sigmas=True for log-linear sigmas",
    ),
    (
        "sigma_min or sigma_max",
        lambda c: c.get("sigma_min") is not None or c.get("sigma_max") is not None,
        "DPM-Solver++ takes the range of sigmas from the betas; leave both None, or keep the stock scheduler",
    ),
    (
        "use_flow_sigmas together with another sigma schedule",
        lambda c: c.get("use_flow_sigmas") and any(c.get(key) for key in _SCHEDULES),
        f"DPM-Solver++ would take variance-preserving sigmas for flow sigmas; set {', '.join(_SCHEDULES)} to False",
    ),
    (
        "use_flow_sigmas and a terminal or linear shift",
        lambda c: c.get("use_flow_sigmas") and (c.get("shift_terminal") is not None or _shifts_linearly(c)),
        "DPM-Solver++ has neither; use the config of FlowMatchEulerDiscreteScheduler, which has both",
    ),
    (
        "invert_sigmas=True",
        lambda c: c.get("invert_sigmas"),
        "the grid runs from data to noise (Mochi); keep the stock scheduler",
    ),
    (
        f"a beta_schedule other than {', '.join(BETA_SCHEDULES)}",
        lambda c: c.get("trained_betas") is None and c.get("beta_schedule", "linear") not in BETA_SCHEDULES,
        "DDIM and DPM-Solver++ cannot build it; put the betas of the stock scheduler into the config as a list:"
        " {**config, 'trained_betas': scheduler.betas.tolist(), 'rescale_betas_zero_snr': False}",
    ),
    (
        "a learned variance_type",
        lambda c: "clip_sample" in c and c.get("variance_type") in ("learned", "learned_range"),
        "the model's output holds a variance that DDIM does not split off; use the config of"
        " DPMSolverMultistepScheduler.from_config(config), which does",
    ),
    (
        "clip_sample=True and a clip_sample_range other than 1",
        lambda c: "use_karras_sigmas" in c and c.get("clip_sample") and c["clip_sample_range"] != 1.0,
        "DPM-Solver++ can clip to [-1, 1] alone; set clip_sample=False, or clip_sample_range=1.0",
    ),
)

# One choice, named differently from class to class: what the name means for DPM-Solver++.
TRANSLATIONS: dict[str, dict[str, str]] = {
    "solver_type": dict.fromkeys(("logrho", "bh1", "bh2"), "midpoint"),
    "algorithm_type": dict.fromkeys(("deis", "data_prediction", "noise_prediction"), "dpmsolver++"),
}
# How the grid is walked, not which grid: kept from an earlier DPM-Solver++ config if the source has no such key.
_SOLVER_KEYS = ("solver_order", "solver_type", "algorithm_type", "lower_order_final", "euler_at_final")
# Classes that diffusers replaces by a dummy without scipy or torchsde: the class whose defaults they share.
_STAND_INS = {"LMSDiscreteScheduler": "EulerDiscreteScheduler", "DPMSolverSDEScheduler": "KDPM2DiscreteScheduler"}


def resolve_config(config: Mapping[str, Any]) -> ResolvedConfig:
    """Say which of our schedulers serves a diffusers scheduler config, and with which values.

    Args:
        config: The raw keys: `scheduler.config`, or a dict loaded from JSON.

    Raises:
        TypeError: If `config` is no mapping.
        ValueError: If the config cannot be served or told apart; the message says why and what to use.

    Examples:
        >>> resolve_config({"_class_name": "PNDMScheduler", "steps_offset": 1}).values["timestep_spacing"]
        'leading'
    """
    name = _source_name(config)
    source, target = SERVED[name], SERVED[name].target
    raw = {key: config.get(key, default) for key, default in _defaults(name).items()}
    for setting, applies, reason in REFUSED_SETTINGS:
        if applies(raw):
            raise ValueError(f"The config of a {name} with {setting} cannot be served: {reason}.")
    values = _values(source, raw, config)
    own_keys = {*_defaults(BASES[target]), *EXTRA_PARAMETERS[target], *OWN_OPTIONS}
    carried = {
        key: value
        for key, value in config.items()
        if not key.startswith("_") and (key not in own_keys or (key in TRANSLATIONS and values.get(key) != value))
    }
    return ResolvedConfig(source=name, target=target, values=values, carried=carried)


def _source_name(config: object) -> str:
    """Name of the class the config came from, if it is served."""
    if not isinstance(config, Mapping):
        hint = "; pass `scheduler.config`" if hasattr(config, "config") else ""
        raise TypeError(f"`config` must be the config of a diffusers scheduler (a dict), got {type(config)}{hint}.")
    name = config["_class_name"] if config.get("_class_name") is not None else _detect(config)
    if not isinstance(name, str) or name not in {*SERVED, *REFUSED}:
        raise ValueError(
            f"`config` names the class {name!r}, which is not known here. Served are {', '.join(SERVED)}. If it does"
            " what one of these does, say so: {**config, '_class_name': ...}."
        )
    if name in REFUSED:
        raise ValueError(f"The config of a {name} cannot be served: {REFUSED[name]}.")
    return name


def _values(source: ServedSource, raw: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword values for the target, from the source's keys `raw` and what else the config holds."""
    values: dict[str, Any] = {}
    for key, default in _defaults(BASES[source.target]).items():
        if key in source.fixed:
            values[key] = source.fixed[key]
        elif key in raw:
            values[key] = raw[key]
        elif key not in _SOLVER_KEYS:
            values[key] = default
        elif key in config:
            values[key] = config[key]
    values.update({key: raw[key] for key in EXTRA_PARAMETERS[source.target] if key in raw})
    values.update({key: config[key] for key in OWN_OPTIONS if key in config})
    for key, names in TRANSLATIONS.items():
        if key in values:
            values[key] = names.get(values[key], values[key])
    if source.target == "dpmsolver":
        if values.get("use_flow_sigmas") and "final_sigmas_type" not in raw:
            values["final_sigmas_type"] = "zero"  # "sigma_min" is a variance-preserving sigma
        if raw.get("clip_sample"):
            values.update(thresholding=True, sample_max_value=1.0)  # clamps to [-1, 1], whatever the quantile
    return {key: _plain(value) for key, value in values.items()}


def _detect(config: Mapping[Any, Any]) -> str:
    """Name of the class a config without `_class_name` came from.

    A live config lists the parameters of its class first, in their order; then, unless all of them were given,
    `_use_default_values`; then the leftovers of other classes. Where several classes fit, the one with the most keys is
    taken, then the first of the tables: they resolve alike, but for FlowMapEuler, whose keys are FlowMatchHeun's.
    """
    keys = list(config)
    marked = "_use_default_values" in keys
    first = [key for key in (keys[: keys.index("_use_default_values")] if marked else keys) if not key.startswith("_")]
    found, length = None, 0
    if marked and "cache_interval" in first:
        found = next((name for name, target in OWN.items() if {*_defaults(BASES[target])} <= {*first}), None)
    for name in (*SERVED, *REFUSED):
        names = [*_defaults(name), *(OWN_OPTIONS if name in OWN else ())]
        start = first[: len(names)]
        leads = not marked and (start == names or (name in OWN and {*start} == {*names}))
        if len(names) > length and (leads or {*first} == {*names}):
            found, length = name, len(names)
    if found is None:
        raise ValueError(
            "`config` does not say which scheduler class it came from, and its keys fit none. Expected"
            f" `scheduler.config`, or a dict with '_class_name', one of {', '.join(SERVED)}; got the keys {keys}."
        )
    return found


@cache
def _defaults(name: str) -> dict[str, Any]:
    """Parameters of a scheduler class and their defaults, from the installed diffusers; none if it lacks the class."""
    import diffusers

    if name in OWN:
        return {**_defaults(BASES[OWN[name]]), **EXTRA_PARAMETERS[OWN[name]]}
    scheduler = getattr(diffusers, name, None)
    if (scheduler is None or hasattr(scheduler, "_backends")) and name in _STAND_INS:
        defaults = _defaults(_STAND_INS[name])
        return {key: defaults[key] for key in _defaults("KDPM2DiscreteScheduler")}
    if scheduler is None:
        return {}
    parameters = list(inspect.signature(scheduler.__init__).parameters.values())[1:]
    return {p.name: p.default for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD}


def _plain(value: Any) -> Any:
    """An array, tensor or tuple as a list, a NumPy number as a Python one."""
    return value.tolist() if hasattr(value, "tolist") else list(value) if isinstance(value, tuple) else value
