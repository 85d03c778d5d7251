"""CUDA graphs for the forward passes of the coarse stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pixelflow.types import BackboneOutput, Condition


@dataclass(frozen=True)
class _Graph:
    """A captured forward pass and the tensors that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    x_t: Tensor
    timestep: Tensor
    class_label: Tensor
    output: Tensor


class GraphedBackbone(nn.Module):
    """Replays the forward passes of small images, where launching kernels takes longer than running them.

    One graph is captured for each shape of a batch.

    Args:
        backbone: The backbone.
        resolutions: Image sides whose forward passes are replayed; others are computed as usual.
    """

    def __init__(self, backbone: nn.Module, *, resolutions: Sequence[int]) -> None:
        super().__init__()
        self.backbone, self.resolutions = backbone, set(resolutions)
        self.patch_size, self.fixed_resolution = backbone.patch_size, backbone.fixed_resolution
        self._graphs: dict[tuple[torch.Size, bool], _Graph] = {}

    def start_trajectory(self) -> None:
        """Resets the features that the backbone keeps between evaluations, if it keeps any."""
        if hasattr(self.backbone, "start_trajectory"):
            self.backbone.start_trajectory()  # type: ignore[operator]

    def forward(
        self, x_t: Tensor, timestep: Tensor, condition: Condition, features: Sequence[int] = ()
    ) -> BackboneOutput:
        """See `Backbone`; batches of one resolution only."""
        if not x_t.is_cuda or x_t.shape[-1] not in self.resolutions or features:
            return self.backbone(x_t, timestep, condition, features)
        key = (x_t.shape, torch.is_autocast_enabled("cuda"))
        if key not in self._graphs:
            self._graphs[key] = self._capture(x_t, timestep, condition)
        graph = self._graphs[key]
        graph.x_t.copy_(x_t)
        graph.timestep.copy_(timestep)
        graph.class_label.copy_(condition.class_label)
        graph.graph.replay()
        return BackboneOutput(graph.output.clone())

    def _capture(self, x_t: Tensor, timestep: Tensor, condition: Condition) -> _Graph:
        inputs = (x_t.clone(), timestep.clone(), condition.class_label.clone())

        def forward() -> Tensor:
            # Autocast's cached copies of the weights would be freed while the graph still reads them.
            enabled, dtype = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
            with torch.autocast("cuda", dtype, enabled=enabled, cache_enabled=False):
                return self.backbone(inputs[0], inputs[1], Condition(inputs[2])).output

        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # allocations of the first use must not happen during the capture
            for _ in range(2):
                forward()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = forward()
        return _Graph(graph, *inputs, output)
