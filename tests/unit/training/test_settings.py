from __future__ import annotations

from typing import Any

import pytest

from pixelflow.training.settings import TrainerSettings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_steps": 0}, "max_steps=0 must be at least 1"),
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"log_every": 0}, "log_every=0 must be at least 1"),
        ({"keep_checkpoints": 0}, "keep_checkpoints=0 must be at least 1"),
        ({"save_every": -1}, "save_every=-1 must be at least 0"),
        ({"warmup_steps": -1}, "warmup_steps=-1 must be at least 0"),
        ({"max_bad_steps": 0}, "max_bad_steps=0 must be at least 1"),
        ({"keep_every": -1}, "keep_every=-1 must be at least 0"),
        ({"stall_seconds": 0.0}, "stall_seconds=0.0 must be above 0"),
        ({"batch_size": 10, "accumulate": 4}, "accumulate=4 must divide batch_size=10"),
        ({"grad_clip": 0.0}, "grad_clip=0.0 must be above 0, or null for none"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainerSettings(**({"max_steps": 10, "batch_size": 8} | settings))
