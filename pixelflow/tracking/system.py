"""Metrics of the machine under the names of MLflow, whose page of system metrics shows them."""

from __future__ import annotations

import sys

import psutil


def system_metrics() -> dict[str, float]:
    """Returns a sample of the machine, which takes about a millisecond.

    The CPU is in percent since the last call, memory in megabytes (1e6 bytes). "system_memory" is that of the whole
    machine, "process_memory" the resident part of this process. A GPU is included once this process uses it, under its
    index in this process; a query of another GPU would create a context there.
    """
    memory = psutil.virtual_memory()
    sample = {
        "system/cpu_utilization_percentage": psutil.cpu_percent(),
        "system/system_memory_usage_megabytes": memory.used / 1e6,
        "system/system_memory_usage_percentage": memory.used / memory.total * 100,
        "system/process_memory_usage_megabytes": psutil.Process().memory_info().rss / 1e6,
    }
    torch = sys.modules.get("torch")  # importing torch takes seconds
    if torch is not None and torch.cuda.is_initialized():
        index = torch.cuda.current_device()
        free, total = torch.cuda.mem_get_info(index)
        sample[f"system/gpu_{index}_memory_usage_megabytes"] = (total - free) / 1e6
        sample[f"system/gpu_{index}_memory_usage_percentage"] = (total - free) / total * 100
    return sample
