from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pixelflow.nn.compile import compile_blocks
from pixelflow.nn.kernels import KERNELS, choose_kernel, image_ends, set_kernel, unavailable
from pixelflow.nn.pack import Layout
from pixelflow.training.activation_checkpointing import checkpoint_blocks
from pixelflow.types import Condition
from tests.tiny import tiny_pixelflow

CPU = torch.device("cpu")
PACK = [torch.randn(2, 1, side, side, generator=torch.Generator().manual_seed(side)) for side in (4, 8)]
TIMES, LABELS = torch.tensor([10.0, 200.0, 600.0, 900.0]), Condition(torch.arange(4))


def results(model: nn.Module) -> list[Tensor]:
    """Outputs and gradients on a pack."""
    outputs = model(PACK, TIMES, LABELS).output
    model.zero_grad()
    torch.stack([out.square().mean() for out in outputs]).sum().backward()
    return [*outputs, *(p.grad for p in model.parameters())]


@pytest.mark.parametrize("mode", ["selective", "full"])
def test_what_is_computed_again_is_the_same(mode: Any) -> None:
    expected = results(tiny_pixelflow(depth=2))
    model = tiny_pixelflow(depth=2)
    checkpoint_blocks(model, mode)
    assert all(torch.equal(a, b) for a, b in zip(results(model), expected, strict=True))
    assert list(model.state_dict()) == list(tiny_pixelflow(depth=2).state_dict())


def kept_bytes(mode: Any) -> int:
    """What autograd's graph holds on to, beside the weights and what checkpointing itself stores."""
    model, sizes = tiny_pixelflow(depth=4), []
    checkpoint_blocks(model, mode)

    def pack(tensor: Tensor) -> Tensor:
        sizes.append(tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(PACK, TIMES, LABELS)
    return sum(sizes)


def test_full_checkpointing_keeps_less() -> None:
    assert kept_bytes("full") < 0.3 * kept_bytes("none")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["none", "selective", "full"])
def test_compiled_blocks_train_alike_and_are_compiled_once(mode: Any) -> None:
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    expected = results(tiny_pixelflow(depth=2))
    model = tiny_pixelflow(depth=2)
    checkpoint_blocks(model, mode)
    compile_blocks(model, resolutions=[4, 8], device=CPU)
    for got, value in zip(results(model), expected, strict=True):
        torch.testing.assert_close(got, value, atol=1e-5, rtol=1e-3)
    graphs = counters["stats"]["unique_graphs"]
    assert graphs > 0
    with torch._dynamo.config.patch(error_on_recompile=True):
        for _ in range(3):
            results(model)
    assert counters["stats"]["unique_graphs"] == graphs


# --- attention over packs -----------------------------------------------------------------------------------------


def groups(layout: Layout, heads: int, head_dim: int) -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(1)
    shapes = [(g.num_images, g.length, heads, head_dim) for g in layout]
    return [[torch.randn(s, generator=generator, requires_grad=True) for s in shapes] for _ in range(3)]


def test_dense_groups_are_attention_of_each_image_alone() -> None:
    """Against the formula, image by image."""
    layout = Layout.of(PACK, 2).with_prefix(3)
    q, k, v = groups(layout, heads=2, head_dim=8)
    expected = []
    for q_g, k_g, v_g in zip(q, k, v, strict=True):
        for image in range(len(q_g)):
            scores = torch.einsum("ihe,jhe->hij", q_g[image], k_g[image]) / 8**0.5
            expected.append(torch.einsum("hij,jhe->ihe", scores.softmax(-1), v_g[image]).flatten(1))
    torch.testing.assert_close(KERNELS["dense_groups"](q, k, v, layout), torch.cat(expected), atol=1e-5, rtol=1e-4)


def test_image_ends() -> None:
    layout = Layout.of(PACK, 2)
    assert image_ends(layout, CPU).tolist() == [0, 4, 8, 24, 40]
    assert image_ends(layout.with_prefix(1), CPU).tolist() == [0, 5, 10, 27, 44]
    assert image_ends(layout, CPU).dtype == torch.int32


def test_what_cannot_be_used_here_is_refused() -> None:
    settings: dict[str, Any] = {"heads": 2, "head_dim": 8, "dtype": torch.float32, "device": CPU}
    assert choose_kernel("auto", Layout.of(PACK, 2), **settings) == "dense_groups"
    for name in ("varlen", "flash_attn"):
        with pytest.raises(ValueError, match=f"attention={name} needs a CUDA device; use auto or dense_groups"):
            choose_kernel(name, Layout.of(PACK, 2), **settings)
    assert unavailable("varlen", dtype=torch.float32, device=torch.device("cuda")) == "needs trainer.precision=bf16"


def test_the_kernel_reaches_every_attention() -> None:
    model = tiny_pixelflow(depth=3)
    set_kernel(model, "varlen")
    assert [block.attn1.kernel for block in model.transformer_blocks] == ["varlen"] * 3
