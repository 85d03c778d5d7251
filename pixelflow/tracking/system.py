"""What the machine is doing, under MLflow's names, so that its page of system metrics shows it."""

from __future__ import annotations

import sys

import psutil


def system_metrics() -> dict[str, float]:
    """A sample that takes about a millisecond: CPU in percent since the last call, memory in megabytes (1e6 bytes).

    "system_memory" is the whole machine's, "process_memory" the resident part of this process. A GPU appears once
    this process uses it, under its number here; others are left alone, since asking them would start a context there.
    """
    memory = psutil.virtual_memory()
    sample = {
        "system/cpu_utilization_percentage": psutil.cpu_percent(),
        "system/system_memory_usage_megabytes": memory.used / 1e6,
        "system/system_memory_usage_percentage": memory.used / memory.total * 100,
        "system/process_memory_usage_megabytes": psutil.Process().memory_info().rss / 1e6,
    }
    torch = sys.modules.get("torch")  # a process without torch has no use for seconds of importing it
    if torch is not None and torch.cuda.is_initialized():
        index = torch.cuda.current_device()
        free, total = torch.cuda.mem_get_info(index)
        sample[f"system/gpu_{index}_memory_usage_megabytes"] = (total - free) / 1e6
        sample[f"system/gpu_{index}_memory_usage_percentage"] = (total - free) / total * 100
    return sample
