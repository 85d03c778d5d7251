"""The costs of an objective beyond the backbone: frozen networks and trained parts, counted without weights.

Each network is run on tensors without content: forward on a clean image, and forward and backward on a predicted one.
The share of images for which a term is computed follows from its gate and the distribution of the times.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from pixelflow.flow.cascade import Cascade
from pixelflow.losses.frozen import Frozen
from pixelflow.losses.gated import TrainedLoss
from pixelflow.losses.objective import Objective
from pixelflow.nn.flops import count_flops, drop_content
from pixelflow.training.fitting import without_memory
from pixelflow.types import Batch, Condition, Encoded, FlowSample, Predicted, Prediction, Timesteps

QUANTILES = 4096
"""Number of times from which the share of a gate is computed."""


@dataclass(frozen=True)
class ObjectiveCosts:
    """The costs of the objective in one forward and backward pass, without those of the backbone.

    Args:
        flops: Floating-point operations.
        activation_bytes: Memory that is kept for the backward pass.
        trained_parameters: Parameters of terms that are trained with the model.
        frozen_bytes: Weights of the frozen networks, in float32.
    """

    flops: float = 0.0
    activation_bytes: float = 0.0
    trained_parameters: int = 0
    frozen_bytes: int = 0


def objective_costs(
    objective: Objective,
    backbone: Any,
    cascade: Cascade,
    prediction: Prediction,
    timesteps: Timesteps,
    *,
    channels: int,
    images: int,
    bf16: bool = False,
) -> ObjectiveCosts:
    """Counts the objective on the images of one pass, which are divided evenly among the stages.

    The measurements of an adaptive weight are not counted; they are rare.

    Args:
        objective: The objective, not prepared. Its networks are built here with the weights left out.
        backbone: The backbone on the meta device.
        cascade: The cascade, which gives the resolution of each stage.
        prediction: The meaning of the backbone's output.
        timesteps: Distribution of the times, from which the share of images that pass a gate follows.
        channels: Channels of an image.
        images: Images of the pass.
        bf16: Whether the frozen networks compute under autocast.
    """
    share, stages = images / cascade.num_stages, range(cascade.num_stages)
    computed = [_Computed(objective, _even_times(timesteps, cascade, stage), share) for stage in stages]
    networks = [*objective.encoders.values(), *(part for loss in objective.terms.values() for part in loss.networks)]
    with warnings.catch_warnings(), without_memory():
        warnings.simplefilter("ignore")  # networks that read weights of their package cannot take them here
        for network in networks:
            if isinstance(network, Frozen):
                network.file = None
            network.load(Path(), torch.device("meta"), bf16=bf16)
    flops, kept = 0.0, 0.0
    with FakeTensorMode(allow_non_fake_inputs=True):
        for network in networks:
            drop_content(network.model)
        for loss in objective.terms.values():
            if isinstance(loss, TrainedLoss) and loss.encoder is not None:
                loss.build(width=backbone.width, num_features=objective.encoders[loss.encoder].num_features)
        weights = [*objective.parameters(), *(p for network in networks for p in network.model.parameters())]
        own = {p.untyped_storage()._cdata for p in weights}
        for stage in stages:
            predicted = _predicted(objective, backbone, cascade, prediction, stage, channels)
            for part, count in _parts(objective, predicted, computed[stage]):
                if count:
                    flops += count * count_flops(part)
                    kept += count * _kept_bytes(part, own)
    frozen = sum(p.numel() * 4 for network in networks for p in network.model.parameters())
    return ObjectiveCosts(flops, kept, sum(p.numel() for p in objective.parameters()), frozen)


class _Computed:
    """The expected number of images of one stage on which something is computed."""

    def __init__(self, objective: Objective, tau: Tensor, images: float) -> None:
        self.images, self.pad_to = images, objective.pad_to
        gates = {name: loss.gate(tau, tau).tolist() for name, loss in objective.terms.items()}
        self.passing = {name: {n for n, passes in enumerate(gate) if passes} for name, gate in gates.items()}

    def of(self, terms: Iterable[str]) -> float:
        """The images that pass the gate of one of the terms, and those that fill them up to a multiple of `pad_to`."""
        passing = len(set().union(*(self.passing[name] for name in terms))) / QUANTILES
        n = max(1, round(self.images))
        if self.pad_to is None or passing in (0.0, 1.0):
            return passing * self.images
        # The number of passing images is binomial; the expectation of its padded value.
        filled = sum(
            min(-(-k // self.pad_to) * self.pad_to, n)
            * math.exp(
                math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
                + k * math.log(passing) + (n - k) * math.log1p(-passing)
            )
            for k in range(n + 1)
        )  # fmt: skip
        return filled * self.images / n


def _even_times(timesteps: Timesteps, cascade: Cascade, stage: int) -> Tensor:
    """The quantiles of the times of a stage, (QUANTILES,)."""
    uniform = (torch.arange(QUANTILES, dtype=torch.float64) + 0.5) / QUANTILES
    return timesteps(uniform, *cascade.windows(torch.full((QUANTILES,), stage)))


def _predicted(
    objective: Objective, backbone: Any, cascade: Cascade, prediction: Prediction, stage: int, channels: int
) -> Callable[[], Predicted]:
    """Returns a function that makes the backbone's output of one image of a stage, as leaves of the graph."""
    side = cascade.resolution(stage)
    tokens = (side // int(backbone.patch_size)) ** 2

    def make() -> Predicted:
        x, one = torch.empty(1, channels, side, side), torch.empty(1)
        sample = FlowSample(cascade.path(stage), x, x, one, one, x, torch.zeros(1, dtype=torch.int64))
        features = {layer: torch.empty(1, tokens, backbone.width, requires_grad=True) for layer in objective.layers}
        return Predicted(torch.empty_like(x, requires_grad=True), sample, prediction, features)

    return make


def _parts(
    objective: Objective, predicted: Callable[[], Predicted], computed: _Computed
) -> list[tuple[Callable[[], object], float]]:
    """Returns what is computed for one image, and for how many images."""
    parts: list[tuple[Callable[[], object], float]] = []
    shapes = {name: _clean(encoder, predicted()).shape for name, encoder in objective.encoders.items()}
    for name, encoder in objective.encoders.items():
        users = [term for term, loss in objective.terms.items() if loss.encoder == name]
        both = [term for term in users if objective.terms[term].encodes_prediction]
        parts.append((partial(_clean, encoder, predicted()), computed.of(users)))
        parts.append((partial(_on_prediction, encoder, predicted), computed.of(both)))
    for name, loss in objective.terms.items():
        shape = None if loss.encoder is None else shapes[loss.encoder]
        parts.append((partial(_term, loss, predicted, shape), computed.of([name])))
    return parts


@torch.no_grad()
def _clean(encoder: Any, predicted: Predicted) -> Tensor:
    return encoder(predicted.sample.x)


def _on_prediction(encoder: Any, predicted: Callable[[], Predicted]) -> None:
    encoder(predicted().x_pred).sum().backward()


def _term(loss: Any, predicted: Callable[[], Predicted], encoded: torch.Size | None) -> None:
    """Computes a term. The encoder's features, of the shape `encoded`, are another part."""
    p = predicted()
    if encoded is not None:
        p = replace(p, encoded=Encoded(torch.empty(encoded), torch.empty(encoded, requires_grad=True)))
    batch = Batch(p.sample.x, Condition(p.sample.index), p.sample.index)
    loss(p.sample, p, batch).sum().backward()


def _kept_bytes(part: Callable[[], object], own: set[int]) -> int:
    """Returns the bytes that autograd keeps for the backward pass, without the weights `own`."""
    kept: dict[int, int] = {}
    alive = []

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
            alive.append(tensor)  # so that no other tensor takes its identity
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        part()
    return sum(kept.values())
