"""A model as one object: backbone, cascade, prediction and conditioning, with the recipe's way of sampling.

`Model` samples images, evaluates the velocity, and saves itself as a checkpoint.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pixelflow.conf_dir import read_option
from pixelflow.errors import UserError
from pixelflow.flow.cascade import Cascade
from pixelflow.flow.guidance import ConstantGuidance
from pixelflow.parts import instantiate
from pixelflow.sampling.produce import produce
from pixelflow.sampling.sampler import Sampler, stage_velocity
from pixelflow.sampling.settings import SamplerSettings, SampleSet
from pixelflow.sampling.speed import fastest_attention, speed_up
from pixelflow.training.checkpoint import CheckpointStore
from pixelflow.types import Condition, Conditioning, Guidance, Prediction, Solver

SECTIONS = ("backbone", "cascade", "prediction", "conditioning", "solver", "guidance")
"""Sections of a config that describe a model and how it is sampled."""


@dataclass(frozen=True)
class Recipe:
    """The origin of a model: its config, its training steps, and the modules that its parts may come from.

    Args:
        config: The resolved config as plain data. It lacks the sections of parts that were given as objects.
        step: Training steps of the weights.
        trust: Modules that may define parts of the config, besides this package.
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    step: int = 0
    trust: tuple[str, ...] = ()


