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
from pixelflow.config.training_parts import checkpoint_store
from pixelflow.errors import WorkFailed
from pixelflow.processes import World, processes
from pixelflow.reporting.figures import loss_curve
from pixelflow.reporting.folder_reader import read_recipe_runs
from pixelflow.reporting.formats import markdown
from pixelflow.reporting.table import build_table
from pixelflow.runs.context import Run, catch_up, open_run
from pixelflow.runs.identity import evaluation_file, own_evaluation, sampled_step
from pixelflow.runs.settings import RunSettings
from pixelflow.runs.sharing import borrows, record_use
from pixelflow.runs.status import add_evaluation, read_status
from pixelflow.terminal import say
from pixelflow.tracking import history
from pixelflow.workflows.evaluate_samples import evaluate
from pixelflow.workflows.make_samples import sample
from pixelflow.workflows.train_run import find_run, record_data, train

logger = logging.getLogger(__name__)


def run_pipeline(config: Config, overrides: list[str]) -> list[str]:
    """Runs job=pipeline and prints the table of the run.

    Returns:
        The run folder, and the evaluation as a path in it. A launcher stores them as JSON.
    """
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
                if world.rank == 0:
                    record_use(config, path, own_evaluation(config))
                work(config, run, world, device)
            logger.info("finished in %.0f s", time.monotonic() - start)
    result = [str(path), own_evaluation(config)]
    if world.rank:
        return result
    record_use(config, path, own_evaluation(config))
    if there:
        say(f"This finished run is already there: {path}  (rerun=true starts a new one)\n")
        if settings.tracking.mlflow:
            catch_up(path)
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.RUN:  # a sweep shows one table of all its runs
        show(path, config)
    return result


def finished(config: Config, path: Path) -> bool:
    """Whether the run is trained and evaluated with the settings of this config."""
    status = read_status(path)
    return status.state == "finished" and status.job == "pipeline" and is_evaluated(config, path)


def is_evaluated(config: Config, path: Path) -> bool:
    """Returns whether a pipeline has made the evaluation of this config, in whatever state it left the run."""
    name = own_evaluation(config)
    return name in read_status(path).evaluations and (path / name).exists()


def work(config: Config, run: Run, world: World, device: torch.device) -> None:
    """Trains, samples and measures in all processes; rank 0 draws and records, and the others wait for it."""
    if world.broadcast(is_evaluated(config, run.path)):  # a later evaluation of the same weights was stopped
        logger.info("this evaluation is there already: %s", own_evaluation(config))
        run.folder.set_status("finished", job="pipeline")
        return
    checkpoint = trained_checkpoint(config, run, world, device)
    folder = sample(config, checkpoint, home=run.path)
    result = evaluate(config, folder, run.path / evaluation_file(checkpoint.name, config))
    if world.rank == 0:
        report(config, run, folder, result)
    world.gather(None)


def trained_checkpoint(config: Config, run: Run, world: World, device: torch.device) -> Path:
    """Trains to the last step unless that was done before, and returns the checkpoint that is sampled.

    Raises:
        WorkFailed: The training did not leave the checkpoint of `sampler.step`.
    """
    settings = trainer_settings(config)
    wanted = checkpoint_store(settings, run.path).path(sampled_step(config))
    if world.broadcast(wanted.exists() and read_status(run.path).step == settings.max_steps):
        logger.info("the training is done: %s", wanted)
        run.tracker.resume_from(sampled_step(config))
        return wanted
    train(config, run, world, device)
    if not world.broadcast(wanted.exists()):
        raise WorkFailed(
            f"sampler.step={sampled_step(config)}: the training of {run.path} has not left a checkpoint of this step; "
            "choose another step"
        )
    return wanted


def report(config: Config, run: Run, folder: Path, result: dict[str, Any]) -> None:
    """Draws the figures of the run, and records the evaluation of the samples in `folder`."""
    figures = run.path / "figures"
    figures.mkdir(exist_ok=True)
    shutil.copyfile(folder / "grid.png", figures / "samples.png")
    loss_curve({"loss": history(run.path / "metrics.jsonl")["loss"]}, figures / "loss.png")
    run.tracker.log({f"eval/{key}": value for key, value in result["metrics"].items()}, step=result["record"]["step"])
    for artifact in (figures / "samples.png", figures / "loss.png", result["path"]):
        run.tracker.artifact(artifact)
    changes = add_evaluation(run.path, str(result["path"].relative_to(run.path)), borrowed=borrows(config))
    run.folder.set_status("finished", job="pipeline", **changes)


def show(path: Path, config: Config) -> None:
    """Prints the table of this run and the paths of its results."""
    settings = RunSettings.of(config)
    runs = read_recipe_runs(settings.experiment_folder, [path], borrows=borrows(config))
    say(markdown(build_table(runs)))
    say(f"samples     {path / 'figures' / 'samples.png'}")
    say(f"run folder  {path}")
    if settings.tracking.mlflow:
        uri = settings.mlflow_uri
        where = f"mlflow ui --backend-store-uri {uri}" if uri.startswith("sqlite") else uri
        say(f"MLflow      {where}")
