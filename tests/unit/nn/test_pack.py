from __future__ import annotations

import pytest
import torch

from pixelflow.nn.pack import Layout


def test_groups_are_consecutive() -> None:
    layout = Layout.of([torch.zeros(3, 1, 4, 4), torch.zeros(1, 1, 8, 4), torch.zeros(2, 1, 16, 16)], patch_size=2)
    assert [(g.images, g.tokens) for g in layout] == [
        (slice(0, 3), slice(0, 12)),
        (slice(3, 4), slice(12, 20)),
        (slice(4, 6), slice(20, 148)),
    ]
    assert [(g.height, g.width, g.length, g.num_images) for g in layout] == [
        (2, 2, 4, 3),
        (4, 2, 8, 1),
        (8, 8, 64, 2),
    ]


def test_split_and_join_are_inverse() -> None:
    layout = Layout.of([torch.zeros(3, 1, 4, 4), torch.zeros(2, 1, 8, 8)], patch_size=2)
    tokens = torch.randn(12 + 32, 5, 7)
    parts = layout.split(tokens)
    assert [part.shape for part in parts] == [(3, 4, 5, 7), (2, 16, 5, 7)]
    assert torch.equal(parts[1][1, 0], tokens[12 + 16])
    assert torch.equal(layout.join(parts), tokens)


def test_split_copies_nothing() -> None:
    layout = Layout.of([torch.zeros(3, 1, 4, 4), torch.zeros(2, 1, 8, 8)], patch_size=2)
    tokens = torch.zeros(44, 3)
    layout.split(tokens)[1][0, 0] = 1
    assert tokens[12].eq(1).all()


def test_per_image_values_apply_to_all_tokens_of_their_image() -> None:
    layout = Layout.of([torch.zeros(2, 1, 4, 4), torch.zeros(1, 1, 4, 8)], patch_size=2)
    tokens, scale, shift = torch.randn(16, 3), torch.randn(3, 3), torch.randn(3, 3)
    got = layout.per_image(lambda x, a, b: x * a + b, tokens, scale, shift)
    owner = torch.tensor([0] * 4 + [1] * 4 + [2] * 8)
    assert torch.equal(got, tokens * scale[owner] + shift[owner])


@pytest.mark.parametrize("shape", [(2, 1, 6, 8), (2, 1, 8, 6)])
def test_a_size_that_the_patches_do_not_divide_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=f"images of {shape[2]}x{shape[3]} cannot be cut into patches of 4x4"):
        Layout.of([torch.zeros(1, 1, 8, 8), torch.zeros(shape)], patch_size=4)


def test_tokens_before_each_image() -> None:
    layout = Layout.of([torch.zeros(3, 1, 4, 4), torch.zeros(2, 1, 8, 8)], patch_size=2)
    longer = layout.with_prefix(5)
    assert [(g.images, g.tokens, g.length, g.prefix) for g in longer] == [
        (slice(0, 3), slice(0, 27), 9, 5),
        (slice(3, 5), slice(27, 69), 21, 5),
    ]
    tokens = torch.randn(69, 2)
    assert [part.shape for part in longer.split(tokens)] == [(3, 9, 2), (2, 21, 2)]
    assert torch.equal(longer.join(longer.split(tokens)), tokens)
    assert longer.with_prefix(0) == layout
