from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch

from pixelflow.tracking.system import system_metrics


def test_names_and_units_are_those_of_mlflows_own_monitor() -> None:
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor

    monitor = CPUMonitor()
    monitor.collect_metrics()
    theirs = {f"system/{name}": value for name, value in monitor.aggregate_metrics().items()}
    ours = system_metrics()
    assert set(theirs) <= set(ours)
    for name in ("system/system_memory_usage_megabytes", "system/system_memory_usage_percentage"):
        assert ours[name] == pytest.approx(theirs[name], rel=0.2)


def test_process_memory_is_the_resident_size() -> None:
    pages = int(Path(f"/proc/{os.getpid()}/statm").read_text().split()[1])
    expected = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    assert system_metrics()["system/process_memory_usage_megabytes"] == pytest.approx(expected, rel=0.1)


def test_a_busy_processor_shows() -> None:
    system_metrics()
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        pass
    busy = system_metrics()["system/cpu_utilization_percentage"]
    assert 80 / (os.cpu_count() or 1) < busy <= 100


def test_no_gpu_is_named_or_woken_before_it_is_used() -> None:
    if not torch.cuda.is_initialized():
        assert not [name for name in system_metrics() if "gpu" in name]
        assert not torch.cuda.is_initialized()


@pytest.mark.gpu
def test_gpu_memory_includes_what_this_process_holds() -> None:
    index = torch.cuda.current_device()
    held = torch.zeros(256 * 2**20, dtype=torch.uint8, device="cuda")
    sample = system_metrics()
    assert sample[f"system/gpu_{index}_memory_usage_megabytes"] > held.numel() / 1e6
    assert 0 < sample[f"system/gpu_{index}_memory_usage_percentage"] <= 100
