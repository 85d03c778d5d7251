from __future__ import annotations

import pytest
import torch

from pixelflow.flow import StageWiseGuidance
from pixelflow.sampling.feature_cache import FeatureCache
from pixelflow.solvers import Euler
from pixelflow.types import Condition
from tests.tiny import tiny_pixelflow
from tests.unit.sampling.test_sampler import draw, make_sampler


def calls_of(module: torch.nn.Module) -> list[int]:
    """Widths of the inputs, by call."""
    calls: list[int] = []
    module.register_forward_hook(lambda module, inputs, output: calls.append(len(inputs[0])))
    return calls


def test_the_middle_blocks_of_the_last_stage_are_computed_every_other_time() -> None:
    model = tiny_pixelflow(depth=4).eval()
    first, middle = (calls_of(model.transformer_blocks[i]) for i in (0, 1))
    cached = make_sampler(
        FeatureCache(model, every=2, resolution=16), solver=Euler(num_steps=4, num_stages=3, grid="uniform")
    )
    draw(cached, [0])
    tokens = {4: 4, 8: 16, 16: 64}
    assert first == [n for n in tokens.values() for _ in range(4)]
    assert middle == [4] * 4 + [16] * 4 + [64] * 2
    first.clear(), middle.clear()
    draw(cached, [0])  # and from the beginning for the next batch
    assert (len(first), len(middle)) == (12, 10)


def test_it_is_close_and_the_model_itself_is_unchanged() -> None:
    model = tiny_pixelflow(depth=4).eval()
    guidance, solver = StageWiseGuidance(scale=1.5, num_stages=3), Euler(num_steps=20, num_stages=3, grid="uniform")
    before = draw(make_sampler(model, guidance, solver=solver), [0, 1])
    wrapped = FeatureCache(model, every=2, resolution=16)
    cached = draw(make_sampler(wrapped, guidance, solver=solver), [0, 1])
    error = (cached.x - before.x).abs().max() / before.x.abs().max()
    assert 1e-6 < error < 0.1
    for ours, theirs in zip(cached.stage_ends[:-1], before.stage_ends[:-1], strict=True):
        assert torch.equal(ours, theirs)  # coarser stages are computed in full
    assert torch.equal(draw(make_sampler(model, guidance, solver=solver), [0, 1]).x, before.x)
    assert {p.data_ptr() for p in wrapped.parameters()} == {p.data_ptr() for p in model.parameters()}


def test_a_guided_step_after_an_unguided_one_is_computed_in_full() -> None:
    """Their batches differ in size, so what was added to the one cannot be added to the other."""
    model = tiny_pixelflow(depth=4).eval()
    cache = FeatureCache(model, every=10, resolution=16)
    middle = calls_of(model.transformer_blocks[1])
    x, timestep = torch.randn(2, 1, 16, 16), torch.zeros(2)
    for n in (1, 1, 2, 2):
        cache(x[:n], timestep[:n], Condition(torch.zeros(n, dtype=torch.int64)))
    assert middle == [64, 128]


@pytest.mark.parametrize(
    ("depth", "every", "message"), [(3, 2, "at least four blocks"), (4, 1, "every=1 must be at least 2")]
)
def test_errors(depth: int, every: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FeatureCache(tiny_pixelflow(depth=depth), every=every, resolution=16)
