from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from pixelflow.config.build import trainer_settings
from pixelflow.config.training_parts import checkpoint_store
from pixelflow.processes import World
from pixelflow.workflows.train_run import train
from tests.conf.test_compose import composed


def test_where_training_is_done_what_comes_after_it_is_not_told_twice(tmp_path: Path) -> None:
    """A pipeline that was interrupted in its evaluation, which logs for the last step."""
    config = composed("trainer.keep_checkpoints=1", "trainer.max_steps=6")
    last = checkpoint_store(trainer_settings(config), tmp_path).path(6)
    last.mkdir(parents=True)
    steps: list[int] = []
    run: Any = SimpleNamespace(path=tmp_path, tracker=SimpleNamespace(resume_from=steps.append))
    assert train(config, run, World(), torch.device("cpu")) == last
    assert steps == [6]
