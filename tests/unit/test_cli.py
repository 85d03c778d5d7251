"""The errors that the command shortens, their exit statuses, and the places where it looks for options."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pixelflow import signals
from pixelflow.cli import BUG, DEBUG, explained, report
from pixelflow.conf_dir import option_files
from pixelflow.config.search_path import config_folders
from pixelflow.config.sections import check_types
from pixelflow.errors import Interrupted, UserError, WorkFailed
from pixelflow.jobs import find_job
from pixelflow.runs.folder import RunFolder
from tests.conf.test_compose import composed


def raising(error: BaseException):
    def work() -> None:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (UserError("seed=x"), 2, "error: seed=x\n"),
        (WorkFailed("the disk is full"), 1, "error: the disk is full\n"),
        (
            Interrupted("saved at step 3"),
            75,
            "error: stopped by a request: saved at step 3; the same command",
        ),
        (KeyboardInterrupt(), 130, "error: stopped by Ctrl-C; the same command does what is not done yet\n"),
    ],
)
def test_short(
    error: BaseException,
    status: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(signals, "_received", None)
    with pytest.raises(SystemExit) as end:
        explained(raising(error))
    told = capsys.readouterr().err
    assert end.value.code == status and told.startswith(message) and "Traceback" not in told


@pytest.mark.parametrize(
    ("number", "name", "status"), [(signal.SIGINT, "Ctrl-C", 130), (signal.SIGTERM, "SIGTERM", 75)]
)
def test_the_signal_is_named_and_a_person_is_told_apart(
    number: signal.Signals, name: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signals, "_received", number)
    message = f"stopped by {name}: saved at step 3; the same command continues from there"
    assert report(Interrupted("saved at step 3")) == (message, status)


@pytest.mark.parametrize("error", [ValueError("x"), OSError("x"), KeyError("x"), AssertionError()])
def test_everything_else_is_a_bug(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        explained(raising(error))
    told = capsys.readouterr().err
    assert end.value.code == 1 and "Traceback" in told and type(error).__name__ in told and BUG in told
    with pytest.raises(type(error)):
        explained(raising(error), outermost=False)


def test_a_bug_names_the_log_of_its_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        with RunFolder(tmp_path / "run", {"experiment": "x", "seed": 0}):
            raise KeyError("x")

    with pytest.raises(SystemExit):
        explained(work)
    log = tmp_path / "run" / "log.txt"
    assert capsys.readouterr().err.splitlines()[-1] == f"{BUG} It is also in {log}"
    assert "KeyError" in log.read_text(encoding="utf-8")


@pytest.mark.parametrize("override", ["trainer=5", "job=null"])
def test_a_value_error_of_hydra_is_a_mistake(override: str) -> None:
    with pytest.raises(ValueError) as caught:
        composed(override)
    message, status = report(caught.value)
    assert (
        message is not None and message.startswith("Config group override must be a string or a list") and status == 2
    )


def test_debug_shows_the_traceback_as_well(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(DEBUG, "1")
    with pytest.raises(SystemExit):
        explained(raising(UserError("seed=x")))
    told = capsys.readouterr().err
    assert "Traceback" in told and told.endswith("error: seed=x\n") and BUG not in told


def test_folders_of_the_user_are_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "backbone").mkdir(parents=True)
        (tmp_path / name / "backbone" / f"{name}.yaml").write_text("_target_: x.Y\n")
    arguments = ["run.py", "--config-dir", str(tmp_path / "one"), f"hydra.searchpath=[file://{tmp_path / 'two'}]"]
    monkeypatch.setattr("sys.argv", arguments)
    assert config_folders()[1:] == [tmp_path / "one", tmp_path / "two"]
    assert {"one", "two", "pixelflow_tiny"} <= set(option_files("backbone", config_folders()))


def test_output_that_nothing_reads_ends_the_command_silently() -> None:
    """As in `python run.py --help | head`: the reader has ended before the first line is written."""
    reader, writer = os.pipe()
    os.close(reader)
    run = Path(__file__).parents[2] / "run.py"
    done = subprocess.run([sys.executable, run, "--help"], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


HEAVY = (
    "torch", "torchvision", "mlflow", "matplotlib", "sklearn", "scipy", "pandas", "optuna", "transformers", "timm",
    "lpips", "webdataset", "PIL", "tqdm",
)  # fmt: skip
"""Modules that take from tenths of a second to seconds to import."""


def test_a_value_of_the_wrong_type_is_reported_before_anything_heavy_is_imported() -> None:
    code = (
        "import runpy, sys\n"
        "sys.argv = ['run.py', 'trainer.max_steps=abc']\n"
        "try:\n    runpy.run_path('run.py', run_name='__main__')\n"
        f"finally:\n    print(sorted(set(sys.modules) & {set(HEAVY)}))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "error: trainer.max_steps='abc': must be a valid integer\n")
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("section", "value", "message"),
    [
        ("trainer", {"max_steps": "abc"}, "trainer.max_steps='abc': must be a valid integer"),
        ("sampler", {"num_samples": 1.5}, "sampler.num_samples=1.5: must be a valid integer"),
        ("job", {"name": "prepare", "quality": "high"}, "job.quality='high': must be a valid integer"),
    ],
)
def test_types_are_checked_first(section: str, value: dict, message: str) -> None:
    options = find_job("prepare").options
    with pytest.raises(UserError, match=message):
        check_types({section: value}, options)
    check_types({"trainer": {"unknown": 3, "max_steps": "${seed}"}, "sampler": None}, options)


def test_another_broken_pipe_is_a_bug(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        explained(raising(BrokenPipeError("of a worker")))
    assert end.value.code == 1 and BUG in capfd.readouterr().err
