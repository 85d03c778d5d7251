"""Averages of the weights: exponential ones, and power-function ones that can be combined after training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from pixelflow.limits import at_least


class EMA:
    """Any number of averages, each updated by w <- d*w + (1-d)*model after every step.

    Exponential averages use d = decay, or with `ramp` d = min(decay, (1 + step) / (10 + step)), so that the initial
    weights have little influence on short runs. Power-function averages use d = (1 - 1/step)^(gamma + 1) (Karras et
    al. 2024, arXiv 2312.02696, equation 127); from snapshots of two or more, an average of any width can be rebuilt
    (see `posthoc`).

    Args:
        decay: Limit of d for the average called "ema".
        more_decays: Limits of d for further averages, called for example "ema_0.999".
        power: Relative widths of power-function averages, called for example "power_0.05".
        snapshot_every: Steps between two snapshots of the power-function averages; 0 for none.
        ramp: Whether the exponential averages use a smaller d in the first steps. The papers' releases do not.

    Raises:
        ValueError: A number is out of range, or snapshots are asked for without power-function averages.
    """

    def __init__(
        self,
        *,
        decay: float,
        more_decays: Sequence[float] = (),
        power: Sequence[float] = (),
        snapshot_every: int = 0,
        ramp: bool = True,
    ) -> None:
        for name, values in {"decay": (decay,), "more_decays": more_decays}.items():
            for value in values:
                if not 0 <= value < 1:
                    raise ValueError(f"{name}={value} must be in [0, 1)")
        at_least(0, snapshot_every=snapshot_every)
        if snapshot_every and not power:
            raise ValueError("snapshot_every needs power=[0.05,0.1] or others: snapshots are of power averages")
        self.snapshot_every, self.ramp = snapshot_every, ramp
        self._decays = {"ema": decay} | {f"ema_{value:g}": value for value in more_decays}
        self._gammas = {f"power_{width:g}": gamma_of(width) for width in power}
        self.averages: dict[str, list[Tensor]] = {}

    @property
    def names(self) -> list[str]:
        """Names of all averages."""
        return [*self._decays, *self._gammas]

    @property
    def snapshot_names(self) -> list[str]:
        """Names of the averages that snapshots hold."""
        return [*self._gammas]

    def attach(self, weights: Sequence[Tensor]) -> None:
        """Starts all averages from these weights."""
        self.averages = {name: [w.detach().clone() for w in weights] for name in self.names}

    def decay(self, name: str, step: int) -> float:
        """Returns the factor d of the average `name` after step number `step`, from 1."""
        if name in self._gammas:
            return (1 - 1 / step) ** (self._gammas[name] + 1)
        return min(self._decays[name], (1 + step) / (10 + step)) if self.ramp else self._decays[name]

    @torch.no_grad()
    def update(self, weights: Sequence[Tensor], step: int) -> None:
        """Updates all averages after step number `step`, from 1, in one fused pass over the weights for each."""
        for name, averaged in self.averages.items():
            torch._foreach_lerp_(averaged, list(weights), 1 - self.decay(name, step))


# --- power functions (Karras et al. 2024, section 3.1 and appendix C) ----------------------------------------------


def gamma_of(width: float) -> float:
    """Returns gamma such that t^gamma on [0, 1] has this standard deviation; ValueError outside of (0, 0.28]."""
    if not 0 < width <= 0.28:
        raise ValueError(f"power={width} must be in (0, 0.28], the width of the average relative to the training")
    # width^2 = (g+1) / ((g+2)^2 (g+3)) is a cubic equation in g; its largest root is the solution.
    t = width**-2
    return float(np.roots([1, 7, 16 - t, 12 - t]).real.max())


def _overlap(t_a: float, gamma_a: float, t_b: float, gamma_b: float) -> float:
    """Computes the inner product of two profiles, (g+1) x^g / t^(g+1) on [0, t]."""
    m = min(t_a, t_b)
    ratio = (m / t_a) ** gamma_a * (m / t_b) ** gamma_b
    return (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1) * ratio / max(t_a, t_b)


def posthoc_weights(stored: Sequence[tuple[float, float]], *, step: float, width: float) -> np.ndarray:
    """Computes the factors of stored snapshots whose sum is closest to an average of another width.

    The profiles are fitted by least squares over training time (Karras et al. 2024, appendix C).

    Args:
        stored: Step and gamma of each snapshot.
        step: Step at which the average ends.
        width: Relative width of the average.

    Returns:
        One factor for each snapshot; their sum is 1.
    """
    target = gamma_of(width)
    matrix = np.array([[_overlap(ta, ga, tb, gb) for tb, gb in stored] for ta, ga in stored])
    right = np.array([_overlap(t, g, step, target) for t, g in stored])
    factors = np.linalg.lstsq(matrix, right, rcond=1e-13)[0]
    return factors / factors.sum()  # weights that training does not change keep their value


def posthoc(snapshots: Mapping[tuple[int, str], Mapping[str, Tensor]], *, step: int, width: float) -> dict[str, Tensor]:
    """Rebuilds an average of any width from snapshots of power-function averages.

    Args:
        snapshots: Weights by step and name (as in `EMA`), in the order of steps. Each is accessed once.
        step: Step at which the average ends.
        width: Relative width of the average.

    Returns:
        The averaged weights by name.

    Raises:
        ValueError: There are fewer than two snapshots up to this step.
    """
    usable = [(t, name) for t, name in snapshots if t <= step]
    if len(usable) < 2:
        raise ValueError(f"{len(usable)} snapshots of power averages up to step {step}; train with snapshot_every")
    stored = [(float(t), gamma_of(float(name.removeprefix("power_")))) for t, name in usable]
    factors = posthoc_weights(stored, step=step, width=width)
    total: dict[str, Tensor] = {}
    for key, factor in zip(usable, factors.tolist(), strict=True):
        for name, value in snapshots[key].items():
            if value.is_floating_point():
                part = value.double() * factor
                total[name] = total[name] + part if name in total else part
            else:
                total[name] = value
    return {name: value.float() if value.is_floating_point() else value for name, value in total.items()}
