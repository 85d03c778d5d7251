"""Sampling on a CUDA device: the same images as on a CPU, no waiting inside a stage, and the required speed."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from pixelflow.backbones import PixelFlow
from pixelflow.conditioning import ClassLabel
from pixelflow.flow import Cascade, StageWiseGuidance, VelocityPrediction
from pixelflow.nn.compile import compile_blocks
from pixelflow.nn.kernel_timing import time_attention
from pixelflow.sampling import Sampler, to_uint8
from pixelflow.sampling.cuda_graphs import GraphedBackbone
from pixelflow.sampling.store import AsideWriter
from pixelflow.solvers import AdamsBashforth, Euler, Heun
from pixelflow.types import Condition, Solver
from tests.tiny import tiny_pixelflow
from tests.unit.sampling.test_sampler import draw, make_sampler

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
GUIDANCE = StageWiseGuidance(scale=1.5, num_stages=3)


def gpu_model(**settings: Any) -> PixelFlow:
    return tiny_pixelflow(**settings).eval().cuda()


def test_the_same_images_as_on_the_cpu() -> None:
    here = draw(make_sampler(tiny_pixelflow().eval(), GUIDANCE), [0, 1, 2]).x
    there = draw(make_sampler(gpu_model(), GUIDANCE, device="cuda"), [0, 1, 2]).x
    torch.testing.assert_close(there.cpu(), here, atol=1e-3, rtol=0)


@pytest.mark.parametrize("kind", [Euler, Heun, AdamsBashforth])
def test_the_host_does_not_wait_for_the_device_inside_a_stage(kind: Any) -> None:
    solver = kind(num_steps=4, num_stages=3)
    sampler = make_sampler(gpu_model(), GUIDANCE, device="cuda", solver=solver)
    draw(sampler, [0, 1])  # tables are made at the first call

    def strict(stage: int, tau: Any, x: torch.Tensor) -> None:
        torch.cuda.set_sync_debug_mode("default" if tau == 1.0 else "error")

    try:
        sampler.sample(Condition(torch.tensor([1, 2])), sampler.keyed_noise([0, 1], seed=0), observe=strict)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_cuda_graphs_replay_the_same_numbers() -> None:
    model = gpu_model()
    plain = make_sampler(model, GUIDANCE, device="cuda")
    graphed = make_sampler(GraphedBackbone(model, resolutions=[4, 8]), GUIDANCE, device="cuda")
    for ids in ([0, 1], [5, 6], [0, 1]):
        torch.testing.assert_close(draw(graphed, ids).x, draw(plain, ids).x, atol=1e-5, rtol=0)
    bf16 = make_sampler(graphed.backbone, GUIDANCE, device="cuda", precision="bf16")
    assert (draw(bf16, [0, 1]).x - draw(plain, [0, 1]).x).abs().max() > 0


def test_images_are_copied_without_stopping_the_device() -> None:
    images = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8, device="cuda")
    kept: list[torch.Tensor] = []
    with AsideWriter(lambda ids, batch: kept.append(batch)) as writer:
        for i in range(4):
            writer.put([i], images + i)
    assert all(torch.equal(batch, (images + i).cpu()) for i, batch in enumerate(kept))


def test_attention_kernels_at_head_dim_72() -> None:
    for length in (64, 256, 1024, 4096):
        times = time_attention(4, 16, length, 72, dtype=torch.bfloat16, device=torch.device("cuda"))
        assert len(times) >= 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("solver", "seconds"),
    [
        (Euler(num_steps=30, num_stages=4, grid="uniform"), 0.95),
        (AdamsBashforth(num_steps=15, num_stages=4, grid="uniform"), 0.5),
    ],
    ids=["euler30", "adams15"],
)
def test_xl_at_256_is_as_fast_as_asked_for_on_an_h200(solver: Solver, seconds: float) -> None:
    """The time includes noise and uint8 output; random and trained weights cost the same."""
    if "H200" not in torch.cuda.get_device_name():
        pytest.skip("the limit is that of an H200")
    device, ids = torch.device("cuda"), list(range(50))
    with device:
        model = PixelFlow(patch_size=4, depth=28, num_heads=16, head_dim=72, num_classes=1000).eval()
    compile_blocks(model, resolutions=[32, 64, 128, 256], device=device)
    sampler = Sampler(
        backbone=GraphedBackbone(model, resolutions=[32, 64]),
        cascade=Cascade(image_size=256, num_stages=4),
        prediction=VelocityPrediction(),
        solver=solver,
        guidance=StageWiseGuidance(scale=2.4, num_stages=4),
        conditioning=ClassLabel(num_classes=1000),
        channels=3,
        device=device,
        precision="bf16",
    )
    for _ in range(2):  # the first compiles
        start = time.perf_counter()
        to_uint8(sampler.sample(Condition(torch.arange(50)), sampler.keyed_noise(ids, seed=0)).x).cpu()
        elapsed = time.perf_counter() - start
    assert elapsed / 50 <= seconds
