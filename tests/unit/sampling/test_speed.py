from __future__ import annotations

import pytest
import torch
from torch import nn

from pixelflow.flow import StageWiseGuidance
from pixelflow.sampling.speed import GraphedBackbone, compile_blocks
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


def test_a_backbone_without_blocks_cannot_be_compiled() -> None:
    with pytest.raises(ValueError, match="a list of blocks"):
        compile_blocks(nn.Linear(2, 2), resolutions=[16], device=torch.device("cpu"))


def test_graphs_pass_through_what_is_not_on_a_gpu() -> None:
    model = tiny_pixelflow().eval()
    plain = draw(make_sampler(model), [0, 1]).x
    assert torch.equal(draw(make_sampler(GraphedBackbone(model, resolutions=[4, 8])), [0, 1]).x, plain)
