from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pixelflow.backbones import PixelFlow
from pixelflow.types import Condition
from tests.tiny import tiny_pixelflow


def pack() -> tuple[list[Tensor], Tensor, Condition]:
    """Images of three resolutions, their timesteps and classes."""
    generator = torch.Generator().manual_seed(1)
    images = [torch.randn(b, 1, side, side, generator=generator) for b, side in ((3, 4), (2, 8), (1, 16))]
    timestep = torch.rand(6, generator=generator) * 1000
    return images, timestep, Condition(torch.tensor([0, 5, 2, 4, 1, 3]))


def weights_of(*, width: int, depth: int, patch: int, classes: int, channels: int, bias: bool) -> int:
    """Parameters counted by hand from the paper's sizes and the released state dict."""
    linear = width * width
    attention = 4 * linear + (4 * width if bias else 0) + 2 * width
    block = 6 * (linear + width) + attention + width + 8 * linear + 5 * width
    scalars = 2 * (256 * width + width + linear + width)
    patches = channels * patch * patch
    ends = patches * width + width + 2 * (linear + width) + patches * width + patches
    return depth * block + scalars + (classes + 1) * width + ends


def test_xl_has_the_parameters_of_the_paper() -> None:
    with torch.device("meta"):
        model = PixelFlow(patch_size=4, depth=28, num_heads=16, head_dim=72, num_classes=1000)
    assert sum(p.numel() for p in model.parameters()) == 676_611_120


@pytest.mark.parametrize("bias", [True, False])
def test_parameters_of_other_sizes(bias: bool) -> None:
    with torch.device("meta"):
        model = PixelFlow(
            patch_size=2, depth=3, num_heads=2, head_dim=12, num_classes=7, in_channels=1, attention_bias=bias
        )
    expected = weights_of(width=24, depth=3, patch=2, classes=7, channels=1, bias=bias)
    assert sum(p.numel() for p in model.parameters()) == expected
    assert weights_of(width=1152, depth=28, patch=4, classes=1000, channels=3, bias=True) == 676_611_120


@torch.no_grad()
def test_a_pack_equals_separate_forwards() -> None:
    model = tiny_pixelflow()
    images, timestep, condition = pack()
    packed = model(images, timestep, condition).output
    starts = [0, 3, 5, 6]
    for i, x in enumerate(images):
        part = slice(starts[i], starts[i + 1])
        alone = model(x, timestep[part], condition[part]).output
        assert alone.shape == x.shape
        assert alone.std() > 0.01
        torch.testing.assert_close(packed[i], alone, atol=1e-5, rtol=0)
        for j in range(len(x)):
            one = slice(starts[i] + j, starts[i] + j + 1)
            single = model(x[j : j + 1], timestep[one], condition[one]).output
            torch.testing.assert_close(alone[j : j + 1], single, atol=1e-5, rtol=0)


