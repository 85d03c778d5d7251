"""Registers the best checkpoint of a sweep as a model version in MLflow."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pixelflow.errors import UserError
from pixelflow.metrics.catalogue import higher_is_better, main_metric
from pixelflow.reporting.runs import read_evaluation
from pixelflow.runs.status import read_status
from pixelflow.tracking.mlflow.position import MirrorState
from pixelflow.tracking.mlflow.worker import ENVIRONMENT


def register_best(folders: Sequence[Path], *, model: str, metric: str | None) -> str:
    """Uploads the newest checkpoint of the best run and makes it a version of a model, unless it is one already.

    Args:
        folders: Run folders of finished runs.
        model: Name of the registered model.
        metric: The metric that decides; by default the distance to the reference.

    Returns:
        A line that names the version and the checkpoint.

    Raises:
        UserError: No run has the metric, or the best one has no checkpoint.
    """
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    score, folder, metric = best_run(folders, metric)
    checkpoint = max((folder / "checkpoints").glob("step_*"), key=lambda path: path.name, default=None)
    if checkpoint is None:
        raise UserError(f"{folder} has no checkpoint left to register")
    state = MirrorState.load(folder)
    client = MlflowClient(state.uri)
    try:
        client.create_registered_model(model)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    for version in client.search_model_versions(f"name='{model}'"):
        if version.run_id == state.run_id and version.tags.get("checkpoint") == checkpoint.name:
            return f"{model} version {version.version} is {checkpoint} already"
    assert state.run_id is not None
    client.log_artifacts(state.run_id, str(checkpoint), f"checkpoints/{checkpoint.name}")
    source = f"{client.get_run(state.run_id).info.artifact_uri}/checkpoints/{checkpoint.name}"
    tags = {"checkpoint": checkpoint.name, metric: str(score)}
    version = client.create_model_version(model, source, state.run_id, tags=tags)
    return f"{model} version {version.version}: {checkpoint} ({metric} {score:.4g})"


def best_run(folders: Sequence[Path], metric: str | None) -> tuple[float, Path, str]:
    """Returns the best value over the evaluations of all runs, its run folder, and the metric's name.

    Raises:
        UserError: No run has the metric.
    """
    found: list[tuple[float, Path, str]] = []
    for folder in folders:
        own = [folder / name for name in read_status(folder).evaluations]
        for file in own or sorted(folder.glob("evaluation/*.json"))[-1:]:
            metrics = read_evaluation(file).metrics
            main = main_metric(metrics)
            name = metric or (main.key if main else None)
            if name in metrics:
                found.append((metrics[name], folder, name))
    if not found:
        raise UserError(f"none of {len(folders)} finished runs has {metric or 'a distance to the reference'}")
    return (max if higher_is_better(found[0][2]) else min)(found)
