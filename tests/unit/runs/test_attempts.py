from __future__ import annotations

from pathlib import Path

from pixelflow.runs.status import held, write_status
from pixelflow.runs.attempts import Attempts, read_attempts, record


def start(folder: Path, step: int, token: str = "a") -> None:
    record(folder, "start", token=token, step=step, job="1", node="n1")


def end(folder: Path, step: int, outcome: str) -> None:
    record(folder, "end", step=step, exit=1, outcome=outcome)


def test_nothing_happened_yet(tmp_path: Path) -> None:
    assert read_attempts(tmp_path / "nowhere") == Attempts()


def test_failures_count_until_somebody_asks_to_try_again(tmp_path: Path) -> None:
    for token in "ab":
        start(tmp_path, 0, token)
        end(tmp_path, 3, "failed")
    assert read_attempts(tmp_path).failures == 2
    record(tmp_path, "retry")
    assert read_attempts(tmp_path).failures == 0


def test_restarts_are_those_of_one_submission(tmp_path: Path) -> None:
    for token in "aaab":
        start(tmp_path, 0, token)
        end(tmp_path, 1, "interrupted")
    assert (read_attempts(tmp_path).restarts, read_attempts(tmp_path, "a").restarts) == (0, 2)


def test_deaths_with_progress_between_them_are_no_stall(tmp_path: Path) -> None:
    for step in (0, 10, 20):
        start(tmp_path, step)
        end(tmp_path, step + 10, "killed")
    assert read_attempts(tmp_path).stalls == 1  # the last death alone: its next start has not shown progress yet


def test_deaths_without_progress_are_stalls(tmp_path: Path) -> None:
    for _ in range(3):
        start(tmp_path, 5)
        end(tmp_path, 5, "killed")
    assert read_attempts(tmp_path).stalls == 3


def test_a_start_without_an_end_is_a_death_too(tmp_path: Path) -> None:
    """The node went, and what watches over the task with it."""
    for _ in range(3):
        start(tmp_path, 5)
    assert read_attempts(tmp_path).stalls == 2
    start(tmp_path, 9)
    assert read_attempts(tmp_path).stalls == 0


def test_an_interruption_is_no_stall(tmp_path: Path) -> None:
    for _ in range(5):
        start(tmp_path, 5)
        end(tmp_path, 5, "interrupted")
    assert read_attempts(tmp_path).stalls == 0


def test_a_line_that_a_crash_cut_is_passed_over(tmp_path: Path) -> None:
    start(tmp_path, 0)
    with (tmp_path / "attempts.jsonl").open("a") as file:
        file.write('{"event": "en')
    assert read_attempts(tmp_path).restarts == 0


def test_a_status_keeps_how_far_the_run_is(tmp_path: Path) -> None:
    write_status(tmp_path, "running", step=4, max_steps=9)
    write_status(tmp_path, "interrupted", "gone")
    text = (tmp_path / "status.json").read_text()
    assert '"step": 4' in text and '"state": "interrupted"' in text


def test_one_holder(tmp_path: Path) -> None:
    with held(tmp_path) as first, held(tmp_path) as second:
        assert first and not second
