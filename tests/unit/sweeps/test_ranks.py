from __future__ import annotations

import subprocess
import sys
import time

import pytest

from pixelflow.sweeps import ranks as module
from pixelflow.sweeps.ranks import ranks, wait_for_all

FOREVER = "import time; time.sleep(60)"


def start(*scripts: str) -> list[subprocess.Popen[bytes]]:
    return [subprocess.Popen([sys.executable, "-c", script]) for script in scripts]


def test_one_process_has_the_environment_as_it_is() -> None:
    assert ranks({"A": "1"}, 1) == [{"A": "1"}]


@pytest.mark.parametrize(
    ("scripts", "code"),
    [
        (["", ""], 0),
        (["exit(75)", ""], 75),  # only rank 0 reports an interruption
        (["", "exit(3)"], 3),
        (["exit(1)"], 1),
    ],
)
def test_the_status_of_a_task(scripts: list[str], code: int) -> None:
    assert wait_for_all(start(*scripts)) == code


def test_a_killed_process_ends_the_others_at_once() -> None:
    """Rank 0 would otherwise report the lost connection as an error of the run."""
    begin = time.monotonic()
    processes = start(FOREVER, "import os; os.kill(os.getpid(), 9)", FOREVER)
    assert wait_for_all(processes) == -9
    assert time.monotonic() - begin < module.LAST_WORDS / 2
    assert [process.poll() for process in processes] == [-9, -9, -9]


def test_an_error_leaves_the_others_time_to_record_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LAST_WORDS", 2.0)
    processes = start("import time; time.sleep(0.5); exit(7)", "exit(4)", FOREVER)
    assert wait_for_all(processes) == 4
    assert [process.poll() for process in processes] == [7, 4, -9]
