"""What a running training says about itself: speed, utilisation, waiting, memory."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Meter:
    """Counts between two logs.

    images, tokens, flops: of one step of this process. rate: floating-point operations per second that its device
    reaches in plain matrix products, None if nobody measured. processes: that do the same beside it.
    """

    def __init__(
        self,
        *,
        images: int,
        tokens: int,
        flops: int,
        device: torch.device,
        processes: int = 1,
        rate: float | None = None,
    ) -> None:
        self.images, self.tokens, self.flops = images, tokens, flops
        self.device, self.processes, self.rate = device, processes, rate
        self._start, self._steps, self._waited = time.perf_counter(), 0, 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time inside is spent waiting for data."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    def step(self) -> None:
        self._steps += 1

    def read(self) -> dict[str, float]:
        """Rates since the last call; call where the device has been waited for. The first steps include warming up."""
        now = time.perf_counter()
        seconds, steps = now - self._start, self._steps
        rates = {
            "images_per_second": steps * self.images * self.processes / seconds,
            "tokens_per_second": steps * self.tokens * self.processes / seconds,
            "data_wait_share": self._waited / seconds,
            "peak_memory_gib": peak_memory(self.device) / 2**30,
        }
        if self.flops:
            rates["tflops_per_device"] = steps * self.flops / seconds / 1e12
            if self.rate is not None:
                rates["mfu"] = steps * self.flops / seconds / self.rate
        self._start, self._steps, self._waited = now, 0, 0.0
        return rates


def peak_memory(device: torch.device) -> float:
    """Bytes: of the device's allocator, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes * (1 if sys.platform == "darwin" else 1024)
