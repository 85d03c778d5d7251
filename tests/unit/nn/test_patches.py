from __future__ import annotations

import itertools

import torch

from pixelflow.nn.patches import BottleneckPatchEmbed, PatchEmbed, patchify, unpatchify

P = 2
X = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(0))


def test_patchify_against_a_loop() -> None:
    got = patchify(X, P)
    assert got.shape == (2, 6, 12)
    for b, row, col in itertools.product(range(2), range(2), range(3)):
        patch = X[b, :, row * P : (row + 1) * P, col * P : (col + 1) * P]
        assert torch.equal(got[b, row * 3 + col], patch.flatten())  # (channel, row, col)


def test_unpatchify_against_a_loop() -> None:
    patches = torch.randn(2, 6, P * P * 3)
    got = unpatchify(patches, P, 2, 3)
    assert got.shape == (2, 3, 4, 6)
    for b, row, col in itertools.product(range(2), range(2), range(3)):
        patch = patches[b, row * 3 + col].view(P, P, 3)  # (row, col, channel)
        assert torch.equal(got[b, :, row * P : (row + 1) * P, col * P : (col + 1) * P], patch.permute(2, 0, 1))


def test_unpatchify_undoes_patchify_up_to_the_order_inside_a_patch() -> None:
    patches = patchify(X, P).unflatten(-1, (3, P, P)).permute(0, 1, 3, 4, 2).flatten(2)
    assert torch.equal(unpatchify(patches, P, 2, 3), X)


def test_patch_embedding_equals_the_convolution_of_its_weights() -> None:
    embed = PatchEmbed(patch_size=P, in_channels=3, width=8)
    expected = embed.proj(X).flatten(2).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(embed(patchify(X, P).flatten(0, 1)), expected)


def test_the_bottleneck_embedding_is_two_convolutions() -> None:
    patches = patchify(X, P).flatten(0, 1)
    for bottleneck in (None, 4):
        embed = BottleneckPatchEmbed(patch_size=P, in_channels=3, width=8, bottleneck_dim=bottleneck)
        h = embed.proj1(X)
        h = h if embed.proj2 is None else embed.proj2(h)
        expected = h.flatten(2).transpose(1, 2).flatten(0, 1)
        torch.testing.assert_close(embed(patches), expected)
        assert (embed.proj1.bias is None) == (bottleneck is not None)
