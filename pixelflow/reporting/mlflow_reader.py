"""The runs of an experiment, read from MLflow."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pixelflow.errors import UserError
from pixelflow.metrics.catalogue import main_metric
from pixelflow.reporting.runs import Evaluation, Run, broken_run, evaluated_runs, read_evaluations, seed_of
from pixelflow.runs.flat import flatten
from pixelflow.terminal import one_line

logger = logging.getLogger(__name__)

STATES = {"FINISHED": "finished", "FAILED": "failed", "KILLED": "interrupted", "RUNNING": "running"}
METRIC_PREFIX = "eval/"
"""Prefix that distinguishes the metrics of an evaluation from those of the training."""
EVALUATION_ARTIFACTS = "evaluation"
"""Artifact folder of the evaluation files."""
CLIENT_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
"""Settings of MLflow's client. With its defaults, a call to a server that is down takes four minutes."""


def read_mlflow(uri: str, experiment: str) -> list[Run]:
    """Returns the runs of an MLflow experiment, in the order of their names.

    The config of a run is read from its params. Its metrics and records are read from the artifacts evaluation/*.json:
    the newest one of each setting. If they are not available, the latest metrics under `eval/` are used, without a
    record. Runs that only group others are left out.

    Args:
        uri: MLflow's tracking URI.
        experiment: Name of the experiment.

    Raises:
        UserError: MLflow cannot be read, or it has no such experiment, or the experiment has no runs.
    """
    shown = _without_password(uri)
    database = re.fullmatch(r"sqlite:///([^?]+)(\?.*)?", uri)
    if database and not Path(database[1]).is_file():
        raise UserError(f"there is no MLflow database at {shown}; give the tracking URI that the runs were logged to")
    try:
        with _environment(CLIENT_ENVIRONMENT):
            runs = _read_experiment(uri, experiment)
    except LookupError as error:
        raise UserError(f"MLflow at {shown} {error.args[0]}") from error
    except Exception as error:  # MLflow passes on the exceptions of requests, SQLAlchemy and its own stores.
        cause = _without_password(" ".join(str(error).split()))[:160]
        raise UserError(
            f"cannot read MLflow at {shown}; start the server, or make the table from the run folders "
            f"({type(error).__name__}: {cause})"
        ) from error
    return sorted(runs, key=lambda run: run.name)


def _read_experiment(uri: str, experiment: str) -> list[Run]:
    """All runs of an experiment. Raises LookupError for an experiment that does not exist or is empty."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    known = client.get_experiment_by_name(experiment)
    if known is None:
        names = one_line(", ".join(sorted(other.name for other in client.search_experiments())))
        raise LookupError(f"has no experiment {experiment!r}; it has {names}")
    page = client.search_runs([known.experiment_id])
    found = list(page)
    while page.token:
        page = client.search_runs([known.experiment_id], page_token=page.token)
        found += page
    parents = {run.data.tags.get("mlflow.parentRunId") for run in found}
    logged = [run for run in found if run.data.params or run.info.run_id not in parents]
    runs = [entry for run in logged for entry in _read_run(client, run)]
    if not runs:
        raise LookupError(f"holds no runs of experiment {experiment!r}; train first")
    return runs


def _without_password(text: str) -> str:
    return re.sub(r"//[^@/\s]*@", "//***@", text)


@contextlib.contextmanager
def _environment(defaults: Mapping[str, str]) -> Iterator[None]:
    """Sets environment variables for the duration of the block, except those that are set already."""
    added = {key: value for key, value in defaults.items() if key not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for key in added:
            os.environ.pop(key, None)


def _read_run(client: Any, run: Any) -> list[Run]:
    name = run.info.run_name or run.info.run_id
    config = flatten(run.data.params)
    try:
        seed = seed_of(config)
        evaluations = _evaluations_of(client, run, name)
    except ValueError as error:
        return [broken_run(name, config, error, None)]
    state = STATES.get(run.info.status, run.info.status.lower())
    # Only the pipeline logs evaluation files; those of earlier versions have no settings.
    final = all(evaluation.settings is not None for evaluation in evaluations)
    return evaluated_runs(Run(name, config, seed, {}, {}, state, None), evaluations, final=final)


def _evaluations_of(client: Any, run: Any, name: str) -> list[Evaluation]:
    """The newest evaluation of each of the run's settings. Raises UserError for evaluations that cannot be read."""
    prefix = METRIC_PREFIX
    metrics = {key.removeprefix(prefix): v for key, v in run.data.metrics.items() if key.startswith(prefix)}
    if not metrics:
        return []
    with tempfile.TemporaryDirectory() as folder:
        try:
            if client.list_artifacts(run.info.run_id, EVALUATION_ARTIFACTS):
                client.download_artifacts(run.info.run_id, EVALUATION_ARTIFACTS, folder)
        except Exception as error:  # Every artifact store raises its own exceptions.
            logger.warning("the evaluation files of %s cannot be read from MLflow: %s", name, error)
        found = read_evaluations(Path(folder) / EVALUATION_ARTIFACTS)
    newest = {json.dumps([one.settings, one.record.get("step")], sort_keys=True): one for one in found}
    if newest:
        return list(newest.values())
    _require_one_evaluation(client, run, metrics)
    return [Evaluation(metrics, {"num_samples": int(metrics["num_samples"])} if "num_samples" in metrics else {})]


def _require_one_evaluation(client: Any, run: Any, metrics: Mapping[str, float]) -> None:
    """Raises UserError if the run's weights were evaluated with several settings: the params are those of the first."""
    main = main_metric(metrics)
    history = client.get_metric_history(run.info.run_id, METRIC_PREFIX + (main.key if main else next(iter(metrics))))
    last = max(entry.step for entry in history)
    if len({entry.value for entry in history if entry.step == last}) > 1:
        raise UserError("it has several evaluations, and the files that hold their settings are not in MLflow")
