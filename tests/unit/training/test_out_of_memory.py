from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pixelflow.errors import WorkFailed
from tests.unit.training.test_trainer import make_trainer


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory")])
def test_out_of_memory_names_the_shapes_and_what_to_lower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(*_: object) -> None:
        raise error

    trainer = make_trainer(tmp_path)
    monkeypatch.setattr(trainer.optimizer_step, "forward", full)
    with pytest.raises(WorkFailed) as found:
        trainer.fit()
    message = str(found.value)
    shapes = "a forward pass of 8 images, 4x4 tokens (4 px), 4x16 tokens (8 px)"
    assert message.startswith(f"out of memory at step 1: {shapes}")
    for remedy in (" accumulate=2", " activation_checkpointing=selective", " precision=bf16"):
        assert remedy in message