@dataclass
class Model:
    """Backbone, cascade, prediction and conditioning, with the solver and guidance of the recipe.

    Args:
        backbone: The network.
        cascade: The resolutions, and the part of the flow that each covers.
        prediction: What the network's output means.
        conditioning: Gives the null condition and the number of classes.
        channels: Channels of the images.
        solver: Solver that `sample` uses unless another is given.
        guidance: Guidance that `sample` uses unless another is given.
        settings: How images are computed unless stated otherwise.
        recipe: Where the model comes from.

    Examples:
        >>> import pixelflow
        >>> model = pixelflow.build(backbone="pixelflow_tiny", image_size=16, num_stages=2, num_classes=10)
        >>> model.sample(labels=[3, 7], seed=0, num_steps=2).shape
        (2, 16, 16, 3)
    """

    backbone: nn.Module
    cascade: Cascade
    prediction: Prediction
    conditioning: Conditioning
    channels: int
    solver: Solver
    guidance: Guidance
    settings: SamplerSettings = field(default_factory=SamplerSettings)
    recipe: Recipe = field(default_factory=Recipe)

    @property
    def num_stages(self) -> int:
        """Stages of the cascade."""
        return self.cascade.num_stages

    @property
    def num_classes(self) -> int:
        """Classes of the conditioning; the null class is not counted."""
        return self.conditioning.num_classes  # type: ignore[attr-defined]

    @property
    def image_size(self) -> int:
        """Side of the images in pixels."""
        return self.cascade.image_size

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.backbone.parameters()).device

    def to(self, device: torch.device | str) -> Model:
        """Moves the weights to a device and returns the model."""
        self.backbone.to(device)
        return self

    def sample(
        self,
        labels: int | Sequence[int] | None = None,
        *,
        prompts: Sequence[str] | None = None,
        num_images: int | None = None,
        seed: int = 0,
        solver: str | Solver | None = None,
        num_steps: int | Sequence[int] | None = None,
        guidance: float | str | Guidance | None = None,
        batch_size: int | None = None,
        fixed_batch: int | None = None,
    ) -> np.ndarray:
        """Samples images. Image i depends on the seed, on i and on its label, not on the batch size.

        Args:
            labels: Class labels; image i shows `labels[i mod len(labels)]`. By default all classes in turn.
            prompts: Texts to draw. Text conditioning does not exist yet.
            num_images: Number of images, by default one for each label.
            seed: Seed of the noise.
            solver: Name of a solver, such as "heun", or a solver. By default the recipe's.
            num_steps: Steps in each stage, or one number for each stage. It needs a solver with fixed steps.
            guidance: Name of a guidance schedule, a schedule, or a number: the recipe's schedule with that scale.
            batch_size: Images in a batch.
            fixed_batch: See `SamplerSettings`.

        Returns:
            The images, (N, H, W, C) uint8.

        Raises:
            ValueError: A label, solver or guidance does not exist or does not fit the cascade.
        """
        if prompts is not None:
            raise UserError("prompts: text conditioning does not exist yet; use labels")
        classes = list(range(self.num_classes)) if labels is None else [labels] if isinstance(labels, int) else labels
        classes = [int(label) for label in classes]
        if not classes or not all(0 <= label < self.num_classes for label in classes):
            raise ValueError(f"labels={labels} must be classes in 0..{self.num_classes - 1}")
        images = SampleSet(len(classes) if num_images is None else num_images, classes, seed)
        changes: dict[str, Any] = {"batch_size": batch_size, "fixed_batch": fixed_batch}
        settings = replace(self.settings, **{key: value for key, value in changes.items() if value is not None})
        sampler = self.sampler(solver=solver, num_steps=num_steps, guidance=guidance, settings=settings)
        pixels: list[Tensor] = []
        produce(
            sampler, lambda ids, batch: pixels.append(batch.cpu()), range(images.num_samples),
            images=images, settings=settings, aside=False,
        )  # fmt: skip
        shape = (0, self.channels, self.image_size, self.image_size)
        together = torch.cat([torch.empty(shape, dtype=torch.uint8), *pixels])
        return together.permute(0, 2, 3, 1).contiguous().numpy()

    def velocity(
        self, x_t: Tensor, tau: float | Tensor, *, stage: int, labels: int | Sequence[int] | None = None
    ) -> Tensor:
        """Evaluates the velocity dx_t/dtau of a stage, without guidance.

        Args:
            x_t: States, (B, C, H, W) at the resolution of the stage.
            tau: Time within the stage in [0, 1], one number or (B,).
            stage: Number of the stage, 0 being the coarsest.
            labels: Class labels, one or B of them; None for the null condition.

        Returns:
            The velocity, (B, C, H, W).
        """
        if labels is None:
            condition = self.conditioning.null(len(x_t))
        else:
            classes = [labels] * len(x_t) if isinstance(labels, int) else list(labels)
            condition = Condition(torch.tensor(classes))
        return stage_velocity(
            self.backbone, self.cascade, self.prediction, x_t, tau, condition.to(x_t.device),  # type: ignore[arg-type]
            stage=stage, precision=self.settings.precision,
        )  # fmt: skip

    def sampler(
        self,
        *,
        solver: str | Solver | None = None,
        num_steps: int | Sequence[int] | None = None,
        guidance: float | str | Guidance | None = None,
        settings: SamplerSettings | None = None,
    ) -> Sampler:
        """Returns the sampler of this model; the arguments are those of `sample`."""
        settings = self.settings if settings is None else settings
        backbone, device = self.backbone.eval(), self.device
        return Sampler(
            backbone=speed_up(backbone, self.cascade, settings, device),  # type: ignore[arg-type]
            cascade=self.cascade,
            prediction=self.prediction,
            solver=self.make_solver(solver, num_steps),
            guidance=self.make_guidance(guidance),
            conditioning=self.conditioning,
            channels=self.channels,
            device=device,
            precision=settings.precision,
            attention=fastest_attention(backbone, self.cascade, settings, device) if settings.tune_attention else None,
            stage_batch=settings.stage_batch,
        )

    def make_solver(self, solver: str | Solver | None, num_steps: int | Sequence[int] | None) -> Solver:
        """Returns the solver that these arguments of `sample` stand for."""
        if num_steps is None and not isinstance(solver, str):
            return self.solver if solver is None else solver
        if isinstance(solver, str):
            node = read_option("solver", solver, self._values())
        elif solver is None and "solver" in self.recipe.config:
            node = dict(self.recipe.config["solver"])
        else:
            raise ValueError(f"num_steps={num_steps} needs the name of a solver; give it to the solver itself")
        if num_steps is not None:
            if "num_steps" not in node:
                raise ValueError(f"num_steps={num_steps} is not an argument of {node['_target_']}")
            node["num_steps"] = num_steps if isinstance(num_steps, int) else list(num_steps)
        return instantiate(node, trust=self.recipe.trust)

    def make_guidance(self, guidance: float | str | Guidance | None) -> Guidance:
        """Returns the guidance schedule that this argument of `sample` stands for."""
        if guidance is None:
            return self.guidance
        if isinstance(guidance, str):
            return instantiate(read_option("guidance", guidance, self._values()))
        if not isinstance(guidance, int | float):
            return guidance
        node = dict(self.recipe.config.get("guidance", {}))
        if "scale" not in node:
            return ConstantGuidance(scale=guidance)
        return instantiate(node | {"scale": guidance}, trust=self.recipe.trust)

    def _values(self) -> dict[str, Any]:
        return {"cascade.num_stages": self.num_stages}

    def save(self, folder: str | Path) -> Path:
        """Writes a checkpoint folder that `load` reads back with the same weights, bit for bit.

        Args:
            folder: Folder to make; its parent folders are made as well.

        Returns:
            The folder.

        Raises:
            ValueError: The folder exists, or parts were given as objects, whose arguments are unknown.
        """
        folder = Path(folder)
        if unknown := [name for name in SECTIONS if name not in self.recipe.config]:
            raise ValueError(
                f"save needs parts that were given by name; this model has objects as {', '.join(unknown)}"
            )
        if folder.exists():
            raise ValueError(f"folder={folder} exists already")
        store = CheckpointStore(folder.parent / f".{folder.name}.{os.getpid()}")
        try:
            state = {"config": dict(self.recipe.config)}
            store.save(self.recipe.step, {"ema": self.backbone.state_dict()}, state).rename(folder)
        finally:
            shutil.rmtree(store.folder, ignore_errors=True)
        return folder
