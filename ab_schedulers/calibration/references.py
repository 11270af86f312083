"""What a calibration is held to: converged trajectories, or what the scheduler gives with every base step computed."""

from __future__ import annotations

from dataclasses import replace

from ab_schedulers.numerics import Row, ddim_step, quantity_map
from ab_schedulers.schedulers.grids import NoiseGrid

from .plans import reference_steps
from .runs import BASE_STEPS, Runs
from .trajectories import Trajectories
from .walks import theory_walk

QUANTITY = "velocity"


def reference_calls(num_base_steps: int | None) -> int:
    """Model calls of a reference run."""
    return len(reference_steps(BASE_STEPS[0])) if num_base_steps is None else num_base_steps


def run_reference(runs: Runs, source: str, num_base_steps: int | None) -> Trajectories:
    """Reference trajectories.

    Args:
        runs: The sampler.
        source: What is sampled, for the file.
        num_base_steps: Base steps, all computed, of the scheduler's own run; None for converged trajectories.
    """
    if num_base_steps is None:
        return _converged(runs, source)
    nodes = runs.nodes(num_base_steps, num_base_steps)
    return Trajectories(
        states=runs.base_states(num_base_steps),
        alphas=nodes.alphas,
        sigmas=nodes.sigmas,
        source=source,
        num_base_steps=num_base_steps,
    )


def _converged(runs: Runs, source: str) -> Trajectories:
    nodes = runs.base_nodes(reference_calls(None))
    walk = theory_walk(nodes, reference_steps(nodes.count), QUANTITY)
    last = walk.steps[-1]
    start = quantity_map(QUANTITY, nodes.alphas[last], nodes.sigmas[last], flow=nodes.flow)
    step = ddim_step(start, nodes.alphas[-1], nodes.sigmas[-1])  # stock solvers, too, end on the model's clean sample
    end = Row(sample=step.sample, history=step.outputs, order=1)
    walk = replace(walk, label="reference", rows=(*walk.rows[:-1], end))
    ends = [*walk.steps, nodes.count]
    return Trajectories(
        states=runs.run(walk).samples,
        alphas=tuple(nodes.alphas[i] for i in ends),
        sigmas=tuple(nodes.sigmas[i] for i in ends),
        source=source,
    )


def plan_grid(runs: Runs, num_calls: int, num_base_steps: int | None) -> NoiseGrid:
    """The base grid on which ``num_calls`` calls are placed; no model call.

    Raises:
        ValueError: If there is none, or a run of fewer calls has another one than a run of all base steps.
    """
    if num_base_steps is None:
        return runs.base_nodes(num_calls)
    nodes, whole = runs.nodes(num_base_steps, num_calls), runs.nodes(num_base_steps, num_base_steps)
    if not nodes.same_levels(whole):
        raise ValueError(
            f"{num_calls} calls on {num_base_steps} base steps do not stand on the grid of a run of {num_base_steps} "
            "steps, expected the same one; drop `num_base_steps`, or use another timestep spacing."
        )
    return nodes


def check_same_target(known: Trajectories, num_base_steps: int | None) -> None:
    """Raise ``ValueError`` unless the trajectories are those that the calibration is to be held to."""
    if known.num_base_steps != num_base_steps:
        names = [
            "converged" if steps is None else f"of {steps} base steps"
            for steps in (known.num_base_steps, num_base_steps)
        ]
        raise ValueError(
            f"the reference trajectories are {names[0]}, expected trajectories {names[1]}; record them again with "
            f"`num_base_steps={num_base_steps}`."
        )
