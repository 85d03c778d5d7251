"""job=pipeline: train, sample, evaluate, show. What is there already is not done again."""

from __future__ import annotations

import json
import logging
import shutil
import time
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from pixelflow.jobs.build import Config, require_assets
from pixelflow.jobs.context import Run, catch_up, open_run, run_path, tracking_uri
from pixelflow.jobs.evaluate import evaluate
from pixelflow.jobs.metrics import require_metrics
from pixelflow.jobs.sample import sample
from pixelflow.jobs.train import train
from pixelflow.reporting.figures import loss_curve
from pixelflow.reporting.runs import read_run_folders
from pixelflow.reporting.table import build_table
from pixelflow.tracking import history

logger = logging.getLogger(__name__)


def run(config: Config, overrides: list[str]) -> None:
    path = run_path(config, overrides)
    if finished(path):
        print(f"This finished run is already there: {path}  (rerun=true starts it anew)\n")
        if config["tracking"]["mlflow"]:
            catch_up(path)
    else:
        require_assets(config)
        require_metrics(config, config["sampler"]["num_samples"])
        start = time.monotonic()
        with open_run(path, config) as run:
            result = work(config, run)
            evaluation = str(result["path"].relative_to(path))
            run.folder.set_status("finished", job="pipeline", evaluation=evaluation)
        logger.info("finished in %.0f s; step %s", time.monotonic() - start, result["record"]["step"])
    if HydraConfig.get().mode == RunMode.RUN:  # a sweep shows one table of all its runs
        show(config, path)


def finished(path: Path) -> bool:
    try:
        status = json.loads((path / "status.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return status["state"] == "finished" and status.get("job") == "pipeline"


def work(config: Config, run: Run) -> dict[str, Any]:
    checkpoint = train(config, run)
    folder = sample(config, checkpoint, home=run.path)
    result = evaluate(config, folder, run.path / "evaluation" / f"{folder.name}.json")
    figures = run.path / "figures"
    figures.mkdir(exist_ok=True)
    shutil.copyfile(folder / "grid.png", figures / "samples.png")
    loss_curve({"loss": history(run.path / "metrics.jsonl")["loss"]}, figures / "loss.png")
    run.tracker.log({f"eval/{key}": value for key, value in result["metrics"].items()}, step=result["record"]["step"])
    for artifact in (figures / "samples.png", figures / "loss.png", result["path"]):
        run.tracker.artifact(artifact)
    return result


def show(config: Config, path: Path) -> None:
    """The table of this run, and where everything lies."""
    print(build_table(read_run_folders(path)).to_markdown())
    print(f"samples     {path / 'figures' / 'samples.png'}")
    print(f"run folder  {path}")
    if config["tracking"]["mlflow"]:
        uri = tracking_uri(config)
        where = f"mlflow ui --backend-store-uri {uri}" if uri.startswith("sqlite") else uri
        print(f"MLflow      {where}")
