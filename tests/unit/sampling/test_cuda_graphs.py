from __future__ import annotations

import pytest
import torch
from torch import nn

from pixelflow.backbones import JiT
from pixelflow.flow import StageWiseGuidance
from pixelflow.nn.compile import compile_blocks
from pixelflow.sampling.cuda_graphs import GraphedBackbone
from pixelflow.types import Condition
from tests.tiny import tiny_pixelflow
from tests.unit.sampling.test_sampler import draw, make_sampler


@pytest.mark.slow
def test_compiled_blocks_give_the_same_images_and_compile_once_for_each_shape() -> None:
    from torch._dynamo.utils import counters

    model = tiny_pixelflow(depth=2).eval()
    sampler = make_sampler(model, StageWiseGuidance(scale=1.5, num_stages=3))
    expected = draw(sampler, [0, 1, 2]).x
    compile_blocks(model, resolutions=[4, 8, 16], device=torch.device("cpu"))
    counters.clear()
    got = draw(sampler, [0, 1, 2]).x
    assert (got - expected).abs().max() < 1e-4 * expected.abs().max()
    graphs = counters["stats"]["unique_graphs"]
    assert graphs == 3  # one for each resolution, whatever the number of blocks
    for ids in ([0, 1, 2], [3, 4, 5]):
        draw(sampler, ids)
    assert counters["stats"]["unique_graphs"] == graphs


@pytest.mark.slow
def test_compiled_blocks_of_a_jit_give_the_same_numbers() -> None:
    """Its first blocks see fewer tokens than those after the in-context ones."""
    torch.manual_seed(0)
    model = JiT(image_size=32, patch_size=8, width=32, depth=3, num_heads=2, bottleneck_dim=8, num_classes=5,
                in_context_start=1, in_context_len=4).eval()  # fmt: skip
    for parameter in model.parameters():
        if parameter.eq(0).all():  # an output of zeros would always agree
            nn.init.normal_(parameter, std=0.1)
    x, timestep = torch.randn(2, 3, 32, 32), torch.tensor([0.3, 0.7])
    with torch.inference_mode():
        expected = model(x, timestep, Condition(torch.tensor([1, 4]))).output
        compile_blocks(model, resolutions=[32], device=torch.device("cpu"))
        got = model(x, timestep, Condition(torch.tensor([1, 4]))).output
    assert expected.std() > 0.1
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_a_backbone_without_blocks_cannot_be_compiled() -> None:
    with pytest.raises(ValueError, match="Linear has no list of blocks"):
        compile_blocks(nn.Linear(2, 2), resolutions=[16], device=torch.device("cpu"))


def test_graphs_pass_through_what_is_not_on_a_gpu() -> None:
    model = tiny_pixelflow().eval()
    plain = draw(make_sampler(model), [0, 1]).x
    assert torch.equal(draw(make_sampler(GraphedBackbone(model, resolutions=[4, 8])), [0, 1]).x, plain)
