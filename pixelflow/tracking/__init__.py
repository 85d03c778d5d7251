"""Tracking of a run: metrics.jsonl is the record, and MLflow mirrors it."""

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
