from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pixelflow.nn.compile import compile_blocks
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
