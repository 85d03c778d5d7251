"""A small convolutional backbone: all that pixelflow.types.Backbone asks for, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pixelflow.types import BackboneOutput, Condition


class ConvNet(nn.Module):
    """Three convolutions, modulated by time and class.

    Args:
        in_channels: Channels of the images.
        num_classes: Number of classes; one more embedding stands for the null condition.
        channels: Channels of the hidden layers.
    """

    patch_size = 1
    fixed_resolution = None
    max_timestep = 1000.0

    def __init__(self, *, in_channels: int, num_classes: int, channels: int = 16) -> None:
        super().__init__()
        self.first = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.middle = nn.Conv2d(channels, channels, 3, padding=1)
        self.last = nn.Conv2d(channels, in_channels, 3, padding=1)
        self.time = nn.Linear(1, channels)
        self.label = nn.Embedding(num_classes + 1, channels)

    def forward(
        self, x_t: Tensor | Sequence[Tensor], timestep: Tensor, condition: Condition, features: Sequence[int] = ()
    ) -> BackboneOutput:
        """Returns the raw prediction for one resolution (a tensor) or for a pack of several (a list)."""
        c = self.time(timestep[:, None].float() / self.max_timestep) + self.label(condition.class_label)
        if isinstance(x_t, Tensor):
            return BackboneOutput(self._predict(x_t, c))
        parts = c.split([len(x) for x in x_t])
        return BackboneOutput([self._predict(x, part) for x, part in zip(x_t, parts, strict=True)])

    def _predict(self, x: Tensor, c: Tensor) -> Tensor:
        hidden = torch.relu(self.first(x) + c[:, :, None, None])
        return self.last(torch.relu(self.middle(hidden)))
