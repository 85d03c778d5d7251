"""Which attention kernel is the fastest here: it depends on the length, the head size and the machine."""

from __future__ import annotations

import time
import warnings

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

BACKENDS = (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)
REPEATS = 5


def time_attention(
    batch: int, heads: int, length: int, head_dim: int, *, dtype: torch.dtype, device: torch.device
) -> dict[SDPBackend, float]:
    """Seconds of one call for each backend that takes such inputs on this device: the least of a few."""
    q, k, v = (torch.randn(batch, heads, length, head_dim, dtype=dtype, device=device) for _ in range(3))
    times = {}
    for backend in BACKENDS:
        try:
            with sdpa_kernel(backend), warnings.catch_warnings(), torch.inference_mode():
                warnings.simplefilter("ignore")  # torch explains at length why a backend does not do
                times[backend] = min(_seconds(q, k, v) for _ in range(REPEATS + 1))
        except RuntimeError:  # no such kernel for these inputs
            continue
    return times


def _seconds(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> float:
    start = time.perf_counter()
    F.scaled_dot_product_attention(q, k, v)
    if q.is_cuda:
        torch.cuda.synchronize(q.device)
    return time.perf_counter() - start
