"""The runs of a sweep, read from their folders or from MLflow.

Both readers give the same runs: configs are flattened and their values brought to one form, because MLflow keeps
every parameter as text.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from pixelflow.runs.flat import flatten
from pixelflow.runs.identity import EVALUATION_SECTIONS, MACHINE_KEYS
from pixelflow.runs.status import RunStatus

logger = logging.getLogger(__name__)

MLFLOW_STATES = {"FINISHED": "finished", "FAILED": "failed", "KILLED": "interrupted", "RUNNING": "running"}
MLFLOW_PREFIX = "eval/"
"""Metrics of the evaluation, as opposed to those of training."""
MLFLOW_EVALUATIONS = "evaluation"
"""The artifacts that hold the evaluation files."""
MLFLOW_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
"""Without the first three, a server that is down holds the caller for four minutes."""


@dataclass(frozen=True)
class Run:
    """One training run and its newest evaluation.

    name: of the folder or the MLflow run. config: flat, dotted keys. metrics, record: of the evaluation, empty
    without one. state: running, finished, failed, interrupted, unknown or broken. reason: what is known about it.
    """

    name: str
    config: dict[str, Any]
    seed: int
    metrics: dict[str, float]
    record: dict[str, Any]
    state: str
    folder: Path | None
    reason: str = ""

    @property
    def complete(self) -> bool:
        """Whether the run's numbers may stand in a table."""
        return self.state == "finished" and bool(self.metrics)


Evaluation = tuple[dict[str, float], dict[str, Any]]
"""Metrics and record of an evaluation."""


def parse_evaluation(content: Any) -> Evaluation:
    """metrics and record of an evaluation. Raises ValueError for anything of another form."""
    if not isinstance(content, dict) or not isinstance(content.get("metrics"), dict):
        raise ValueError("has no `metrics`")
    for key, value in content["metrics"].items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"metrics.{key}={value!r} is not a number")
    record = content.get("record", {})
    if not isinstance(record, dict):
        raise ValueError("`record` is not a mapping")
    return {key: float(value) for key, value in content["metrics"].items()}, record


def evaluation_time(record: Mapping[str, Any]) -> float | None:
    """Unix seconds of an evaluation, from the record's `time` in seconds or as ISO 8601."""
    time = record.get("time")
    if isinstance(time, int | float):
        return float(time)
    try:
        return datetime.datetime.fromisoformat(str(time)).timestamp()
    except ValueError:
        return None


def _seed(config: Mapping[str, Any]) -> int:
    seed = config.get("seed")
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise ValueError("the config has no integer `seed`")
    return seed


def _broken(name: str, config: dict[str, Any], error: Exception, folder: Path | None) -> Run:
    return Run(name, config, 0, {}, {}, "broken", folder, " ".join(str(error).split()))


# Run folders -------------------------------------------------------------------------------------------------------


def read_run_folders(root: Path) -> list[Run]:
    """Every run at or below `root`: the folders that hold a config.yaml, in the order of their paths.

    Unfinished, failed and broken runs are among them, with their state and reason.
    Raises ValueError if there is none.
    """
    root = Path(root)
    runs = [run for folder in sorted(_run_folders(root)) for run in _read_folder(folder)]
    if not runs:
        what = "holds no runs (folders with a config.yaml)" if root.is_dir() else "is not a folder"
        raise ValueError(f"{root} {what}; train first, or name the folder of another experiment")
    return runs


def _run_folders(root: Path) -> Iterator[Path]:
    for folder, children, files in os.walk(root):
        if "config.yaml" in files:
            yield Path(folder)
            children.clear()  # Checkpoints and code snapshots below may hold a config.yaml of their own.
        children[:] = [child for child in children if not child.startswith(".")]


