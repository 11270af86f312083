"""What the tests of the schedulers share: a model, whole runs, and an explicit slow walk in float64.

The slow walk knows no rows: it steps through every base step with tensors, predicts each skipped output by itself and
applies the base sampler's formula as its paper (or diffusers) writes it. Its grid is the stock scheduler's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from ab_schedulers import ABCacheScheduler

Model = Callable[[torch.Tensor, Any], torch.Tensor]
PREDICTIONS = {"v_prediction": "velocity", "flow_prediction": "velocity", "epsilon": "epsilon", "sample": "sample"}


def denoise(sample: torch.Tensor, timestep: Any) -> torch.Tensor:
    """A bounded model that depends smoothly on sample and time, differently in every entry."""
    phases = torch.linspace(0, 3, sample.numel(), dtype=torch.float64).reshape(sample.shape)
    output = 0.6 * torch.tanh(0.8 * sample.double() + 0.3) + 0.4 * torch.sin(float(timestep) / 250 + phases)
    return output.to(sample.dtype)


def starting_sample(dtype: torch.dtype = torch.float64, shape: Sequence[int] = (2, 3, 4, 4), seed: int = 0) -> Any:
    """Normal noise of a seed, the same in every dtype."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def run_through(scheduler: Any, model: Model, sample: torch.Tensor, *, begin: int = 0, **kwargs: Any) -> list[Any]:
    """The samples after every call from `begin` on; `seed` makes a generator, `variance_noise` is one per call."""
    repeated = len(set(scheduler.timesteps.tolist())) < len(scheduler.timesteps)
    if (begin or repeated) and hasattr(scheduler, "set_begin_index"):  # else stock takes the second of two equal ones
        scheduler.set_begin_index(begin)
    if "seed" in kwargs:
        kwargs["generator"] = torch.Generator().manual_seed(kwargs.pop("seed"))
    noises = kwargs.pop("variance_noise", None)
    samples = []
    for place, timestep in enumerate(scheduler.timesteps[begin:]):
        drawn = {} if noises is None else {"variance_noise": noises[place]}
        sample = scheduler.step(model(sample, timestep), timestep, sample, **kwargs, **drawn).prev_sample
        samples.append(sample)
    return samples


def largest_relative_difference(ours: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor]) -> float:
    """Over a whole run, the largest difference relative to the largest entry of the same sample."""
    assert len(ours) == len(theirs)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, theirs, strict=True))


def split(quantity: str, x: torch.Tensor, q: torch.Tensor, a: float, s: float, flow: bool) -> tuple[Any, Any]:
    """Clean sample and noise of a quantity at a node."""
    if quantity == "epsilon":
        return (x - s * q) / a, q
    if quantity == "sample":
        return q, (x - a * q) / s
    return (x - s * q, x + (1 - s) * q) if flow else (a * x - s * q, s * x + a * q)


def join(quantity: str, clean: torch.Tensor, noise: torch.Tensor, a: float, s: float, flow: bool) -> Any:
    """A quantity of clean sample and noise at a node."""
    if quantity == "velocity":
        return noise - clean if flow else a * noise - s * clean
    return {"epsilon": noise, "sample": clean}[quantity]


def interpolate(nodes: Sequence[float], outputs: Sequence[torch.Tensor], point: float) -> Any:
    """Value at a point of the polynomial through outputs, by Neville's scheme."""
    table = list(outputs)
    for width in range(1, len(table)):
        for i in range(len(table) - width):
            x0, x1 = nodes[i], nodes[i + width]
            table[i] = ((point - x1) * table[i] - (point - x0) * table[i + 1]) / (x0 - x1)
    return table[0]


def bound(clean: torch.Tensor, config: Any) -> torch.Tensor:
    """Dynamic thresholding (Imagen) or clipping of the clean sample."""
    if config.thresholding:
        flat = clean.reshape(len(clean), -1)
        scale = torch.quantile(flat.abs(), config.dynamic_thresholding_ratio, dim=1).clamp(1, config.sample_max_value)
        return (flat.clamp(-scale[:, None], scale[:, None]) / scale[:, None]).reshape(clean.shape)
    if config.get("clip_sample"):
        return clean.clamp(-config.clip_sample_range, config.clip_sample_range)
    return clean


