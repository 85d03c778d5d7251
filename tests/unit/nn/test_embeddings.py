from __future__ import annotations

import math

import pytest
import torch

from pixelflow.nn.embeddings import LabelEmbedder, ScalarEmbedder, TimeEmbedder, grid_sincos, sinusoid


@pytest.mark.parametrize("max_period", [10000.0, 10.0])
def test_sinusoid_against_its_formula(max_period: float) -> None:
    values = [0.0, 1.0, 16.0, 999.0]
    got = sinusoid(torch.tensor(values), max_period=max_period)
    assert got.shape == (4, 256)
    for row, value in zip(got, values, strict=True):
        angles = [value * math.exp(-math.log(max_period) * k / 127) for k in range(128)]
        expected = [*(math.cos(a) for a in angles), *(math.sin(a) for a in angles)]
        # Angles up to 999 in float32 are right to about 1e-4.
        torch.testing.assert_close(row, torch.tensor(expected), atol=2e-4, rtol=0)


def test_sinusoid_is_float32_for_any_input_type() -> None:
    for dtype in (torch.int64, torch.float64, torch.float16):
        assert torch.equal(sinusoid(torch.tensor([3, 4], dtype=dtype)), sinusoid(torch.tensor([3.0, 4.0])))


def test_scalar_embedder_is_two_layers_on_the_sinusoid() -> None:
    embedder, values = ScalarEmbedder(width=12), torch.tensor([0.0, 500.5])
    hidden = embedder.linear_1(sinusoid(values))
    torch.testing.assert_close(embedder(values), embedder.linear_2(hidden * hidden.sigmoid()))


def test_label_embedder_has_a_row_for_the_null_label() -> None:
    embedder = LabelEmbedder(num_classes=3, width=4)
    assert embedder(torch.tensor([0, 3])).shape == (2, 4)
    with pytest.raises(IndexError):
        embedder(torch.tensor([4]))


def test_time_embedder_has_the_frequencies_of_jit() -> None:
    embedder, values = TimeEmbedder(width=12), torch.tensor([0.0, 0.3, 1.0])
    angles = values[:, None] * 10000 ** (-torch.arange(128) / 128)
    expected = embedder.mlp(torch.cat([angles.cos(), angles.sin()], dim=1))
    torch.testing.assert_close(embedder(values), expected)
    assert set(embedder.state_dict()) == {f"mlp.{i}.{name}" for i in (0, 2) for name in ("weight", "bias")}


def test_grid_sincos_against_its_formula() -> None:
    table = grid_sincos(2, 3, 8)
    assert table.shape == (6, 8)
    for token in range(6):
        row, col = divmod(token, 3)
        expected = [f(p * 10000 ** (-k / 2)) for p in (col, row) for f in (math.sin, math.cos) for k in range(2)]
        torch.testing.assert_close(table[token], torch.tensor(expected))
