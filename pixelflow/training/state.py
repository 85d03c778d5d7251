"""The state of a training run that a checkpoint holds: everything that the next step depends on."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pixelflow.losses.objective import Objective
from pixelflow.training.checkpoint import flatten_optimizer, restore_optimizer
from pixelflow.training.distributed import Network
from pixelflow.training.ema import EMA
from pixelflow.training.fitting import misfit, require_finite
from pixelflow.training.reader import Checkpoint, CheckpointError, is_count, show, unusable
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
        """Copies the tensors of a checkpoint into this state, after all of them have been checked.

        Raises:
            CheckpointError: The checkpoint belongs to another backbone, optimizer or objective, or it is malformed.
        """
        tensors, groups = checkpoint.tensors, checkpoint.state.get("optimizer_groups")
        present = self.groups()
        check_like(groups, [_as_floats(group) for group in present], "optimizer_groups", checkpoint.path)
        assert isinstance(groups, list)
        if [group["params"] for group in groups] != [group["params"] for group in present]:
            raise CheckpointError(f"{checkpoint.path} does not fit this run: optimizer_groups list other parameters")
        for number, group in enumerate(groups):
            if problem := _refusal(self.optimizer, group):
                raise unusable(checkpoint.path / "state.json", f"is damaged: optimizer_groups[{number}]: {problem}")
        slots = self._own_slots(tensors.get("optimizer", {}), checkpoint.path)
        wanted: dict[str, Mapping[str, Any]] = {"model": self.backbone.state_dict()}
        wanted |= {name: self.network.trained() for name in self.ema.names}
        wanted |= {"objective": self.objective.state_dict()}
        for stem, own in wanted.items():
            found = tensors.get(stem, {})
            if problem := misfit(own, found, more=stem in self.ema.names):
                raise CheckpointError(f"{checkpoint.path} does not fit this run: {stem}: {problem}")
            require_finite(found, checkpoint.path)
        self.network.load(tensors["model"])
        self._load_averages(tensors)
        self.objective.load_state_dict(tensors.get("objective", {}))
        restore_optimizer(self.optimizer, slots, groups)

    @torch.no_grad()
    def _load_averages(self, tensors: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
        for stem, averaged in self.ema.averages.items():
            for i, name in enumerate(self.network.names):
                averaged[i].copy_(self.network.own(i, tensors[stem][name]))

    def _own_slots(self, flat: Mapping[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
        """This process's share of the optimizer's tensors, which are called `<parameter number>.<name>`."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        names = _slot_names(self.optimizer)
        slots: dict[str, torch.Tensor] = {}
        have: dict[int, set[str]] = {}
        for key, value in flat.items():
            digits, _, name = key.partition(".")
            number = int(digits) if re.fullmatch(r"\d{1,9}", digits, re.ASCII) else -1
            if not 0 <= number < len(parameters) or (names is not None and name not in names):
                raise CheckpointError(f"{path} does not fit this run: optimizer: {show(key)} belongs to no parameter")
            have.setdefault(number, set()).add(name)
            shape = parameters[number].shape
            slots[key] = self.network.own(number, value) if number < len(self.network.parameters) else value
            fits = names is None or slots[key].shape == (shape if names[name] else ())
            if not fits or not value.is_floating_point():
                raise CheckpointError(
                    f"{path} does not fit this run: optimizer: {key} is {value.dtype} {tuple(value.shape)}, "
                    f"and its parameter {tuple(shape)}"
                )
        for number, some in have.items():
            if lacking := {*(names or ())} - some:
                raise CheckpointError(f"{path} does not fit this run: optimizer: {number}.{min(lacking)} is missing")
        return slots


def check_like(value: Any, example: Any, name: str, path: Path) -> None:
    """Checks values of a checkpoint against those of the present run, which have the same keys and types.

    Args:
        value: The values of the checkpoint.
        example: The values of the present run. A whole number stands for whole numbers from 0, a float for any
            number; a key whose value is None, true or false need not be in the checkpoint.
        name: Name of the values, for the message.
        path: Folder of the checkpoint.

    Raises:
        CheckpointError: A key is missing, or a value is of another type.
    """
    wanted = None
    if isinstance(example, Mapping):
        wanted = None if isinstance(value, Mapping) else "a mapping"
        for key, inner in example.items() if wanted is None else ():
            if key in value:
                check_like(value[key], inner, f"{name}.{key}", path)
            elif inner is not None and not isinstance(inner, bool):
                raise CheckpointError(
                    f"{path / 'state.json'} lacks {name}.{key}; use another checkpoint in {path.parent}"
                )
    elif isinstance(example, list | tuple):
        wanted = None if isinstance(value, list) and len(value) == len(example) else f"a list of {len(example)}"
        for number, inner in enumerate(example) if wanted is None else ():
            check_like(value[number], inner, f"{name}[{number}]", path)
    elif example is None or isinstance(example, bool):
        wanted = None if value is None or isinstance(value, bool) else "true, false or null"
    elif isinstance(example, int):
        wanted = None if is_count(value) else "a whole number, 0 or more"
    elif isinstance(example, float):
        wanted = None if isinstance(value, int | float) and not isinstance(value, bool) else "a number"
    elif not isinstance(value, type(example)):
        wanted = f"of the type {type(example).__name__}"
    if wanted is not None:
        raise unusable(path / "state.json", f"is damaged: {name}={show(value)} must be {wanted}")


def _as_floats(group: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a parameter group as examples: a learning rate of 1 may have become 0.5."""
    return {key: float(value) if type(value) is int else value for key, value in group.items()}


def _slot_names(optimizer: torch.optim.Optimizer) -> dict[str, bool] | None:
    """The names of an optimizer's tensors, and whether each has the shape of its parameter; None if it cannot be told.

    They are those of a step on another parameter, since an optimizer makes its tensors in its first step.
    """
    parameter = nn.Parameter(torch.zeros(2, 3))
    parameter.grad = torch.zeros(2, 3)
    try:
        probe = _like(optimizer, parameter, optimizer.defaults)
        probe.step()
        state = dict(probe.state[parameter])
    except Exception:  # an optimizer of a user, whose constructor or step may need anything
        return None
    if not all(isinstance(value, torch.Tensor) and value.shape in ((2, 3), ()) for value in state.values()):
        return None
    return {name: value.shape == (2, 3) for name, value in state.items()}


def _refusal(optimizer: torch.optim.Optimizer, settings: Mapping[str, Any]) -> str | None:
    """Returns why the optimizer's constructor refuses stored settings, such as `betas` of 2; None if it does not."""
    try:
        _like(optimizer, nn.Parameter(torch.zeros(2, 3)), settings)
    except ValueError as error:
        return str(error)
    except Exception:  # an optimizer of a user, as in `_slot_names`
        return None
    return None


def _like(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, settings: Mapping[str, Any]) -> Any:
    """An optimizer of the same class for one parameter."""
    # AdamW has settings that its constructor does not accept.
    accepted = set(inspect.signature(type(optimizer)).parameters) - {"params"}
    return type(optimizer)([parameter], **{key: value for key, value in settings.items() if key in accepted})
