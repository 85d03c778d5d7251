"""What a run logs: metrics.jsonl first, MLflow as its mirror."""

from pixelflow.tracking.jsonl import MetricsLog, history, read_records
from pixelflow.tracking.mlflow.mirror import MLflowMirror, SyncReport, sync
from pixelflow.tracking.system import system_metrics
from pixelflow.tracking.tracker import Tracker

__all__ = [
    "MLflowMirror",
    "MetricsLog",
    "SyncReport",
    "Tracker",
    "history",
    "read_records",
    "sync",
    "system_metrics",
]
