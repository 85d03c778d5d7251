from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pixelflow.backbones import JiT
from pixelflow.types import Condition


def tiny(*, seed: int = 0, zero_init: bool = False, **settings: Any) -> JiT:
    """All weights are random, also those that start at zero."""
    defaults = {
        "image_size": 8, "patch_size": 2, "width": 16, "depth": 3, "num_heads": 2, "num_classes": 5, "in_channels": 1,
        "in_context_len": 2, "in_context_start": 1,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = JiT(**(defaults | settings))
        for parameter in model.parameters():
            if not zero_init and parameter.eq(0).all():
                torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def inputs(n: int = 3, side: int = 8) -> tuple[Tensor, Tensor, Condition]:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(n) * 2 % 6
    return torch.randn(n, 1, side, side, generator=generator), torch.rand(n, generator=generator), Condition(labels)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({"width": 1152, "depth": 28, "num_heads": 16, "proj_drop": 0.1}, 676_699_200),
        ({"width": 1024, "depth": 24, "num_heads": 16, "bottleneck_dim": 128}, 458_877_664),
    ],
    ids=["xl", "l"],
)
def test_trained_parameters_of_the_released_sizes(sizes: dict[str, Any], expected: int) -> None:
    with torch.device("meta"):
        model = JiT(image_size=256, patch_size=16, num_classes=1000, **sizes)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected
    assert "pos_embed" in model.state_dict()
    assert (model.width, model.depth, model.max_timestep) == (sizes["width"], sizes["depth"], 1.0)


@torch.no_grad()
def test_features_are_the_image_tokens_that_enter_a_block() -> None:
    model = tiny()
    x, t, condition = inputs()
    entered: list[Tensor] = []
    model.blocks[2].register_forward_pre_hook(lambda _, arguments: entered.append(arguments[0]))
    features = model(x, t, condition, features=(0, 2)).features
    assert features[0].shape == features[2].shape == (3, 16, 16)
    with_context = entered[0].unflatten(0, (3, 18))  # two class tokens stand before the sixteen of the image
    assert torch.equal(features[2], with_context[:, 2:])
    assert model(x, t, condition).features == {}


@torch.no_grad()
def test_context_tokens_contain_the_class_and_are_not_rotated() -> None:
    model = tiny(depth=2, in_context_start=0)
    entered: list[Tensor] = []
    model.blocks[0].register_forward_pre_hook(lambda _, arguments: entered.append(arguments[0]))
    x, t, condition = inputs()
    model(x, t, condition)
    expected = model.y_embedder(condition.class_label)[:, None] + model.in_context_posemb
    torch.testing.assert_close(entered[0].unflatten(0, (3, 18))[:, :2], expected)
    table = model.rope(4, 4, x.device, prefix=2)
    assert table[:2, :, 0].eq(1).all() and table[:2, :, 1].eq(0).all()
    assert torch.equal(table[2:], model.rope(4, 4, x.device))


@torch.no_grad()
def test_without_the_table_a_pack_equals_separate_forwards() -> None:
    model = tiny(image_size=None)
    assert model.fixed_resolution is None and "pos_embed" not in model.state_dict()
    parts = [inputs(3, 4), inputs(2, 8)]
    timestep = torch.cat([t for _, t, _ in parts])
    condition = Condition.cat([c for _, _, c in parts])
    packed = model([x for x, _, _ in parts], timestep, condition, features=(2,))
    for i, (x, t, c) in enumerate(parts):
        alone = model(x, t, c, features=(2,))
        assert alone.output.std() > 0.01
        torch.testing.assert_close(packed.output[i], alone.output, atol=1e-5, rtol=0)
        torch.testing.assert_close(packed.features[2][i], alone.features[2], atol=1e-5, rtol=0)


def test_the_position_table_requires_one_resolution() -> None:
    model = tiny()
    assert model.fixed_resolution == 8
    with pytest.raises(ValueError, match=r"4x4 pixels, but this JiT is fixed to 8: use one stage, or image_size=None"):
        model(*inputs(side=4))


@torch.no_grad()
def test_the_position_table_distinguishes_positions() -> None:
    """Without it, and without rotation, a shuffled image would give the shuffled output."""
    x, t, condition = inputs()
    model = tiny()
    before = model(x, t, condition).output
    model.pos_embed.zero_()
    assert not torch.allclose(model(x, t, condition).output, before, atol=1e-3)


@torch.no_grad()
def test_dropout_is_in_the_middle_half_and_off_in_evaluation() -> None:
    model = tiny(depth=8, proj_drop=0.5)
    rates = [(block.attn.drop.p, block.mlp.drop.p) for block in model.blocks]
    assert rates == [(0.0, 0.0)] * 2 + [(0.5, 0.5)] * 4 + [(0.0, 0.0)] * 2
    x, t, condition = inputs()
    assert torch.equal(model(x, t, condition).output, model(x, t, condition).output)
    model.train()
    assert not torch.equal(model(x, t, condition).output, model(x, t, condition).output)


def test_a_fresh_model_predicts_zero() -> None:
    model = tiny(zero_init=True)
    assert model(*inputs()).output.eq(0).all()
    assert model.y_embedder.embedding_table.weight.std() > 0.01


def test_gradients_reach_every_weight() -> None:
    model = tiny(bottleneck_dim=4)
    model(*inputs()).output.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@torch.no_grad()
def test_bf16_autocast_is_close_to_float32() -> None:
    model = tiny(width=64)
    full = model(*inputs()).output
    with torch.autocast("cpu", torch.bfloat16):
        half = model(*inputs()).output
    assert 0 < ((full - half.float()).abs().max() / full.abs().max()).item() < 0.05


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patch_size": 3}, "patch_size=3 must divide image_size=8"),
        ({"width": 20}, "width=20 must be divisible by"),
        ({"in_context_start": 3}, "in_context_start=3 must be a block, 0 to 2"),
        ({"proj_drop": 1.0}, "proj_drop=1.0 must be in"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**settings)


def test_no_context_has_no_weights_for_it() -> None:
    assert "in_context_posemb" not in tiny(in_context_len=0).state_dict()
    assert tiny(in_context_len=0)(*inputs()).output.shape == (3, 1, 8, 8)