@dataclass(frozen=True, kw_only=True)
class SlowWalk:
    """A cached run taken apart: the options of `scheduler`, the base grid of `stock` (after its `set_timesteps`)."""

    scheduler: ABCacheScheduler
    stock: Any
    eta: float = 0.0
    use_clipped_model_output: bool = False

    def __post_init__(self) -> None:
        config, stock = self.scheduler.config, self.stock
        count = self.scheduler.plan.num_base_steps
        timesteps = [float(t) for t in stock.timesteps[:count]]  # a trailing grid may hold a stray entry -1
        flow = isinstance(stock, FlowMatchEulerDiscreteScheduler)
        ddim = isinstance(stock, DDIMScheduler)
        if ddim:
            cumprod = [*(float(stock.alphas_cumprod[int(t)]) for t in timesteps), float(stock.final_alpha_cumprod)]
            alphas, sigmas = [a**0.5 for a in cumprod], [(1 - a) ** 0.5 for a in cumprod]
        else:
            sigmas = [*stock.sigmas[:count].tolist(), float(stock.sigmas[-1])]
            flow = flow or config.use_flow_sigmas
            alphas = [1 - s if flow else (1 + s * s) ** -0.5 for s in sigmas]
            sigmas = sigmas if flow else [s * a for s, a in zip(sigmas, alphas, strict=True)]
        ratios = [a / s if s else math.inf for a, s in zip(alphas, sigmas, strict=True)]
        lambdas = [math.log(ratio) if ratio > 0 else -math.inf for ratio in ratios]
        kind = "ddim" if ddim else "flow" if isinstance(stock, FlowMatchEulerDiscreteScheduler) else "dpm"
        stochastic = self.eta > 0 or bool(config.get("stochastic_sampling"))
        stochastic |= str(config.get("algorithm_type", "")).startswith("sde")
        prediction = "velocity" if kind == "flow" else PREDICTIONS[config.prediction_type]
        base = "sample" if kind != "dpm" or config.algorithm_type.endswith("++") else "epsilon"
        quantity = config.cache_quantity or {"ddim": "sample", "flow": "sample", "dpm": base}[kind]
        quantity = "sample" if stochastic else prediction if quantity == "model_output" else quantity
        variable = {"index": range(count), "timestep": timesteps, "lambda": lambdas}[config.cache_variable]
        given = locals()
        for name in ("timesteps", "alphas", "sigmas", "lambdas", "flow", "kind", "stochastic", "prediction", "base"):
            object.__setattr__(self, name, given[name])
        object.__setattr__(self, "quantity", quantity)
        object.__setattr__(self, "nodes", [float(v) for v in variable])

    def __call__(
        self, model: Model, sample: torch.Tensor, *, begin: int = 0, noises: Sequence[torch.Tensor] | None = None
    ) -> list[torch.Tensor]:
        """The samples after every call from call `begin` on; `noises` holds one draw per base step walked."""
        plan, config = self.scheduler.plan, self.scheduler.config
        corrector = None if self.stochastic else config.cache_corrector
        draws = iter(noises if noises is not None else ())
        windows = plan.windows[begin:]
        known: list[tuple[int, torch.Tensor, torch.Tensor]] = []  # node, quantity, base output; newest first
        samples, before, predicted = [], None, None
        for call, window in enumerate(windows):
            quantity, output, residual = self._observe(model, sample, window.start)
            known.insert(0, (window.start, quantity, output))
            start = sample
            if corrector is not None and call > 0 and len(windows[call - 1]) > 1:
                used = min(corrector, call + 1)
                corrected = self._walk(before, windows[call - 1], known, used, hold=False, first=windows[0].start)
                start = sample + corrected - predicted
            walk = partial(self._walk, start, window, known, min(config.cache_order, call + 1))
            hold = config.cache_predictor == "hold"
            sample = walk(hold=hold, first=windows[0].start, residual=residual, draws=draws)
            before, predicted = start, walk(hold=hold, first=windows[0].start)
            samples.append(sample)
        return samples

    def _observe(self, model: Model, x: torch.Tensor, i: int) -> tuple[Any, Any, Any]:
        """Cached quantity, base output and clipping residual of a model call at base node `i`."""
        config, a, s = self.scheduler.config, self.alphas[i], self.sigmas[i]
        clean, noise = split(self.prediction, x, model(x, self.timesteps[i]), a, s, self.flow)
        residual = torch.zeros_like(x)
        if self.kind != "flow":
            bounded = bound(clean, config)
            if self.kind == "ddim" and not self.use_clipped_model_output:
                residual = bounded - clean
            elif bounded is not clean:
                clean, noise = bounded, (x - a * bounded) / s
        return join(self.quantity, clean, noise, a, s, self.flow), clean if self.base == "sample" else noise, residual

    def _walk(
        self,
        x: torch.Tensor,
        window: range,
        known: list[tuple[int, torch.Tensor, torch.Tensor]],
        used: int,
        *,
        hold: bool,
        first: int,
        residual: torch.Tensor | None = None,
        draws: Any = None,
    ) -> torch.Tensor:
        nodes = [self.nodes[node] for node, _, _ in known[:used]]
        computed = {node: (quantity, output) for node, quantity, output in known}
        outputs: dict[int, torch.Tensor] = {}
        for i in window:
            if i == window.start:
                quantity, outputs[i] = computed[i]
            elif hold:
                weights = [(-1) ** j * math.comb(used, j + 1) for j in range(used)]
                quantity = sum(w * q for w, (_, q, _) in zip(weights, known, strict=False))
            else:
                quantity = interpolate(nodes, [q for _, q, _ in known[:used]], self.nodes[i])
            clean, noise = split(self.quantity, x, quantity, self.alphas[i], self.sigmas[i], self.flow)
            outputs.setdefault(i, clean if self.base == "sample" else noise)
            for earlier in (i - 1, i - 2):
                if earlier >= first and earlier not in outputs:
                    late = [output for _, _, output in known[:used]]
                    outputs[earlier] = (
                        computed[earlier][1] if earlier in computed else interpolate(nodes, late, self.nodes[earlier])
                    )
            z = next(draws) if draws is not None and self.stochastic else None
            if self.kind == "dpm":
                x = self._dpmsolver(x, i, i - first, outputs, z)
            else:
                x = (self._ddim if self.kind == "ddim" else self._euler)(x, i, clean, noise, z)
                if residual is not None and i == window.start:
                    x = x + self.alphas[i + 1] * residual
        return x

    def _ddim(self, x: torch.Tensor, i: int, clean: torch.Tensor, noise: torch.Tensor, z: Any) -> torch.Tensor:
        a, s, a_next, s_next = self.alphas[i], self.sigmas[i], self.alphas[i + 1], self.sigmas[i + 1]
        deviation = self.eta * s_next / s * max(0.0, 1 - (a / a_next) ** 2) ** 0.5
        x = a_next * clean + (s_next**2 - deviation**2) ** 0.5 * noise
        return x if z is None else x + deviation * z

    def _euler(self, x: torch.Tensor, i: int, clean: torch.Tensor, noise: torch.Tensor, z: Any) -> torch.Tensor:
        s, s_next = self.sigmas[i], self.sigmas[i + 1]
        if self.stochastic:
            return (1 - s_next) * clean + (0 if z is None else s_next * z)
        return x + (s_next - s) * (noise - clean)

    def _dpmsolver(self, x: torch.Tensor, i: int, taken: int, outputs: dict[int, Any], z: Any) -> torch.Tensor:
        """The updates of arXiv:2211.01095 with diffusers' choice of order, all in one form of `g`."""
        config, last, lam = self.scheduler.config, len(self.timesteps) - 1, self.lambdas
        a, s, a_next, s_next = self.alphas[i], self.sigmas[i], self.alphas[i + 1], self.sigmas[i + 1]
        if a * s_next == s * a_next:
            return x
        few = config.lower_order_final and last + 1 < 15
        order = min(config.solver_order, taken + 1, 2 if few and i == last - 1 else 3)
        if i == last and (few or config.euler_at_final or config.final_sigmas_type == "zero"):
            order = 1
        h = lam[i + 1] - lam[i]
        kind = config.algorithm_type
        plus = kind.endswith("++")
        g = {"dpmsolver++": h, "sde-dpmsolver++": 2 * h, "dpmsolver": -h, "sde-dpmsolver": -h}[kind]
        ratio = {"dpmsolver++": s_next / s, "sde-dpmsolver++": s_next / s * math.exp(-h)}.get(kind, a_next / a)
        scale = (a_next if plus else s_next) * (2 if kind == "sde-dpmsolver" else 1)
        decay = math.expm1(-g)
        update = -decay * outputs[i]
        if order > 1:
            d1 = (outputs[i] - outputs[i - 1]) * (h / (lam[i] - lam[i - 1]))
            curve = decay / g + 1 if math.isfinite(g) else 1.0
            if order == 2:
                update = update + (curve if config.solver_type == "heun" else -decay / 2) * d1
            else:
                older = (outputs[i - 1] - outputs[i - 2]) * (h / (lam[i - 1] - lam[i - 2]))
                r0, r1 = (lam[i] - lam[i - 1]) / h, (lam[i - 1] - lam[i - 2]) / h
                d2 = (d1 - older) / (r0 + r1)
                half = -0.5 if kind == "sde-dpmsolver++" else 0.5  # diffusers' sign
                update = update + curve * (d1 + r0 / (r0 + r1) * (d1 - older)) - ((decay + g) / g**2 - half) * d2
        x = ratio * x + scale * update
        if z is None:
            return x
        return x + s_next * (-math.expm1(-2 * h) if plus else math.expm1(2 * h)) ** 0.5 * z


def refined(values: Sequence[float], interval: int, end: float = 0.0) -> np.ndarray[Any, Any]:
    """`interval - 1` points inserted linearly after every value, toward the next one or the end."""
    corners = np.arange(len(values) + 1) * interval
    return np.interp(np.arange(len(values) * interval), corners, [*values, end])


@pytest.fixture(scope="session")
def denoiser() -> Model:
    return denoise


@pytest.fixture(scope="session")
def start() -> Callable[..., torch.Tensor]:
    return starting_sample


@pytest.fixture(scope="session")
def run() -> Callable[..., list[torch.Tensor]]:
    return run_through


@pytest.fixture(scope="session")
def difference() -> Callable[..., float]:
    return largest_relative_difference


@pytest.fixture(scope="session")
def slow_walk() -> type[SlowWalk]:
    return SlowWalk


@pytest.fixture(scope="session")
def refine_linearly() -> Callable[..., np.ndarray[Any, Any]]:
    return refined
