"""Traces a few training steps, for chrome://tracing or ui.perfetto.dev."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity

logger = logging.getLogger(__name__)

WARM_UP = 5
"""Steps before the trace, in which blocks are compiled and memory is first allocated."""


@contextmanager
def profiler(folder: Path, *, steps: int, rank: int) -> Iterator[Callable[[], None]]:
    """Yields a function to call after every step, and writes the trace `folder/process_<rank>.json.gz`.

    Args:
        folder: Folder of the traces.
        steps: Number of steps to trace, after `WARM_UP` steps; 0 for no trace.
        rank: Rank of this process.
    """
    if steps == 0:
        yield lambda: None
        return

    def write(profile: torch.profiler.profile) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"process_{rank}.json.gz"
        profile.export_chrome_trace(str(path))
        logger.info("trace of %d steps: %s", steps, path)

    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    schedule = torch.profiler.schedule(wait=WARM_UP - 1, warmup=1, active=steps, repeat=1)
    with torch.profiler.profile(activities=activities, schedule=schedule, on_trace_ready=write) as profile:
        yield profile.step
