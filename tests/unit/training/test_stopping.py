from __future__ import annotations

from pathlib import Path

import pytest

from pixelflow.errors import Interrupted
from pixelflow.training.checkpoint import CheckpointStore
from tests.unit.training.test_trainer import make_trainer, train


def test_a_stop_before_the_first_step_takes_none(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, save_every=5, max_steps=10)
    trainer.hooks.stop = lambda: True
    trainer.hooks.log = lambda metrics, step: pytest.fail("a step")
    with pytest.raises(Interrupted, match="before the first step, so nothing is saved"):
        trainer.fit()
    assert CheckpointStore(tmp_path).steps() == []
    train(tmp_path, save_every=5, max_steps=5)
    trainer.resume()
    with pytest.raises(Interrupted, match="at step 5, which is saved"):
        trainer.fit()


def test_what_killed_processes_left_is_removed_and_a_replaced_checkpoint_comes_back(tmp_path: Path) -> None:
    for name in (".step_00000005.removed", ".step_00000010.4711", ".step_00000015.replaced"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "ema.safetensors").write_bytes(b"")
    CheckpointStore(tmp_path).tidy()
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000015"]
