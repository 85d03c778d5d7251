"""Builds a trainer from a config."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from pixelflow.config.build import (
    Config,
    bare_backbone,
    build_model,
    build_objective,
    pick_device,
    sample_set,
    sampler_settings,
    trainer_settings,
)
from pixelflow.config.schema import build
from pixelflow.model import Model
from pixelflow.processes import World
from pixelflow.reporting.figures import image_grid
from pixelflow.runs.context import Run
from pixelflow.sampling.sampler import to_uint8
from pixelflow.signals import stop_signal
from pixelflow.training.checkpoint import CheckpointStore
from pixelflow.training.costs import device_rate, step_costs
from pixelflow.training.draw import FlowParts
from pixelflow.training.meter import Meter
from pixelflow.training.networks import build_network
from pixelflow.training.settings import TrainerSettings
from pixelflow.training.state import TrainingState
from pixelflow.training.trainer import Trainer, TrainerHooks
from pixelflow.training.weights import init_from
from pixelflow.types import Condition

GRID_COLUMNS = 8
GRID_SCALE = 2


def checkpoint_store(settings: TrainerSettings, path: Path) -> CheckpointStore:
    """Returns the store of the checkpoints of the run in `path`."""
    return CheckpointStore(path / "checkpoints", keep=settings.keep_checkpoints, keep_every=settings.keep_every)


def build_trainer(
    config: Config, run: Run, *, world: World, device: torch.device, mark: Callable[[str], None] = lambda what: None
) -> Trainer:
    """Builds the trainer of a run, which logs to the run's tracker and draws sample grids into its folder.

    Args:
        config: The resolved config of the run.
        run: The run, open.
        world: The processes of the job.
        device: Device of this process.
        mark: Receives a short description when this process begins a phase of its work.
    """
    settings = trainer_settings(config)

    def log(metrics: dict[str, float], step: int) -> None:
        run.tracker.log(metrics, step=step)
        run.folder.set_status("running", job="train", step=step, max_steps=settings.max_steps)

    store = checkpoint_store(settings, run.path)
    hooks = TrainerHooks(log=log, stop=lambda: stop_signal() is not None, mark=mark)
    trainer = assemble_trainer(
        config, store, hooks=hooks, grid=_grid(config, run, device), world=world, device=device, report=run.path
    )
    rate = device_rate(trainer.state.backbone, precision=settings.precision, device=device)
    images = settings.batch_size // world.size
    costs = step_costs(bare_backbone(config), trainer.flow.cascade, channels=config["data"]["channels"], images=images)
    trainer.meter = Meter(costs, device=device, processes=world.size, rate=rate)
    return trainer


Grid = Callable[[Model, dict[str, Tensor], int], None]
"""Receives the model, the averaged weights and the step."""


def _grid(config: Config, run: Run, device: torch.device) -> Grid:
    """Samples every class with the averaged weights and draws figures/samples_<step>.png."""

    def draw(model: Model, weights: dict[str, Tensor], step: int) -> None:
        backbone = bare_backbone(config)
        backbone.load_state_dict(weights, assign=True)
        drawn = replace(model, backbone=backbone.to(device).eval().requires_grad_(False))
        settings = replace(sampler_settings(config), cache_every=1, compile=False, cuda_graphs=False)
        sampler = drawn.sampler(settings=settings)
        labels = torch.arange(config["data"]["num_classes"]).repeat_interleave(GRID_COLUMNS)
        noise = sampler.keyed_noise(range(len(labels)), sample_set(config).seed)
        samples = sampler.sample(Condition(labels), noise)
        path = run.path / "figures" / f"samples_{step:08d}.png"
        image_grid(to_uint8(samples.x).cpu(), path, columns=GRID_COLUMNS, scale=GRID_SCALE)
        run.tracker.artifact(path)

    return draw


def assemble_trainer(
    config: Config,
    store: CheckpointStore,
    *,
    hooks: TrainerHooks | None = None,
    grid: Grid | None = None,
    world: World | None = None,
    device: torch.device | None = None,
    report: Path | None = None,
) -> Trainer:
    """Builds a trainer with freshly initialised weights, or those of `init_from`.

    Args:
        config: The resolved config.
        store: Store of the checkpoints.
        hooks: Functions that the trainer calls.
        grid: Draws a sample grid; it becomes the hook `on_grid`.
        world: The processes of the job; by default this one.
        device: Device of this process; by default that of the config.
        report: Folder for the list of damaged data that were skipped.
    """
    settings = trainer_settings(config)
    world, device = world or World(), device or pick_device(settings.device)
    seed = config["seed"]
    torch.manual_seed(seed)  # the initial weights, equal in all processes
    model = build_model(config)
    if config["init_from"] is not None and not store.steps():
        init_from(model.backbone, config["init_from"])
    hooks = hooks or TrainerHooks()
    if grid is not None:
        hooks.on_grid = partial(grid, model)
    network = build_network(model.backbone, model.cascade, settings, world=world, device=device)
    objective = build_objective(config, model, device)
    loader = build(config, "data").loader(
        batch_size=settings.batch_size, seed=seed, rank=world.rank, world_size=world.size, device=device, report=report
    )
    return Trainer(
        state=TrainingState(
            network=network,
            optimizer=build(config, "optimizer")(params=[*network.parameters, *objective.parameters()]),
            objective=objective,
            ema=build(config, "ema"),
        ),
        flow=_flow_parts(config, model),
        loader=loader,
        checkpoints=store,
        settings=settings,
        seed=seed,
        config=config,
        hooks=hooks,
    )


def _flow_parts(config: Config, model: Model) -> FlowParts:
    return FlowParts(
        cascade=model.cascade,
        timesteps=build(config, "timesteps"),
        prediction=model.prediction,
        conditioning=model.conditioning,
    )
