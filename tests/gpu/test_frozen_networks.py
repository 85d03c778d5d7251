"""Frozen networks on a GPU, in bf16 and compiled."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from pixelflow.losses import DinoV2, Objective, PDino, VGGDistance
from tests.unit.losses.stand_ins import predict

pytest.importorskip("timm")
pytest.importorskip("lpips")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

TINY = {"file": None, "name": "vit_tiny_patch16_224", "image_size": 32, "num_features": 192}


@pytest.mark.parametrize("bf16", [False, True])
def test_a_gpu_gives_what_the_cpu_gives(bf16: bool) -> None:
    images = torch.rand(4, 3, 32, 32) * 2 - 1
    results: dict[str, list[torch.Tensor]] = {}
    for device in ("cpu", "cuda"):
        encoder, distance = DinoV2(**TINY), VGGDistance(file=None)  # type: ignore[arg-type]
        for network in (encoder, distance):
            network.load(Path(), device, bf16=bf16 and device == "cuda")
        x = images.to(device)
        results[device] = [encoder(x).cpu(), distance(x, x.flip(0)).cpu()]
    for ours, theirs in zip(results["cuda"], results["cpu"], strict=True):
        assert ours.dtype == torch.float32
        assert (ours - theirs).abs().max() <= (0.05 if bf16 else 5e-3) * theirs.abs().max()


def test_padding_prevents_recompilation_of_an_encoder() -> None:
    """Any number of passing images of 16 makes at most four shapes."""
    encoder, counter = DinoV2(**TINY), CompileCounter()  # type: ignore[arg-type]
    encoder.load(Path(), "cuda")
    assert encoder.model is not None
    encoder.model = torch.compile(encoder.model, backend=counter, dynamic=False)  # type: ignore[assignment]
    objective = Objective(terms={"p_dino": PDino(encoder="e", min_t=0.3)}, encoders={"e": encoder}, pad_to=4)
    for passing in range(1, 17):
        (p,), batch = predict([0.5] * passing + [0.1] * (16 - passing), [1] * 16)
        images = p.sample.x.cuda(), p.raw.detach().cuda().requires_grad_()
        sample = type(p.sample)(
            p.sample.path, images[0], p.sample.noise.cuda(), p.sample.tau.cuda(), p.sample.timestep.cuda(),
            p.sample.x_t.cuda(), p.sample.index,
        )  # fmt: skip
        objective([type(p)(images[1], sample, p.prediction)], batch.to("cuda")).loss.backward()
    assert counter.frame_count <= 8  # four shapes, each with and without gradient
