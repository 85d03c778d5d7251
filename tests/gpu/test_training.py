"""Training on a GPU: attention kernels agree, and a step does not make the host wait."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pixelflow.nn.kernels import KERNELS, unavailable
from pixelflow.nn.pack import Layout
from pixelflow.processes import World
from tests.distributed.worker import trainer_of

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("head_dim", [64, 72])
@pytest.mark.parametrize("kernel", ["varlen", "flash_attn"])
def test_kernels_agree_with_dense_groups(kernel: str, head_dim: int) -> None:
    """In value and gradient, to the error of bfloat16."""
    device = torch.device("cuda")
    if reason := unavailable(kernel, dtype=torch.bfloat16, device=device):
        pytest.skip(f"{kernel} {reason}")
    layout = Layout.of([torch.empty(3, 1, side, side) for side in (16, 32, 64)], 4)
    shapes = [(g.num_images, g.length, 4, head_dim) for g in layout]

    def run(name: str) -> list[Tensor]:
        generator = torch.Generator(device).manual_seed(0)
        q, k, v = (
            [torch.randn(s, device=device, generator=generator).bfloat16().requires_grad_() for s in shapes]
            for _ in range(3)
        )
        out = KERNELS[name](q, k, v, layout)
        weight = torch.randn(out.shape, device=device, generator=generator)
        (out.float() * weight).sum().backward()
        return [out, *(t.grad for part in (q, k, v) for t in part if t.grad is not None)]

    for got, expected in zip(run(kernel), run("dense_groups"), strict=True):
        torch.testing.assert_close(got.float(), expected.float(), atol=3e-2, rtol=3e-2)


def test_a_step_does_not_wait_for_the_device(tmp_path: Path) -> None:
    options: dict[str, Any] = {"precision": "bf16", "log_every": 100, "save_every": 0}
    trainer = trainer_of(tmp_path, options, World(), lambda what: None, device=torch.device("cuda"))
    batches = iter(trainer.loader)
    for _ in range(3):
        trainer.train_step(next(batches))
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            trainer.train_step(next(batches))
    finally:
        torch.cuda.set_sync_debug_mode("default")
