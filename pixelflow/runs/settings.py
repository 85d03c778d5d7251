"""The settings of a run that do not determine its weights: where it lies, and where its records are sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")
"""Schemes of the addresses that MLflow supports without a plugin."""


@dataclass(frozen=True, kw_only=True)
class TrackingSettings:
    """The section `tracking` of a config.

    Args:
        mlflow: Whether metrics.jsonl is mirrored to MLflow.
        uri: Address of MLflow; None for the file mlflow.db in the folder of runs.

    Raises:
        ValueError: MLflow does not support the address, or the address of a server holds a password.
    """

    mlflow: bool
    uri: str | None

    def __post_init__(self) -> None:
        if self.uri is None or self.uri == "databricks":
            return
        scheme, separator, rest = self.uri.partition("://")
        if not separator or scheme == "file":  # MLflow refuses folders since its version 3
            raise ValueError(
                f"uri={self.uri!r} must be an address, such as http://HOST:5000 or sqlite:////FOLDER/mlflow.db; null "
                "is the file mlflow.db in runs_dir"
            )
        if scheme.partition("+")[0] not in SCHEMES and scheme not in entry_points(group="mlflow.tracking_store").names:
            raise ValueError(f"uri={self.uri} must begin with one of {', '.join(SCHEMES)}")
        if not rest.strip("/") and scheme != "databricks":
            raise ValueError(f"uri={self.uri} names no {'file' if scheme == 'sqlite' else 'host'}")
        _, at, host = rest.partition("/")[0].rpartition("@")
        if scheme in ("http", "https") and at:
            raise ValueError(
                f"uri={scheme}://...@{host}: records would show what stands before @; give it in "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, variables of the environment"
            )


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Where a run lies, and where its records are sent.

    Args:
        experiment: Name of the experiment: the folder of its table.
        runs_of: Name of the experiment that its runs belong to: their folder, and their experiment in MLflow.
        runs_dir: Folder of all experiments.
        run_folder: Folder of the run if a launcher has chosen it; None to derive it from the config.
        rerun: Whether a finished run is started anew, beside the old one.
        tracking: Settings of MLflow.
    """

    experiment: str
    runs_of: str
    runs_dir: Path
    run_folder: Path | None
    rerun: bool
    tracking: TrackingSettings

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> RunSettings:
        """Reads the settings from a resolved config."""
        folder = config["run_folder"]
        return cls(
            experiment=config["experiment"],
            runs_of=config.get("runs_of") or config["experiment"],
            runs_dir=Path(config["runs_dir"]),
            run_folder=None if folder is None else Path(folder),
            rerun=config["rerun"],
            tracking=TrackingSettings(**config["tracking"]),
        )

    @property
    def experiment_folder(self) -> Path:
        """The folder of the experiment."""
        return self.runs_dir / self.experiment

    @property
    def mlflow_uri(self) -> str:
        """The address of MLflow, whether or not it is used."""
        return self.tracking.uri or f"sqlite:///{(self.runs_dir / 'mlflow.db').resolve()}"
