"""A frozen encoder and predictions for the tests of the losses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pixelflow.flow import Cascade, VelocityPrediction
from pixelflow.nn.patches import patchify
from pixelflow.types import Batch, Condition, Predicted, Prediction


class PatchEncoder:
    """tanh of a fixed projection of 4x4 patches; counts its calls and images."""

    num_features = 6

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.projection = torch.randn(16, self.num_features, generator=generator)
        self.calls: list[int] = []
        self.loaded = 0

    def missing(self, folder: Path) -> list[str]:
        return []

    def load(self, folder: Path, device: Any, *, bf16: bool = False) -> None:
        self.loaded += 1

    def __call__(self, x: Tensor) -> Tensor:
        self.calls.append(len(x))
        return torch.tanh(patchify(x, 4) @ self.projection)


def predict(
    taus: list[float], stages: list[int], *, num_stages: int = 2, seed: int = 0, prediction: Prediction | None = None
) -> tuple[list[Predicted], Batch]:
    """Random images of 16 pixels, noised at `taus` on `stages`, and random predictions that want a gradient."""
    generator = torch.Generator().manual_seed(seed)
    n = len(taus)
    cascade = Cascade(image_size=16, num_stages=num_stages)
    batch = Batch(torch.randn(n, 1, 16, 16, generator=generator), Condition(torch.arange(n)), torch.arange(n))
    noise = torch.randn(n, 1, 16, 16, generator=generator)
    raw = torch.randn(n, 1, 16, 16, generator=generator)
    tokens = torch.randn(n, 16, 8, generator=generator)
    predicted = []
    for stage in sorted(set(stages)):
        index = torch.tensor([i for i, s in enumerate(stages) if s == stage])
        side = cascade.resolution(stage)
        tau = torch.tensor([taus[i] for i in index], dtype=torch.float64)
        sample = cascade.flow_sample(
            batch.x[index], stage=stage, tau=tau, noise=noise[index, :, :side, :side], index=index
        )
        output = raw[index, :, :side, :side].clone().requires_grad_()
        features = {1: tokens[index, : (side // 4) ** 2].clone().requires_grad_()}
        predicted.append(Predicted(output, sample, prediction or VelocityPrediction(), features))
    return predicted, batch
