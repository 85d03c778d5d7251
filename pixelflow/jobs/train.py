"""job=train: train a model, from the beginning or from the run's last checkpoint."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from hydra.utils import instantiate
from torch import nn

from pixelflow.jobs.build import Config, build_model, build_sampler, pick_device
from pixelflow.jobs.context import Run, open_run, run_path
from pixelflow.reporting.figures import image_grid
from pixelflow.sampling.sampler import to_uint8
from pixelflow.training.checkpoint import CheckpointStore
from pixelflow.training.trainer import Trainer
from pixelflow.types import Condition

logger = logging.getLogger(__name__)


def run(config: Config, overrides: list[str]) -> None:
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
    torch.manual_seed(config["seed"])  # the initial weights
    device = pick_device(config["trainer"]["device"])
    model = build_model(config)
    model.backbone.to(device)
    settings = instantiate(config["trainer"])
    loader = instantiate(config["data"]).loader(
        batch_size=settings.batch_size, seed=config["seed"], device=device, report=run.path
    )

    def log(metrics: dict[str, float], step: int) -> None:
        run.tracker.log(metrics, step=step)
        run.folder.set_status("running", job="train", step=step, max_steps=settings.max_steps)

    def grid(backbone: nn.Module, step: int) -> None:
        sampler = build_sampler(config, model, backbone, device)  # type: ignore[arg-type]
        labels = torch.arange(config["data"]["num_classes"]).repeat_interleave(GRID_COLUMNS)
        samples = sampler.sample(Condition(labels), sampler.keyed_noise(range(len(labels)), config["sampler"]["seed"]))
        path = run.path / "figures" / f"samples_{step:08d}.png"
        image_grid(to_uint8(samples.x).cpu(), path, columns=GRID_COLUMNS, scale=GRID_SCALE)
        run.tracker.artifact(path)

    return Trainer(
        backbone=model.backbone,
        cascade=model.cascade,
        timesteps=instantiate(config["timesteps"]),
        prediction=model.prediction,
        conditioning=model.conditioning,
        objective=instantiate(config["objective"]),
        optimizer=instantiate(config["optimizer"])(params=model.backbone.parameters()),
        ema=instantiate(config["ema"]),
        loader=loader,
        checkpoints=store,
        settings=settings,
        seed=config["seed"],
        device=device,
        config=config,
        log=log,
        on_grid=grid,
    )


GRID_COLUMNS = 8
GRID_SCALE = 2
