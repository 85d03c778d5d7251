"""The Inception network of 2015-12-05, with whose features FID, sFID and the Inception score are defined.

The blocks and the preceding resize of TensorFlow 1 are those of torch-fidelity. Its own extractor has no spatial layer
and unpickles its weights.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from pixelflow.metrics.features import Features, FrozenFeatures, load_into, load_tensors


class InceptionFeatures(FrozenFeatures):
    """Features of Inception: pool (B, 2048), logits (B, 1008) without the final bias, and spatial (B, 2023).

    Args:
        file: torch-fidelity's file of the weights in the assets folder; None for seeded random weights.
    """

    name = "inception-2015-12-05"
    short = ""
    num_features = 2048
    num_spatial = 2023
    preprocessing = "RGB, TensorFlow 1 bilinear to 299x299 without antialiasing, (x - 128) / 128"
    metrics = ("frechet", "spatial_frechet", "inception_score", "precision_recall")

    def __init__(self, *, file: str | None = "weights-inception-2015-12-05-6726825d.pth") -> None:
        super().__init__(file=file)

    def _build(self, path: Path | None) -> nn.Module:
        from pixelflow.metrics.inception_network import Inception  # The import takes seconds.

        model = Inception()
        if path is not None:
            load_into(model, load_tensors(path), path, "torch-fidelity's Inception")
        return model

    def __call__(self, images: Tensor) -> Features:
        """Returns the features of images (B, 1 or 3, H, W) uint8."""
        pool, spatial, logits = self._run(images)
        return Features(pool=pool, logits=logits, spatial=spatial)


def save_random_weights(path: Path, *, seed: int = 0) -> None:
    """Writes a file in torch-fidelity's format with seeded random weights, which keep the scale of the activations."""
    from pixelflow.metrics.inception_network import Inception

    model = Inception()
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()
            module.weight.data = torch.randn(module.weight.shape, generator=generator) * (2 / fan_in) ** 0.5
        elif isinstance(module, nn.BatchNorm2d):
            module.bias.data = 0.1 * torch.randn(module.bias.shape, generator=generator)
    torch.save(model.state_dict(), path)
