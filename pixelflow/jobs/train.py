"""job=train: train a model, from the beginning or from the run's last checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import torch
from hydra.utils import instantiate
from torch import nn

from pixelflow.jobs.build import (
    Config,
    Model,
    build_model,
    build_objective,
    build_sampler,
    pick_device,
    require_assets,
)
from pixelflow.jobs.context import Run, open_run, run_path
from pixelflow.launch.signals import stop_signal
from pixelflow.reporting.figures import image_grid
from pixelflow.sampling.sampler import to_uint8
from pixelflow.training.checkpoint import CheckpointStore
from pixelflow.training.trainer import Trainer
from pixelflow.types import Condition

logger = logging.getLogger(__name__)


def run(config: Config, overrides: list[str]) -> None:
    require_assets(config)
    path = run_path(config, overrides)
    with open_run(path, config) as run:
        checkpoint = train(config, run)
        run.folder.set_status("finished", job="train")
    print(f"trained: {checkpoint}")


def checkpoint_store(config: Config, path: Path) -> CheckpointStore:
    return CheckpointStore(path / "checkpoints", keep=config["trainer"]["keep_checkpoints"])


def train(config: Config, run: Run) -> Path:
    """Train to trainer.max_steps; returns the last checkpoint. Does nothing where it is there already."""
    store = checkpoint_store(config, run.path)
    last = store.path(config["trainer"]["max_steps"])
    if last.exists():
        logger.info("training is done: %s", last)
        return last
    run.folder.set_status("running", job="train", max_steps=config["trainer"]["max_steps"])
    trainer = build_trainer(config, run, store)
    parameters = sum(p.numel() for p in trainer.backbone.parameters())
    logger.info("training %s on %s (%s parameters)", run.path, trainer.device, f"{parameters:,}")
    trainer.resume()
    run.tracker.resume_from(trainer.step)
    step = trainer.fit()
    run.folder.set_status("running", job="train", step=step)
    return last


def build_trainer(config: Config, run: Run, store: CheckpointStore) -> Trainer:
    """The run's trainer, with its tracker and sample grids."""

    def log(metrics: dict[str, float], step: int) -> None:
        run.tracker.log(metrics, step=step)
        run.folder.set_status("running", job="train", step=step, max_steps=config["trainer"]["max_steps"])

    def grid(model: Model, backbone: nn.Module, device: torch.device, step: int) -> None:
        sampler = build_sampler(config, model, backbone, device)  # type: ignore[arg-type]
        labels = torch.arange(config["data"]["num_classes"]).repeat_interleave(GRID_COLUMNS)
        samples = sampler.sample(Condition(labels), sampler.keyed_noise(range(len(labels)), config["sampler"]["seed"]))
        path = run.path / "figures" / f"samples_{step:08d}.png"
        image_grid(to_uint8(samples.x).cpu(), path, columns=GRID_COLUMNS, scale=GRID_SCALE)
        run.tracker.artifact(path)

    return assemble_trainer(config, store, report=run.path, log=log, grid=grid)


def assemble_trainer(
    config: Config,
    store: CheckpointStore,
    *,
    report: Path | None = None,
    log: Callable[[dict[str, float], int], None],
    grid: Callable[[Model, nn.Module, torch.device, int], None] | None = None,
) -> Trainer:
    """A trainer with freshly initialised weights. report: the folder that lists what data had to be skipped."""
    torch.manual_seed(config["seed"])  # the initial weights
    device = pick_device(config["trainer"]["device"])
    model = build_model(config)
    model.backbone.to(device)
    objective = build_objective(config, model, device)
    settings = instantiate(config["trainer"])
    loader = instantiate(config["data"]).loader(
        batch_size=settings.batch_size, seed=config["seed"], device=device, report=report
    )
    return Trainer(
        backbone=model.backbone,
        cascade=model.cascade,
        timesteps=instantiate(config["timesteps"]),
        prediction=model.prediction,
        conditioning=model.conditioning,
        objective=objective,
        optimizer=instantiate(config["optimizer"])(params=[*model.backbone.parameters(), *objective.parameters()]),
        ema=instantiate(config["ema"]),
        loader=loader,
        checkpoints=store,
        settings=settings,
        seed=config["seed"],
        device=device,
        config=config,
        log=log,
        on_grid=None if grid is None else lambda backbone, step: grid(model, backbone, device, step),
        stop=lambda: stop_signal() is not None,
    )


GRID_COLUMNS = 8
GRID_SCALE = 2
