"""Training, sampling and evaluation of one run. What exists already is not repeated."""

from __future__ import annotations

import logging
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from pixelflow.config.build import Config, pick_device, require_assets, sample_set, trainer_settings
from pixelflow.config.suites import require_metrics
from pixelflow.processes import World, processes
from pixelflow.reporting.figures import loss_curve
from pixelflow.reporting.folder_reader import read_run_folders
from pixelflow.reporting.formats import markdown
from pixelflow.reporting.table import build_table
from pixelflow.runs.context import Run, catch_up, open_run
from pixelflow.runs.identity import evaluation_file, own_evaluation
from pixelflow.runs.settings import RunSettings
from pixelflow.runs.status import add_evaluation, read_status
from pixelflow.terminal import say
from pixelflow.tracking import history
from pixelflow.workflows.evaluate_samples import evaluate
from pixelflow.workflows.make_samples import sample
from pixelflow.workflows.train_run import find_run, record_data, train

logger = logging.getLogger(__name__)


def run_pipeline(config: Config, overrides: list[str]) -> None:
    """Runs job=pipeline and prints the table of the run."""
    settings = RunSettings.of(config)
    with processes(pick_device(trainer_settings(config).device)) as (world, device):
        path, data = find_run(config, overrides, world)
        there = world.broadcast(finished(config, path))
        if not there:
            require_assets(config)
            require_metrics(config, sample_set(config).num_samples)
            start = time.monotonic()
            with open_run(path, config, world) as run:
                record_data(data, run)
                work(config, run, world, device)
            logger.info("finished in %.0f s", time.monotonic() - start)
    if world.rank:
        return
    if there:
        say(f"This finished run is already there: {path}  (rerun=true starts a new one)\n")
        if settings.tracking.mlflow:
            catch_up(path)
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.RUN:  # a sweep shows one table of all its runs
        show(path, settings)


def finished(config: Config, path: Path) -> bool:
    """Whether the run is trained and evaluated with the settings of this config."""
    status = read_status(path)
    return status.state == "finished" and status.job == "pipeline" and own_evaluation(config) in status.evaluations


def work(config: Config, run: Run, world: World, device: torch.device) -> None:
    """Trains, samples and measures in all processes; rank 0 draws and records, and the others wait for it."""
    checkpoint = train(config, run, world, device)
    folder = sample(config, checkpoint, home=run.path)
    result = evaluate(config, folder, run.path / evaluation_file(checkpoint.name, config))
    if world.rank == 0:
        report(run, folder, result)
    world.gather(None)


def report(run: Run, folder: Path, result: dict[str, Any]) -> None:
    """Draws the figures of the run, and records the evaluation of the samples in `folder`."""
    figures = run.path / "figures"
    figures.mkdir(exist_ok=True)
    shutil.copyfile(folder / "grid.png", figures / "samples.png")
    loss_curve({"loss": history(run.path / "metrics.jsonl")["loss"]}, figures / "loss.png")
    run.tracker.log({f"eval/{key}": value for key, value in result["metrics"].items()}, step=result["record"]["step"])
    for artifact in (figures / "samples.png", figures / "loss.png", result["path"]):
        run.tracker.artifact(artifact)
    evaluations = add_evaluation(run.path, str(result["path"].relative_to(run.path)))
    run.folder.set_status("finished", job="pipeline", evaluations=evaluations)


def show(path: Path, settings: RunSettings) -> None:
    """Prints the table of this run and the paths of its results."""
    say(markdown(build_table(read_run_folders(path))))
    say(f"samples     {path / 'figures' / 'samples.png'}")
    say(f"run folder  {path}")
    if settings.tracking.mlflow:
        uri = settings.mlflow_uri
        where = f"mlflow ui --backend-store-uri {uri}" if uri.startswith("sqlite") else uri
        say(f"MLflow      {where}")
