from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pixelflow.errors import Interrupted
from pixelflow.metrics.accumulate import Parts, accumulate
from pixelflow.processes import World
from pixelflow.signals import stop_on_signals


def test_a_stop_before_the_first_image_is_an_interruption(tmp_path: Path) -> None:
    """Metrics of no images would be an error, which marks the run as failed instead of continuing it."""
    suite: Any = SimpleNamespace(num_samples=0)
    with stop_on_signals():
        os.kill(os.getpid(), signal.SIGUSR2)
        with pytest.raises(Interrupted, match="0 of 4 images are measured"):
            accumulate(World(), suite, Parts(tmp_path), lambda *args, **how: 1 / 0, missing=range(4), count=4)
