from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pixelflow.nn.attention import SelfAttention
from pixelflow.nn.pack import Layout
from pixelflow.nn.rope import Rope2D

HEADS, HEAD_DIM = 2, 8
WIDTH = HEADS * HEAD_DIM
LAYOUT = Layout.of([torch.zeros(2, 1, 4, 4), torch.zeros(1, 1, 8, 8), torch.zeros(2, 1, 4, 8)], patch_size=2)
NUM_TOKENS = 2 * 4 + 16 + 2 * 8


def attention(bias: bool = True) -> tuple[SelfAttention, Rope2D]:
    torch.manual_seed(0)
    module = SelfAttention(width=WIDTH, num_heads=HEADS, bias=bias)
    torch.nn.init.uniform_(module.q_norm.weight, 0.5, 1.5)
    torch.nn.init.uniform_(module.k_norm.weight, 0.5, 1.5)
    return module, Rope2D(head_dim=HEAD_DIM)


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    """RMS norm over the whole width."""
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def turn(x: Tensor, table: Tensor) -> Tensor:
    a, b = x[0::2], x[1::2]
    cos, sin = table[0::2, 0], table[0::2, 1]
    return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=1).flatten()


@torch.no_grad()
def one_image_by_hand(module: SelfAttention, x: Tensor, table: Tensor) -> Tensor:
    """x: (L, D). Softmax attention, token by token and head by head."""
    q = rms_norm(module.q_proj(x), module.q_norm.weight).view(-1, HEADS, HEAD_DIM)
    k = rms_norm(module.k_proj(x), module.k_norm.weight).view(-1, HEADS, HEAD_DIM)
    v = module.v_proj(x).view(-1, HEADS, HEAD_DIM)
    out = torch.zeros_like(v)
    for head in range(HEADS):
        turned = torch.stack([turn(k[j, head], table[j]) for j in range(len(x))])
        for i in range(len(x)):
            scores = turned @ turn(q[i, head], table[i]) / math.sqrt(HEAD_DIM)
            out[i, head] = scores.softmax(dim=0) @ v[:, head]
    return module.o_proj(out.flatten(1))


@pytest.mark.parametrize("bias", [True, False])
def test_every_image_of_a_pack_by_hand(bias: bool) -> None:
    module, rope = attention(bias)
    assert (module.q_proj.bias is not None) == bias
    x = torch.randn(NUM_TOKENS, WIDTH)
    expected = []
    for group, images in zip(LAYOUT, LAYOUT.split(x), strict=True):
        table = rope(group.height, group.width, x.device)
        expected += [one_image_by_hand(module, image, table) for image in images]
    torch.testing.assert_close(module(x, LAYOUT, rope), torch.cat(expected), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("image", range(5))
@torch.no_grad()
def test_images_of_a_pack_do_not_affect_one_another(image: int) -> None:
    module, rope = attention()
    owner = torch.tensor([0] * 4 + [1] * 4 + [2] * 16 + [3] * 8 + [4] * 8)
    x = torch.randn(NUM_TOKENS, WIDTH)
    changed = torch.where((owner == image)[:, None], torch.randn(NUM_TOKENS, WIDTH), x)
    before, after = module(x, LAYOUT, rope), module(changed, LAYOUT, rope)
    assert torch.equal(before[owner != image], after[owner != image])
    assert (before - after)[owner == image].abs().amax(dim=1).gt(1e-3).all()
