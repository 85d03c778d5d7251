"""Solvers with separate numbers of steps for the coarse stages and the last one.

A step of the last stage costs more than a step of all others together: it has about three quarters of the tokens.
"""

from __future__ import annotations

from typing import Literal

from pixelflow.flow.timesteps import Grid
from pixelflow.limits import at_least, at_most
from pixelflow.solvers.fixed import AdamsBashforth, Euler, Heun

Method = Literal["euler", "heun", "adams_bashforth"]


def few_steps(
    *,
    method: Method = "adams_bashforth",
    order: int = 2,
    coarse_steps: int,
    last_steps: int,
    num_stages: int,
    grid: Grid = "uniform",
    shift: float = 1.0,
) -> Euler | Heun | AdamsBashforth:
    """Returns a solver with `coarse_steps` in every stage but the last.

    Args:
        method: "euler", "heun" or "adams_bashforth".
        order: Order of adams_bashforth; the others ignore it.
        coarse_steps: Steps in each stage but the last.
        last_steps: Steps in the last stage.
        num_stages: Number of stages of the cascade.
        grid: See `FixedGrid`.
        shift: See `FixedGrid`.

    Raises:
        ValueError: A number of steps is below 1, or an argument of the solver is invalid.
    """
    at_least(1, coarse_steps=coarse_steps, last_steps=last_steps, num_stages=num_stages)
    at_most(64, num_stages=num_stages)
    num_steps = [coarse_steps] * (num_stages - 1) + [last_steps]
    if method == "adams_bashforth":
        return AdamsBashforth(num_steps=num_steps, num_stages=num_stages, order=order, grid=grid, shift=shift)
    solver = Euler if method == "euler" else Heun
    return solver(num_steps=num_steps, num_stages=num_stages, grid=grid, shift=shift)
