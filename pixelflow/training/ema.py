"""Averages of the weights: exponential ones, and power-function ones for averages of any length afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor


class EMA:
    """Any number of averages at once, w <- d*w + (1-d)*model after every step.

    decay: the limit of d for the average called "ema"; more_decays: further ones, called "ema_0.999". The first steps
    use d = (1 + step) / (10 + step) where that is smaller, so that short runs are not held back by the initial weights.
    power: relative widths of power-function averages, called "power_0.05", with d = (1 - 1/step)^(gamma + 1) (Karras
    et al. 2024, arXiv 2312.02696, equation 127); from snapshots of two or more, one every snapshot_every steps, an
    average of any length can be rebuilt (see `posthoc`).
    Raises ValueError for numbers out of range.
    """

    def __init__(
        self, *, decay: float, more_decays: Sequence[float] = (), power: Sequence[float] = (), snapshot_every: int = 0
    ) -> None:
        for name, values in {"decay": (decay,), "more_decays": more_decays}.items():
            for value in values:
                if not 0 <= value < 1:
                    raise ValueError(f"{name}={value} must be in [0, 1)")
        if snapshot_every < 0:
            raise ValueError(f"snapshot_every={snapshot_every} must be 0 or more")
        if snapshot_every and not power:
            raise ValueError("snapshot_every needs power=[0.05,0.1] or others: snapshots are of power averages")
        self.snapshot_every = snapshot_every
        self._decays = {"ema": decay} | {f"ema_{value:g}": value for value in more_decays}
        self._gammas = {f"power_{width:g}": gamma_of(width) for width in power}
        self.averages: dict[str, list[Tensor]] = {}

    @property
    def names(self) -> list[str]:
        return [*self._decays, *self._gammas]

    @property
    def snapshot_names(self) -> list[str]:
        return [*self._gammas]

    def attach(self, weights: Sequence[Tensor]) -> None:
        """Start from these."""
        self.averages = {name: [w.detach().clone() for w in weights] for name in self.names}

    def decay(self, name: str, step: int) -> float:
        if name in self._gammas:
            return (1 - 1 / step) ** (self._gammas[name] + 1)
        return min(self._decays[name], (1 + step) / (10 + step))

    @torch.no_grad()
    def update(self, weights: Sequence[Tensor], step: int) -> None:
        """After optimizer step number `step` (the first is 1). One fused pass over all weights for each average."""
        for name, averaged in self.averages.items():
            torch._foreach_lerp_(averaged, list(weights), 1 - self.decay(name, step))


# --- power functions (Karras et al. 2024, section 3.1 and appendix C) ----------------------------------------------


def gamma_of(width: float) -> float:
    """The exponent whose profile t^gamma on [0, 1] has this standard deviation. Raises ValueError beyond (0, 0.28]."""
    if not 0 < width <= 0.28:
        raise ValueError(f"power={width} must be in (0, 0.28], the width of the average relative to the training")
    # width^2 = (g+1) / ((g+2)^2 (g+3)): a cubic in g, of which the largest root is meant.
    t = width**-2
    return float(np.roots([1, 7, 16 - t, 12 - t]).real.max())


def _overlap(t_a: float, gamma_a: float, t_b: float, gamma_b: float) -> float:
    """The inner product of two profiles, (g+1) x^g / t^(g+1) on [0, t]."""
    m = min(t_a, t_b)
    ratio = (m / t_a) ** gamma_a * (m / t_b) ** gamma_b
    return (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1) * ratio / max(t_a, t_b)


def posthoc_weights(stored: Sequence[tuple[float, float]], *, step: float, width: float) -> np.ndarray:
    """Factors of stored snapshots whose sum is nearest to the average of this width at `step`.

    stored: (step, gamma) of each. Nearest: least squares between the profiles, over training time.
    """
    target = gamma_of(width)
    matrix = np.array([[_overlap(ta, ga, tb, gb) for tb, gb in stored] for ta, ga in stored])
    right = np.array([_overlap(t, g, step, target) for t, g in stored])
    factors = np.linalg.lstsq(matrix, right, rcond=1e-13)[0]
    return factors / factors.sum()  # profiles have the sum 1, and so has what does not change in training


def posthoc(snapshots: Mapping[tuple[int, str], Mapping[str, Tensor]], *, step: int, width: float) -> dict[str, Tensor]:
    """The average of this width at `step`, from snapshots by (step, name as in EMA), step rising to `step` at most.

    A snapshot may be read when it is asked for: each is used once. Raises ValueError without two of them.
    """
    usable = [(t, name) for t, name in snapshots if t <= step]
    if len(usable) < 2:
        raise ValueError(f"{len(usable)} snapshots of power averages up to step {step}; train with ema.snapshot_every")
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
