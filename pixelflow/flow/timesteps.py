"""Times: the distributions from which training draws tau, and the time grids of samplers."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from pixelflow.limits import above, at_least, finite

Grid = Literal["reference", "uniform"]


class UniformTimesteps:
    """Draws tau = i / num_train_timesteps with i uniform in 0..num_train_timesteps-1 (PixelFlow's release).

    Args:
        num_train_timesteps: Number of values of tau.

    Raises:
        ValueError: There is no value of tau.
    """

    def __init__(self, *, num_train_timesteps: int = 1000) -> None:
        at_least(1, num_train_timesteps=num_train_timesteps)
        self.num_train_timesteps = num_train_timesteps

    def __call__(self, uniform: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """Maps uniform numbers in [0, 1) to times: (B,) -> (B,) tau, float64, equally at every stage."""
        return (uniform * self.num_train_timesteps).floor() / self.num_train_timesteps


class LogitNormalTimesteps:
    """Draws tau = sigmoid(mean + std * z) with z normal (Esser et al. 2024), shifted and clamped, at every stage.

    Args:
        mean: Mean of the normal distribution.
        std: Standard deviation of the normal distribution.
        shift: Above 1, times move towards the noise (see `shifted`).
        low: Lower limit to which tau is clamped.
        high: Upper limit to which tau is clamped.

    Raises:
        ValueError: A number is not finite, std or shift is not above 0, or not 0 <= low < high <= 1.
    """

    def __init__(
        self, *, mean: float = -0.8, std: float = 0.8, shift: float = 1.0, low: float = 0.0, high: float = 1.0
    ) -> None:
        finite(mean=mean)
        above(0, std=std, shift=shift)
        if not 0 <= low < high <= 1:
            raise ValueError(f"low={low}, high={high} must satisfy 0 <= low < high <= 1")
        self.mean, self.std, self.shift, self.low, self.high = mean, std, shift, low, high

    def __call__(self, uniform: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """Maps uniform numbers in [0, 1) to times, monotonically: (B,) -> (B,) tau, float64, equally at every stage."""
        tau = torch.sigmoid(self.mean + self.std * torch.special.ndtri(uniform.double()))
        return shifted(tau, self.shift).clamp(self.low, self.high)


class FlowLogitNormalTimesteps:
    """Draws the share of the clean image over the whole flow as logit-normal, truncated to the window of each stage.

    With F the distribution function of sigmoid(mean + std * z), z normal, and a window from s to e,

        tau = (F^-1(F(s) + u * (F(e) - F(s))) - s) / (e - s).

    So within a stage the shares have the relative frequencies of plain flow matching. `LogitNormalTimesteps` draws tau
    from the same distribution at every stage instead. With one stage the two are equal.

    Args:
        mean: Mean of the normal distribution.
        std: Standard deviation of the normal distribution.

    Raises:
        ValueError: A number is not finite, or std is not above 0.
    """

    def __init__(self, *, mean: float = -0.8, std: float = 0.8) -> None:
        finite(mean=mean)
        above(0, std=std)
        self.mean, self.std = mean, std

    def __call__(self, uniform: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """Maps uniform numbers in [0, 1) to times, monotonically: (B,) -> (B,) tau, float64.

        Args:
            uniform: (B,), uniform numbers.
            start: (B,), s of each image's stage.
            end: (B,), e of each image's stage.
        """
        s, e = start.double(), end.double()
        low, high = ((torch.logit(share) - self.mean) / self.std for share in (s, e))
        # Above the median the upper tail is used, whose small numbers are exact: F(-z) = 1 - F(z).
        sign = torch.where(low > 0, -1.0, 1.0).double()
        at_low, at_high = torch.special.ndtr(sign * low), torch.special.ndtr(sign * high)
        z = sign * torch.special.ndtri(at_low + uniform.double() * (at_high - at_low))
        share = torch.sigmoid(self.mean + self.std * z)
        return ((share - s) / (e - s)).clamp(0, 1)


def shifted(tau: Tensor, shift: float) -> Tensor:
    """Returns tau / (shift + (1 - shift) * tau); a shift above 1 moves times towards the noise."""
    return tau / (shift + (1 - shift) * tau)


def time_grid(num_steps: int, *, grid: Grid = "reference", shift: float = 1.0) -> Tensor:
    """Returns the times of one stage, (num_steps + 1,) float64, from 0 to 1.

    Args:
        num_steps: N, the number of steps.
        grid: "reference" is linspace(0, 0.999, N) and then 1, so that the last step is 0.001 long (PixelFlow's
            release). "uniform" is N equal steps.
        shift: Above 1, more steps are near the noise (see `shifted`).

    Examples:
        >>> time_grid(2, grid="uniform").tolist()
        [0.0, 0.5, 1.0]
    """
    if grid == "reference":
        tau = torch.linspace(0, 0.999, num_steps, dtype=torch.float64)
    else:
        tau = torch.arange(num_steps, dtype=torch.float64) / num_steps
    return torch.cat([shifted(tau, shift), torch.ones(1, dtype=torch.float64)])
