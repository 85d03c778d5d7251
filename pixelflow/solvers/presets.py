"""Solvers by what they are to cost: how many steps in the coarse stages, and how many in the last.

A step of the last stage costs several of the others together: at 256 pixels it has three quarters of the tokens.
"""

from __future__ import annotations

from typing import Literal

from pixelflow.flow.timesteps import Grid
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
    """A fixed-grid solver with coarse_steps in every stage but the last. order: of adams_bashforth.

    Raises ValueError where the solver does (see `FixedGrid`), naming these arguments.
    """
    for name, steps in (("coarse_steps", coarse_steps), ("last_steps", last_steps)):
        if steps < 1:
            raise ValueError(f"{name}={steps} must be at least 1")
    num_steps = [coarse_steps] * (num_stages - 1) + [last_steps]
    if method == "adams_bashforth":
        return AdamsBashforth(num_steps=num_steps, num_stages=num_stages, order=order, grid=grid, shift=shift)
    solver = Euler if method == "euler" else Heun
    return solver(num_steps=num_steps, num_stages=num_stages, grid=grid, shift=shift)
