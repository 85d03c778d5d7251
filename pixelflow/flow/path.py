"""A stage of the cascade as a straight path between two noisy images (PixelFlow, equations 2-5).

With the clean image x at the stage's resolution, P = Up(Down(.)) and one noise eps:

    start = s*Px + (1-s)*eps      end = e*x + (1-e)*eps      x_t = tau*end + (1-tau)*start

Both conversions below follow from these three lines and v = end - start; sigma is the share of noise in x_t.
S = 1 has s = 0 and e = 1: plain flow matching, v = (x - x_t) / (1 - t).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Clamp = Literal["quotient", "noise"]


def down(x: Tensor) -> Tensor:
    """Halves the resolution: bilinear x2 with align_corners=False, which is the mean of 2x2 blocks."""
    return F.avg_pool2d(x, 2)


def up(x: Tensor) -> Tensor:
    """Doubles the resolution by nearest neighbours."""
    return x.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)


def add_up(coarse: Tensor, fine: Tensor, *, alpha: float) -> Tensor:
    """Returns up(coarse) + alpha * fine in one pass over memory. coarse: (..., H, W). fine: (..., 2H, 2W)."""
    *lead, height, width = coarse.shape
    blocks = fine.reshape(*lead, height, 2, width, 2)
    return torch.add(coarse[..., :, None, :, None], blocks, alpha=alpha).view(fine.shape)


def project(x: Tensor) -> Tensor:
    """Returns Px with P = Up(Down(.)), a projection: P(Px) = Px."""
    return up(down(x))


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """Reshapes (B,) to (B, 1, 1, 1), with the device and dtype of `like`."""
    return values.to(device=like.device, dtype=like.dtype).view(-1, *[1] * (like.ndim - 1))


@dataclass(frozen=True)
class StagePath:
    """The path of one stage.

    Args:
        stage: Number of the stage; 0 is the coarsest.
        start: s, the share of the clean image at tau = 0.
        end: e, the share of the clean image at tau = 1, with 0 <= start < end <= 1.
        t_eps: Smallest denominator in `velocity_from_x`, because sigma of the last stage goes to 0 (JiT uses 0.05).
        clamp: What `velocity_from_x` divides by the clamped sigma: "quotient" the whole velocity, as JiT does, or
            "noise" the part that holds the noise alone.
    """

    stage: int
    start: float
    end: float
    t_eps: float = 0.05
    clamp: Clamp = "quotient"

    def sigma(self, tau: Tensor) -> Tensor:
        """Returns the share of noise at tau: sigma = tau*(1-e) + (1-tau)*(1-s)."""
        return tau * (1 - self.end) + (1 - tau) * (1 - self.start)

    def _starting_image(self, x: Tensor) -> Tensor:
        """Returns s*Px. The coarsest stage starts from noise alone, and its image may have an odd side."""
        return self.start * project(x) if self.start > 0 else x.new_zeros(())

    def interpolate(self, x: Tensor, noise: Tensor, tau: Tensor) -> Tensor:
        """Returns x_t = tau*end + (1-tau)*start (equation 4). x, noise: (B, C, H, W). tau: (B,)."""
        tau = per_image(tau, x)
        start = self._starting_image(x) + (1 - self.start) * noise
        end = self.end * x + (1 - self.end) * noise
        return tau * end + (1 - tau) * start

    def velocity(self, x: Tensor, noise: Tensor) -> Tensor:
        """Returns end - start = e*x - s*Px - (e-s)*eps, the regression target of equation 5."""
        return self.end * x - self._starting_image(x) - (self.end - self.start) * noise

    def velocity_from_x(self, x: Tensor, x_t: Tensor, tau: Tensor) -> Tensor:
        """Returns the velocity of the path through x_t whose clean image is x.

        v = drift - (e-s)*noise with drift = e*x - s*Px and noise = (x_t - tau*e*x - (1-tau)*s*Px) / sigma, where the
        last stage divides by d = max(sigma, t_eps). The two kinds of clamp agree where sigma >= t_eps, so in all other
        stages, and differ elsewhere:

        - "quotient": v = (sigma/d) * (drift - (e-s)*noise). The whole velocity shrinks to a multiple of x - x_t. S = 1
          gives JiT's (x - x_t) / max(1 - t, t_eps).
        - "noise": v = drift - (sigma/d) * (e-s)*noise. The drift stays exact. S = 1 gives
          x - (x_t - t*x) / max(1 - t, t_eps).
        """
        tau = per_image(tau, x_t)
        start = self._starting_image(x)
        sigma = self.sigma(tau)
        divisor = self._divisor(sigma)
        # (x_t - tau*e*x - (1-tau)*s*Px) = sigma*eps
        scaled_noise = x_t - tau * self.end * x - (1 - tau) * start
        drift = self.end * x - start
        if self.clamp == "noise":
            return drift - (self.end - self.start) * scaled_noise / divisor
        return (sigma * drift - (self.end - self.start) * scaled_noise) / divisor

    def x_error_weight(self, tau: Tensor) -> Tensor:
        """Returns w(tau), the weight that a mean square error of the velocity gives to an error of x, (B,).

        `velocity_from_x` is linear in x, and P is an orthogonal projection. With an error a = Pa + (a - Pa) of x and
        d = max(sigma, t_eps) in the last stage, sigma elsewhere, the error of the velocity is c*Pa + f*(a - Pa) with

            "quotient":  c = (e-s) / d                     f = e*(1-s) / d
            "noise":     c = (e-s) * (1 + (1-sigma) / d)   f = e * (1 + tau*(e-s) / d)

        because tau*e + (1-tau)*s = 1 - sigma and sigma + tau*(e-s) = 1 - s. At d = sigma the two lines are equal. The
        image of P has a quarter of the dimensions, so an error of equal size in all dimensions, of mean square m,
        becomes one of mean square w*m with w = (c^2 + 3*f^2) / 4. At s = 0, c = f and w is exact for every error; so it
        is at e = 1 with "quotient", where w = ((1-s) / d)^2 = 1 / (1-tau)^2 as long as sigma >= t_eps.
        """
        s, e = self.start, self.end
        sigma = self.sigma(tau)
        divisor = self._divisor(sigma)
        if self.clamp == "noise":
            coarse, fine = (e - s) * (1 + (1 - sigma) / divisor), e * (1 + tau * (e - s) / divisor)
        else:
            coarse, fine = (e - s) / divisor, e * (1 - s) / divisor
        return (coarse**2 + 3 * fine**2) / 4

    def _divisor(self, sigma: Tensor) -> Tensor:
        """sigma, but at least t_eps in the last stage, where it is 0 at tau = 1."""
        return sigma.clamp(min=self.t_eps) if self.end == 1 else sigma

    def x_from_velocity(self, velocity: Tensor, x_t: Tensor, tau: Tensor) -> Tensor:
        """Returns the clean image of the path through x_t that has this velocity.

        y = (1-s)*(x_t + (1-tau)*v) - (1-e)*(x_t - tau*v) is free of noise, and x = (y - Py)/(e*(1-s)) + Py/(e-s).
        """
        tau = per_image(tau, x_t)
        s, e = self.start, self.end
        end = x_t + (1 - tau) * velocity
        start = x_t - tau * velocity
        y = (1 - s) * end - (1 - e) * start  # = (1-s)*e*x - (1-e)*s*Px: free of noise
        if s == 0:
            return y / e
        py = project(y)
        return (y - py) / (e * (1 - s)) + py / (e - s)