def _read_folder(folder: Path) -> list[Run]:
    config: dict[str, Any] = {}
    try:
        config = flatten(_read_mapping(folder / "config.yaml"))
        seed = _seed(config)
        status = _read_status(folder / "status.json")
        state, reason = _state_of(status)
        evaluations = _evaluations_of(folder, status)
        if status is not None and status.evaluations:
            runs = _evaluated(Run(folder.name, config, seed, {}, {}, "finished", folder), evaluations)
            # A later evaluation of the same weights, at work or failed, does not take the earlier ones from the table.
            unfinished = Run(folder.name, config, seed, {}, {}, state, folder, reason)
            return runs if state == "finished" else [*runs, unfinished]
    except (ValueError, OSError) as error:
        return [_broken(folder.name, config, error, folder)]
    return _evaluated(Run(folder.name, config, seed, {}, {}, state, folder, reason), evaluations)


def _evaluated(run: Run, evaluations: Sequence[Evaluation]) -> list[Run]:
    """The run once for each of its evaluations; the run itself where there is none."""
    runs = [
        replace(run, config=with_settings(run.config, record), metrics=metrics, record=record)
        for metrics, record in evaluations
    ]
    return runs or [run]


def with_settings(config: dict[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a run's flat config with the settings of one of its evaluations.

    Runs that differ only in how they are sampled and measured share a folder and its config.yaml; each evaluation's
    record holds its own settings.
    """
    settings = record.get("settings")
    if not isinstance(settings, Mapping):
        return config
    replaced = tuple(f"{section}." for section in EVALUATION_SECTIONS if section in settings)
    machine = {key: value for key, value in config.items() if key in MACHINE_KEYS}
    kept = {key: value for key, value in config.items() if not key.startswith(replaced)}
    return kept | machine | flatten(settings)


def _read_mapping(path: Path) -> dict[str, Any]:
    shown = f"{path.parent.name}/{path.name}" if path.parent.name == "evaluation" else path.name
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text)
    except (ValueError, yaml.YAMLError) as error:
        kind = "YAML" if path.suffix == ".yaml" else "JSON"
        raise ValueError(f"{shown} is not {kind}: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{shown} is not a mapping")
    return content


def _read_status(path: Path) -> RunStatus | None:
    return RunStatus.parse(_read_mapping(path)) if path.exists() else None


def _state_of(status: RunStatus | None) -> tuple[str, str]:
    if status is None:
        return "unknown", "no status.json"
    state, reason = status.state or "unknown", status.message
    if not reason and state != "finished" and status.step is not None:
        reason = f"step {status.step} of {status.max_steps or 'unknown'}"
    return state, reason


def _evaluations_of(folder: Path, status: RunStatus | None) -> list[Evaluation]:
    """The evaluations that the pipeline made, which status.json names; where it names none, the newest.

    A checkpoint may be evaluated with other settings at any time; that must not change the table.
    """
    if status is None or not status.evaluations:
        return _read_evaluations(folder / "evaluation")[-1:]
    return [parse_evaluation(_read_mapping(folder / name)) for name in status.evaluations]


def _read_evaluations(folder: Path) -> list[Evaluation]:
    """All evaluations in a folder, the oldest first."""
    found: list[tuple[float, str, Evaluation]] = []
    for path in sorted(folder.glob("*.json")):
        if path.name.startswith("."):
            continue
        content = _read_mapping(path)
        try:
            evaluation = parse_evaluation(content)
        except ValueError as error:
            raise ValueError(f"evaluation/{path.name} {error}") from error
        # A copied folder keeps the record's time, but not the file's.
        time = evaluation_time(evaluation[1])
        found.append((path.stat().st_mtime if time is None else time, path.name, evaluation))
    return [evaluation for _, _, evaluation in sorted(found, key=lambda entry: entry[:2])]


# MLflow ------------------------------------------------------------------------------------------------------------


def read_mlflow(uri: str, experiment: str) -> list[Run]:
    """The runs of an MLflow experiment, in the order of their names.

    Params are the flattened config; metrics and record are those of the newest artifact evaluation/*.json. Where
    there is none to be had, the latest metrics under `eval/` have to do. Runs that only group others are left out.
    Raises ValueError where the server does not answer, or has no such experiment or no runs in it.
    """
    shown = _without_password(uri)
    database = re.fullmatch(r"sqlite:///([^?]+)(\?.*)?", uri)
    if database and not Path(database[1]).is_file():
        raise ValueError(f"there is no MLflow database at {shown}; give the tracking URI that the runs were logged to")
    try:
        with _environment(MLFLOW_SETTINGS):
            runs = _read_experiment(uri, experiment)
    except LookupError as error:
        raise ValueError(f"MLflow at {shown} {error.args[0]}") from error
    except Exception as error:  # MLflow lets through what requests, SQLAlchemy and its own stores raise.
        cause = _without_password(" ".join(str(error).split()))[:160]
        raise ValueError(
            f"cannot read MLflow at {shown}; start the server, or make the table from the run folders "
            f"({type(error).__name__}: {cause})"
        ) from error
    return sorted(runs, key=lambda run: run.name)


def _read_experiment(uri: str, experiment: str) -> list[Run]:
    """Raises LookupError for an experiment that is not there or empty."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    known = client.get_experiment_by_name(experiment)
    if known is None:
        names = ", ".join(sorted(other.name for other in client.search_experiments()))
        raise LookupError(f"has no experiment {experiment!r}; it has {names}")
    page = client.search_runs([known.experiment_id])
    found = list(page)
    while page.token:
        page = client.search_runs([known.experiment_id], page_token=page.token)
        found += page
    parents = {run.data.tags.get("mlflow.parentRunId") for run in found}
    logged = [run for run in found if run.data.params or run.info.run_id not in parents]
    runs = [entry for run in logged for entry in _read_mlflow_run(client, run)]
    if not runs:
        raise LookupError(f"holds no runs of experiment {experiment!r}; train first")
    return runs


def _without_password(text: str) -> str:
    return re.sub(r"//[^@/\s]*@", "//***@", text)


@contextlib.contextmanager
def _environment(defaults: Mapping[str, str]) -> Iterator[None]:
    """Sets what the caller's environment does not set already, for a while."""
    added = {key: value for key, value in defaults.items() if key not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for key in added:
            os.environ.pop(key, None)


def _read_mlflow_run(client: Any, run: Any) -> list[Run]:
    name = run.info.run_name or run.info.run_id
    config = flatten(run.data.params)
    try:
        seed = _seed(config)
        evaluations = _mlflow_evaluations(client, run, name)
    except ValueError as error:
        return [_broken(name, config, error, None)]
    state = MLFLOW_STATES.get(run.info.status, run.info.status.lower())
    return _evaluated(Run(name, config, seed, {}, {}, state, None), evaluations)


def _mlflow_evaluations(client: Any, run: Any, name: str) -> list[Evaluation]:
    """The newest evaluation of each of the run's settings."""
    metrics = {k.removeprefix(MLFLOW_PREFIX): v for k, v in run.data.metrics.items() if k.startswith(MLFLOW_PREFIX)}
    if not metrics:
        return []
    with tempfile.TemporaryDirectory() as folder:
        try:
            if client.list_artifacts(run.info.run_id, MLFLOW_EVALUATIONS):
                client.download_artifacts(run.info.run_id, MLFLOW_EVALUATIONS, folder)
        except Exception as error:  # Every store of artifacts has its own.
            logger.warning("MLflow does not give the evaluation files of %s: %s", name, error)
        found = _read_evaluations(Path(folder) / MLFLOW_EVALUATIONS)
    newest = {json.dumps(record.get("settings"), sort_keys=True): (metrics, record) for metrics, record in found}
    if newest:
        return list(newest.values())
    return [(metrics, {"num_samples": int(metrics["num_samples"])} if "num_samples" in metrics else {})]
