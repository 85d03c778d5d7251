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
