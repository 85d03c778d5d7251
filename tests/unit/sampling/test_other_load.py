from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import pytest

from pixelflow.processes import World
from pixelflow.sampling.other_load import Stretch, Watch, other_load
from pixelflow.sampling.produce import Made
from pixelflow.sampling.shared import work_in_shares
from pixelflow.signals import stop_on_signals


def work_for_a_second(sample_ids: Sequence[int], *, on_batch: Callable[[int], None], stop: Callable[[], bool]) -> Made:
    time.sleep(1)
    return Made(len(sample_ids), seconds=1.0)


def test_a_busy_program_beside_the_job_is_load() -> None:
    """A core that is always busy counts as one, and as at least a half where the machine has more to do."""
    busy = subprocess.Popen([sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE)
    try:
        assert busy.stdout is not None and busy.stdout.readline()
        with stop_on_signals():  # forgets a signal of an earlier test
            made = work_in_shares(World(), [0, 1], work_for_a_second).made
    finally:
        busy.kill()
        busy.wait()
    assert made.other_load is not None and made.other_load > 0.5
    assert made.per_image([])["other_load"] == made.other_load and made.per_image([])["images_timed"] == 2


def test_the_work_of_the_process_is_its_own() -> None:
    watch, end = Watch(), time.process_time() + 0.5
    while time.process_time() < end:
        pass
    stretch = watch.read()
    assert stretch.own == pytest.approx(0.5, abs=0.1) and stretch.wall >= 0.4


def test_the_processes_of_the_job_are_subtracted_on_each_machine() -> None:
    shares = [Stretch("a", 10, 30, 10), Stretch("a", 10, 30, 5), Stretch("b", 10, 12, 10)]
    assert other_load(shares) == pytest.approx(3 - 1.5)
    assert other_load(shares[2:]) == pytest.approx(0.2)
    assert other_load([Stretch("a", 10, 9, 10)]) == 0  # clocks of different grain
    assert other_load([Stretch("a", 0, 0, 0)]) == 0


def test_images_that_were_not_drawn_in_shares_have_no_load() -> None:
    assert "other_load" not in Made(2, seconds=1.0).per_image([])
