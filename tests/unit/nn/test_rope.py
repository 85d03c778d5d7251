from __future__ import annotations

import pytest
import torch

from pixelflow.nn.rope import Rope2D, rope_table, rotate

HEIGHT, WIDTH, HEAD_DIM = 3, 5, 8


def rotate_as_complex_numbers(x: torch.Tensor, theta: float = 10000.0) -> torch.Tensor:
    """(b, L, heads, head_dim), pairs are complex numbers that are rotated by their angle."""
    half = HEAD_DIM // 2
    angles = torch.zeros(HEIGHT * WIDTH, HEAD_DIM // 2, dtype=torch.float64)
    for token in range(HEIGHT * WIDTH):
        row, col = divmod(token, WIDTH)
        for j in range(half // 2):
            frequency = theta ** (-2 * j / half)
            angles[token, j] = col * frequency
            angles[token, half // 2 + j] = row * frequency
    turn = torch.polar(torch.ones_like(angles), angles)[:, None]
    pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * turn).flatten(-2)


@pytest.mark.parametrize("theta", [10000.0, 50.0])
def test_rotation_is_complex_multiplication(theta: float) -> None:
    x = torch.randn(2, HEIGHT * WIDTH, 3, HEAD_DIM)
    got = rotate(x, rope_table(HEIGHT, WIDTH, HEAD_DIM, theta=theta))
    torch.testing.assert_close(got.double(), rotate_as_complex_numbers(x, theta), atol=1e-6, rtol=0)


def test_attention_depends_only_on_the_difference_of_positions() -> None:
    """The defining property of a rotary embedding: q.k is the same for any pair of tokens at the same distance."""
    table = rope_table(HEIGHT, WIDTH, HEAD_DIM)
    q, k = torch.randn(2, 1, 1, 1, HEAD_DIM).expand(2, 1, HEIGHT * WIDTH, 1, HEAD_DIM)
    scores = (rotate(q, table)[0, :, 0] @ rotate(k, table)[0, :, 0].T).view(HEIGHT, WIDTH, HEIGHT, WIDTH)
    torch.testing.assert_close(scores[0, 0, 1, 2], scores[1, 2, 2, 4])
    torch.testing.assert_close(scores[0, 3, 2, 1], scores[0, 4, 2, 2])
    assert not torch.allclose(scores[0, 0, 1, 2], scores[0, 0, 2, 1])


def test_the_first_token_is_not_rotated() -> None:
    x = torch.randn(1, HEIGHT * WIDTH, 1, HEAD_DIM)
    assert torch.equal(rotate(x, rope_table(HEIGHT, WIDTH, HEAD_DIM))[:, 0], x[:, 0])


def test_dtype_is_kept() -> None:
    x = torch.randn(1, HEIGHT * WIDTH, 1, HEAD_DIM).bfloat16()
    assert rotate(x, rope_table(HEIGHT, WIDTH, HEAD_DIM)).dtype == torch.bfloat16


def test_tables_are_made_once_by_resolution() -> None:
    rope, device = Rope2D(head_dim=HEAD_DIM), torch.device("cpu")
    assert rope(3, 5, device) is rope(3, 5, device)
    assert rope(5, 3, device).shape == (15, HEAD_DIM, 2)
    assert not torch.equal(rope(3, 5, device), rope(5, 3, device))
    assert not rope.state_dict()


@pytest.mark.parametrize("head_dim", [6, 7, 10])
def test_a_head_dimension_not_divisible_by_four_is_refused(head_dim: int) -> None:
    with pytest.raises(ValueError, match=f"head_dim={head_dim} must be divisible by 4"):
        Rope2D(head_dim=head_dim)


def test_row_first_swaps_the_axes() -> None:
    column, row = rope_table(HEIGHT, WIDTH, HEAD_DIM), rope_table(HEIGHT, WIDTH, HEAD_DIM, row_first=True)
    assert torch.equal(row, torch.cat([column[:, HEAD_DIM // 2 :], column[:, : HEAD_DIM // 2]], dim=1))
    assert not torch.equal(row, column)


def test_tokens_before_the_image_are_not_rotated() -> None:
    table = Rope2D(head_dim=HEAD_DIM)(HEIGHT, WIDTH, torch.device("cpu"), prefix=3)
    x = torch.randn(1, 3 + HEIGHT * WIDTH, 1, HEAD_DIM)
    turned = rotate(x, table)
    assert torch.equal(turned[:, :3], x[:, :3])
    assert torch.equal(turned[:, 3:], rotate(x[:, 3:], rope_table(HEIGHT, WIDTH, HEAD_DIM)))
