"""Runge-Kutta solvers through torchdiffeq: adaptive (dopri5, bosh3) and with fixed steps (midpoint, rk4).

torchdiffeq keeps time in a tensor, so on a GPU every evaluation synchronises once; the solvers of `fixed` never do.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from pixelflow.errors import WorkFailed
from pixelflow.flow.timesteps import Grid
from pixelflow.limits import above
from pixelflow.solvers.fixed import FixedGrid
from pixelflow.solvers.per_image import TABLEAUS, integrate_per_image
from pixelflow.types import VelocityFn

Timesteps = Literal["reference", "trained"]


class FixedRungeKutta(FixedGrid):
    """The methods midpoint (order 2, two evaluations per step) and rk4 (order 4 by the 3/8 rule, four evaluations).

    Args:
        method: "midpoint" or "rk4".
        num_steps: See `FixedGrid`.
        num_stages: See `FixedGrid`.
        grid: See `FixedGrid`.
        shift: See `FixedGrid`.
        timesteps: See `AdaptiveRungeKutta`.
    """

    def __init__(
        self,
        *,
        method: Literal["midpoint", "rk4"],
        num_steps: int | list[int],
        num_stages: int,
        grid: Grid = "reference",
        shift: float = 1.0,
        timesteps: Timesteps = "reference",
    ) -> None:
        super().__init__(num_steps=num_steps, num_stages=num_stages, grid=grid, shift=shift)
        self.method = method
        self.last_tau = _last_tau(timesteps)

    def integrate(self, velocity_fn: VelocityFn, x: Tensor, grid: Tensor) -> tuple[Tensor, int]:
        """See `Euler.integrate`."""
        # With the two ends as the only output times, torchdiffeq does not keep the states between them.
        options = {"grid_constructor": lambda function, y0, t: grid.to(t)}
        return _odeint(velocity_fn, x, grid, method=self.method, options=options)


class AdaptiveRungeKutta:
    """The methods dopri5 (order 5) and bosh3 (order 3), with steps chosen by their estimated error.

    Args:
        method: "dopri5" or "bosh3".
        rtol: Relative tolerance: the error of a step, in the root mean square, must be below atol + rtol * |x|.
        atol: Absolute tolerance.
        per_image: False measures the error over the whole batch, as the release of PixelFlow does, so that an image
            depends on the batch in which it is drawn. True gives every image its own steps, and the last step ends at
            tau = 1 instead of beyond it.
        timesteps: "reference" passes the stage's last timestep to the backbone at tau = 1, as PixelFlow's release
            does with these solvers; "trained" passes the timestep that belongs to tau in training (see
            `Cascade.timestep`).

    Raises:
        ValueError: A tolerance is not positive.
    """

    adaptive = True

    def __init__(
        self,
        *,
        method: Literal["dopri5", "bosh3"],
        rtol: float = 1e-3,
        atol: float = 1e-6,
        per_image: bool = False,
        timesteps: Timesteps = "reference",
    ) -> None:
        above(0, rtol=rtol, atol=atol)
        self.method, self.rtol, self.atol, self.per_image = method, rtol, atol, per_image
        self.last_tau = _last_tau(timesteps)

    def time_grid(self, stage: int) -> Tensor:
        """Returns the ends of the stage, (2,) float64; the solver chooses the steps between them."""
        return torch.tensor([0.0, 1.0], dtype=torch.float64)

    def integrate(self, velocity_fn: VelocityFn, x: Tensor, grid: Tensor) -> tuple[Tensor, int]:
        """Returns the state at grid[-1] for the state x (B, ...) at grid[0], and the number of evaluations.

        Raises:
            WorkFailed: No step is small enough, for example because the velocity is not finite.
        """
        if self.per_image:
            start, end = grid[0].item(), grid[-1].item()
            return integrate_per_image(
                velocity_fn, x, start, end, tableau=TABLEAUS[self.method], rtol=self.rtol, atol=self.atol
            )
        return _odeint(velocity_fn, x, grid, method=self.method, rtol=self.rtol, atol=self.atol)


def _last_tau(timesteps: Timesteps) -> float | None:
    return 1.0 if timesteps == "reference" else None


def _odeint(velocity_fn: VelocityFn, x: Tensor, grid: Tensor, **settings: Any) -> tuple[Tensor, int]:
    from torchdiffeq import odeint

    nfe = 0

    def counted(tau: Tensor, state: Tensor) -> Tensor:
        nonlocal nfe
        nfe += 1
        return velocity_fn(state, tau.item())

    ends = grid[[0, -1]].to(x.device)
    try:
        return odeint(counted, x, ends, **settings)[-1], nfe
    except AssertionError as error:  # torchdiffeq asserts that steps are not too small and states finite
        raise WorkFailed(f"{settings['method']} found no step: {str(error)[:60]}; is the velocity finite?") from None
