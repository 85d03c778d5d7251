"""Inception of 2015-12-05, the network that FID, sFID and the Inception score are defined on.

The blocks, and the resize of TensorFlow 1 before them, are torch-fidelity's; its own extractor gives no spatial layer,
and reads its weights by unpickling them.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from pixelflow.metrics.features import Features, FrozenFeatures, load_into, load_tensors


class InceptionFeatures(FrozenFeatures):
    """pool (B, 2048), logits (B, 1008) without the final bias, spatial (B, 2023), in one pass.

    file: `weights-inception-2015-12-05-6726825d.pth` of torch-fidelity.
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
        from pixelflow.metrics.inception_network import Inception  # seconds

        model = Inception()
        if path is not None:
            load_into(model, load_tensors(path), path, "torch-fidelity's Inception")
        return model

    def __call__(self, images: Tensor) -> Features:
        pool, spatial, logits = self._run(images)
        return Features(pool=pool, logits=logits, spatial=spatial)


def save_random_weights(path: Path, *, seed: int = 0) -> None:
    """A file in the form of torch-fidelity's, of seeded random weights that keep activations of ordinary size."""
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
