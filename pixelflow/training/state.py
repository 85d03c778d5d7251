"""What a checkpoint of a training run holds: everything that the next step depends on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from pixelflow.losses.objective import Objective
from pixelflow.training.checkpoint import Checkpoint, CheckpointError, flatten_optimizer, restore_optimizer
from pixelflow.training.distributed import Network
from pixelflow.training.ema import EMA
from pixelflow.training.saver import Entry


class TrainingState:
    """Weights, averages, optimizer and the losses' own state, as whole tensors by file and name."""

    def __init__(self, *, network: Network, ema: EMA, optimizer: torch.optim.Optimizer, objective: Objective) -> None:
        self.network, self.ema, self.optimizer, self.objective = network, ema, optimizer, objective

    def entries(self) -> Iterator[Entry]:
        """One after the other, so that no process ever holds all of them whole. All processes must ask."""
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
        for stem in names:
            for name, value in self.network.whole_average(self.ema.averages[stem]).items():
                yield stem, name, value

    def groups(self) -> list[dict[str, Any]]:
        return flatten_optimizer(self.optimizer)[1]

    def load(self, checkpoint: Checkpoint) -> None:
        """Raises CheckpointError for a checkpoint of something else."""
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