@torch.no_grad()
def test_images_of_a_pack_do_not_affect_one_another() -> None:
    model = tiny_pixelflow()
    images, timestep, condition = pack()
    before = model(images, timestep, condition).output
    images[1][1], timestep[4], condition.class_label[4] = 3.0, 10.0, 0
    after = model(images, timestep, condition).output
    torch.testing.assert_close(before[0], after[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(before[1][0], after[1][0], atol=1e-6, rtol=0)
    torch.testing.assert_close(before[2], after[2], atol=1e-6, rtol=0)
    assert not torch.allclose(before[1][1], after[1][1], atol=1e-2)


@torch.no_grad()
def test_output_depends_on_time_class_and_size() -> None:
    model = tiny_pixelflow()
    x, base = torch.randn(1, 1, 4, 4), (torch.tensor([100.0]), Condition(torch.tensor([1])))
    output = model(x, *base).output
    assert not torch.allclose(model(x, torch.tensor([300.0]), base[1]).output, output, atol=1e-4)
    assert not torch.allclose(model(x, base[0], Condition(torch.tensor([5]))).output, output, atol=1e-4)
    # Tokens per side are embedded too: without that part the same input gives something else.
    model.latent_size_embedder.linear_2.weight.zero_()
    assert not torch.allclose(model(x, *base).output, output, atol=1e-4)


@torch.no_grad()
def test_a_fresh_model_predicts_zero() -> None:
    images, timestep, condition = pack()
    for output in tiny_pixelflow(zero_init=True)(images, timestep, condition).output:
        assert output.eq(0).all()


def test_initialisation() -> None:
    model = tiny_pixelflow(zero_init=True, num_heads=8, head_dim=16)
    block = model.transformer_blocks[0]
    for zero in (block.norm1.linear, model.proj_out_1, model.proj_out_2):
        assert zero.weight.eq(0).all()
        assert zero.bias.eq(0).all()
    embedders = (model.timestep_embedder, model.latent_size_embedder)
    normal = [model.class_embedder.embedding_table, *(e.linear_1 for e in embedders), *(e.linear_2 for e in embedders)]
    for module in normal:
        assert module.weight.std().item() == pytest.approx(0.02, rel=0.15)
    assert block.mlp.fc1.weight.abs().max().item() == pytest.approx((6 / (128 + 512)) ** 0.5, rel=0.02)
    assert block.attn1.q_proj.weight.abs().max().item() == pytest.approx((6 / 256) ** 0.5, rel=0.02)
    assert model.patch_embed.proj.weight.abs().max().item() == pytest.approx((6 / (4 + 128)) ** 0.5, rel=0.05)
    assert block.norm3.weight.eq(1).all()
    assert all(p.eq(0).all() for name, p in model.named_parameters() if name.endswith("bias"))


@torch.no_grad()
def test_features_are_the_tokens_that_enter_a_block() -> None:
    model = tiny_pixelflow(depth=3)
    images, timestep, condition = pack()
    entered = []
    model.transformer_blocks[2].register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))

    packed = model(images, timestep, condition, features=(2,))
    assert list(packed.features) == [2]
    assert [f.shape for f in packed.features[2]] == [(3, 4, 16), (2, 16, 16), (1, 64, 16)]
    assert torch.equal(torch.cat([f.flatten(0, 1) for f in packed.features[2]]), entered[0])

    alone = model(images[1], timestep[3:5], condition[3:5], features=(0, 2))
    assert sorted(alone.features) == [0, 2]
    torch.testing.assert_close(alone.features[2], packed.features[2][1], atol=1e-5, rtol=0)
    assert model(images[1], timestep[3:5], condition[3:5]).features == {}


def test_a_patch_size_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="images of 6x6 cannot be cut into patches of 4x4"):
        tiny_pixelflow(patch_size=4)(torch.zeros(1, 1, 6, 6), torch.zeros(1), Condition(torch.tensor([0])))


@torch.no_grad()
def test_bf16_autocast_is_close_to_float32() -> None:
    model = tiny_pixelflow(num_heads=4)
    images, timestep, condition = pack()
    full = model(images, timestep, condition).output
    with torch.autocast("cpu", torch.bfloat16):
        half = model(images, timestep, condition).output
    for a, b in zip(full, half, strict=True):
        error = (a - b.float()).abs().max() / a.abs().max()
        assert 0 < error < 0.05


def test_modulation_and_gates_stay_in_float32_under_autocast() -> None:
    model = tiny_pixelflow()
    with torch.autocast("cpu", torch.bfloat16):
        modulation = model.transformer_blocks[0].norm1(torch.randn(2, 16))
    assert len(modulation) == 6
    assert all(part.dtype == torch.float32 for part in modulation)


def test_gradients_reach_every_weight() -> None:
    model = tiny_pixelflow()
    images, timestep, condition = pack()
    sum(output.square().sum() for output in model(images, timestep, condition).output).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@torch.no_grad()
def test_the_largest_timestep_sets_how_smooth_the_output_is_in_time() -> None:
    """Over the same part of the flow the second difference of the output is smaller with a smaller max_timestep."""
    x, label = torch.randn(1, 1, 8, 8), Condition(torch.zeros(200, dtype=torch.int64))
    roughness = []
    for most in (1000.0, 20.0):
        model = tiny_pixelflow(max_timestep=most)
        assert model.max_timestep == most
        path = model(x.expand(200, -1, -1, -1), torch.linspace(0, most, 201)[:-1], label).output.double()
        roughness.append((path.diff(n=2, dim=0).norm() / path.diff(dim=0).norm()).item())
    assert roughness[1] < roughness[0] / 5


@pytest.mark.parametrize("most", [0.5, float("inf"), float("nan")])
def test_a_largest_timestep_that_is_no_number_of_steps_is_refused(most: float) -> None:
    with pytest.raises(ValueError, match="max_timestep="):
        tiny_pixelflow(max_timestep=most)
