from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from pixelflow.training.checkpoint import CheckpointError, CheckpointStore
from pixelflow.training.weights import check_name, init_from, read_weights
from tests.tiny import tiny_pixelflow


def saved(folder: Path) -> Path:
    """A run of 8 steps with snapshots: every weight of the power average at step t is t."""
    weights = tiny_pixelflow(seed=1).state_dict()
    for step in (4, 8):
        flat = {name: torch.full_like(value, float(step)) for name, value in weights.items()}
        CheckpointStore(folder / "snapshots", keep=None).save(step, {"power_0.05": flat, "power_0.1": flat}, {})
    return CheckpointStore(folder / "checkpoints").save(8, {"model": weights, "ema": weights, "ema_0.9": weights}, {})


def test_weights_by_name(tmp_path: Path) -> None:
    path = saved(tmp_path)
    for name in ("model", "ema", "ema_0.9"):
        weights, step = read_weights(path, name)
        assert step == 8 and set(weights) == set(tiny_pixelflow().state_dict())
    rebuilt, step = read_weights(path, "posthoc_0.08")
    assert step == 8 and all(4 < value.mean() < 9 for value in rebuilt.values())
    exact, _ = read_weights(path, "posthoc_0.1")  # one that is stored
    assert all(torch.allclose(value, torch.tensor(8.0)) for value in exact.values())


def test_weights_that_are_not_there(tmp_path: Path) -> None:
    path = saved(tmp_path)
    with pytest.raises(CheckpointError, match=r"has no weights called ema_0.5; it has ema, ema_0.9, model"):
        read_weights(path, "ema_0.5")
    alone = CheckpointStore(tmp_path / "b" / "checkpoints").save(8, {"model": {}}, {})
    with pytest.raises(CheckpointError, match=r"weights=posthoc_0.1: 0 snapshots"):
        read_weights(alone, "posthoc_0.1")


@pytest.mark.parametrize("name", ["best", "ema_", "posthoc", "power_x", "posthoc_0.9"])
def test_names_that_mean_nothing(name: str) -> None:
    with pytest.raises(ValueError, match=r"must be 'ema' or 'model'|must be in \(0, 0.28\]"):
        check_name(name)


def test_another_patch_size_takes_what_fits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = saved(tmp_path)
    model, theirs = tiny_pixelflow(seed=2, patch_size=4), tiny_pixelflow(seed=1).state_dict()
    fresh = {name: value.clone() for name, value in model.state_dict().items()}
    with caplog.at_level(logging.INFO, logger="pixelflow"):
        init_from(model, path)
    differing = [name for name, value in model.state_dict().items() if value.shape != theirs[name].shape]
    assert differing == ["patch_embed.proj.weight", "proj_out_2.weight", "proj_out_2.bias"]
    for name, value in model.state_dict().items():
        assert torch.equal(value, fresh[name] if name in differing else theirs[name])
    shapes = "(16, 1, 2, 2) in the checkpoint, (16, 1, 4, 4) in this backbone"
    assert f"not copied: patch_embed.proj.weight ({shapes})" in caplog.text
    assert caplog.text.count("not copied") == 3


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="0 of 2 tensors fit this backbone; missing: bias, weight; left over"):
        init_from(torch.nn.Linear(2, 2), saved(tmp_path))


def test_weights_of_another_width_are_refused_although_a_few_fit(tmp_path: Path) -> None:
    wider = tiny_pixelflow(seed=2, num_heads=4)
    fresh = {name: value.clone() for name, value in wider.state_dict().items()}
    with pytest.raises(
        CheckpointError, match=r"[1-9]\d* of \d+ tensors fit this backbone; of another shape: .* instead of"
    ):
        init_from(wider, saved(tmp_path))
    assert all(torch.equal(value, fresh[name]) for name, value in wider.state_dict().items())


def test_a_deeper_network_takes_the_blocks_that_exist(tmp_path: Path) -> None:
    deeper = tiny_pixelflow(seed=2, depth=6)
    init_from(deeper, saved(tmp_path))
    theirs = tiny_pixelflow(seed=1).state_dict()
    assert all(torch.equal(deeper.state_dict()[name], value) for name, value in theirs.items())
