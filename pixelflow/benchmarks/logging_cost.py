"""job=benchmark job.part=logging: the share of the training loop that logging takes.

It is measured without MLflow and with an MLflow that works, is stopped, or hangs. Each measurement is a complete run of
trainer.max_steps steps in a folder of its own, logged as job=train logs. The cost is the time inside the log calls
divided by the time of the loop; a busy machine slows down both alike. The mirror works in another process, on another
core; seconds_per_step shows whether it slows down training.
"""

from __future__ import annotations

import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pixelflow.benchmarks.options import BenchmarkOptions
from pixelflow.config.build import Config
from pixelflow.config.training_parts import build_trainer
from pixelflow.processes import World
from pixelflow.runs.context import open_run


def logging_cost(config: Config, options: BenchmarkOptions, device: torch.device) -> dict[str, Any]:
    """Measures `options.repeats` runs of each kind in turn; the largest share counts.

    Args:
        config: The resolved config of a training run.
        options: The options of the job.
        device: The device that trains.

    Returns:
        `summary` with the percentage of each kind, `runs` with every measurement, and `settings`.
    """
    runs: dict[str, list[dict[str, float]]] = {}
    with _hung_server() as hung, tempfile.TemporaryDirectory() as folder:
        working = config["tracking"]["uri"] or f"sqlite:///{Path(folder) / 'mlflow.db'}"
        kinds: dict[str, Mapping[str, Any]] = {
            "without_mlflow": {"mlflow": False, "uri": None},
            "working": {"mlflow": True, "uri": working},
            "stopped": {"mlflow": True, "uri": f"http://127.0.0.1:{_unused_port()}"},
            "hung": {"mlflow": True, "uri": hung},
        }
        for repeat in range(options.repeats):
            for name, tracking in kinds.items():
                settings = {**config, "tracking": {**config["tracking"], **tracking}}
                runs.setdefault(name, []).append(_run(settings, Path(folder) / f"{name}-{repeat}", device))
    summary = {f"{name}_percent": max(run["percent"] for run in measured) for name, measured in runs.items()}
    settings = {key: config[key] for key in ("backbone", "cascade", "data", "trainer")}
    return {"summary": summary, "runs": runs, "settings": settings}


def _run(config: Config, path: Path, device: torch.device) -> dict[str, float]:
    with open_run(path, config) as run:
        trainer = build_trainer(config, run, world=World(), device=device)
        inside: list[float] = []
        log = trainer.hooks.log

        def timed(metrics: dict[str, float], step: int) -> None:
            start = time.perf_counter()
            log(metrics, step)
            inside.append(time.perf_counter() - start)

        trainer.hooks.log = timed
        start = time.perf_counter()
        steps = trainer.fit()
        seconds = time.perf_counter() - start
    calls = {"calls": float(len(inside)), "milliseconds_per_call": 1e3 * sum(inside) / len(inside)}
    return {"percent": 100 * sum(inside) / seconds, "seconds_per_step": seconds / steps, **calls}


@contextmanager
def _hung_server() -> Iterator[str]:
    """A server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def _unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])
