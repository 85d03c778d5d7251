"""The state of a training run that a checkpoint holds: everything that the next step depends on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from pixelflow.losses.objective import Objective
from pixelflow.training.checkpoint import Checkpoint, CheckpointError, flatten_optimizer, restore_optimizer
from pixelflow.training.distributed import Network
from pixelflow.training.ema import EMA
from pixelflow.training.saver import Entry


class TrainingState:
    """Backbone, averages, optimizer and objective, which change in training and are saved.

    Args:
        network: The backbone, alone or on several processes.
        optimizer: It holds the network's parameters, followed by those that the objective trains.
        objective: The prepared objective. Its own parameters are saved, but not averaged.
        ema: The averages; they start from the present weights.

    Raises:
        ValueError: The objective needs something of the backbone that it does not have.
    """

    def __init__(self, *, network: Network, optimizer: torch.optim.Optimizer, objective: Objective, ema: EMA) -> None:
        self.network, self.optimizer, self.objective, self.ema = network, optimizer, objective, ema
        objective.check_backbone(network.backbone)
        ema.attach(network.parameters)

    @property
    def backbone(self) -> nn.Module:
        """The backbone without wrappers."""
        return self.network.backbone

    def entries(self) -> Iterator[Entry]:
        """Yields whole tensors one after the other, so that no process holds all of them. All processes must call it.

        Yields:
            File stem, name and value of each tensor.
        """
        for name, value in self.network.whole_state().items():
            yield "model", name, value
        yield from self.averages(self.ema.names)
        slots, _ = flatten_optimizer(self.optimizer)
        for name, value in slots.items():
            number = int(name.split(".")[0])
            inside = number < len(self.network.parameters)
            yield "optimizer", name, self.network.whole(number, value) if inside else value
        for name, value in self.objective.state_dict().items():
            yield "objective", name, value

    def averages(self, names: list[str]) -> Iterator[Entry]:
        """Yields the tensors of the averages with these names, as `entries` does."""
        for stem in names:
            for name, value in self.network.whole_average(self.ema.averages[stem]).items():
                yield stem, name, value

    def groups(self) -> list[dict[str, Any]]:
        """Returns the parameter groups of the optimizer as plain values."""
        return flatten_optimizer(self.optimizer)[1]

    def load(self, checkpoint: Checkpoint) -> None:
        """Copies the tensors of a checkpoint into this state.

        Raises:
            CheckpointError: The checkpoint belongs to another backbone, optimizer or objective.
        """
        try:
            self.network.load(checkpoint.tensors["model"])
            self._load_averages(checkpoint.tensors)
            self.objective.load_state_dict(checkpoint.tensors.get("objective", {}))
            self._load_optimizer(checkpoint)
        except (KeyError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{checkpoint.path} does not fit this run: {error}") from None

    @torch.no_grad()
    def _load_averages(self, tensors: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
        for stem, averaged in self.ema.averages.items():
            for i, name in enumerate(self.network.names):
                averaged[i].copy_(self.network.own(i, tensors[stem][name]))

    def _load_optimizer(self, checkpoint: Checkpoint) -> None:
        slots = {}
        for name, value in checkpoint.tensors.get("optimizer", {}).items():
            number = int(name.split(".")[0])
            slots[name] = self.network.own(number, value) if number < len(self.network.parameters) else value
        restore_optimizer(self.optimizer, slots, checkpoint.state["optimizer_groups"])
