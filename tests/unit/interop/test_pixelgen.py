from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pixelflow.errors import UserError
from pixelflow.interop import read_lightning_weights

STATE = {"ema_denoiser.a.weight": torch.ones(2), "denoiser.a.weight": torch.zeros(2), "other.b": torch.ones(1)}


def test_prefixes_are_told_apart(tmp_path: Path) -> None:
    torch.save({"state_dict": STATE, "global_step": 3}, tmp_path / "a.ckpt")
    assert {k: v.tolist() for k, v in read_lightning_weights(tmp_path / "a.ckpt").items()} == {"a.weight": [1, 1]}
    assert read_lightning_weights(tmp_path / "a.ckpt", "model")["a.weight"].tolist() == [0, 0]


class Unsafe:
    """An object whose code a checkpoint must not be able to run."""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {"other.b": torch.ones(1)}}, r"holds no ema_denoiser\.\* tensors"),
        ([1, 2], r"holds no ema_denoiser"),
        ({"state_dict": STATE, "hyper_parameters": Unsafe()}, r"cannot be read as a checkpoint of plain tensors"),
    ],
)
def test_anything_else_is_refused(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(UserError, match=message):
        read_lightning_weights(tmp_path / "a.ckpt")


def test_a_truncated_or_missing_file_is_named(tmp_path: Path) -> None:
    torch.save({"state_dict": STATE}, tmp_path / "a.ckpt")
    with open(tmp_path / "a.ckpt", "r+b") as stream:
        stream.truncate(200)
    for name in ("a.ckpt", "b.ckpt"):
        with pytest.raises(UserError, match=f"{name} cannot be read"):
            read_lightning_weights(tmp_path / name)
