"""Ctrl-C and kill -9 in real commands: what is saved, what is said, and what the same command does afterwards.

A terminal sends Ctrl-C to its whole process group, so each command runs in a group of its own, which gets the signal.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pixelflow.training.checkpoint import CheckpointStore

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 300.0
"""Seconds that a busy machine may take."""
TRAIN = [
    *("trainer.max_steps=2000", "trainer.batch_size=8", "trainer.save_every=1000", "trainer.log_every=1"),
    *("trainer.grid_every=0", "trainer.warmup_steps=0", "backbone.depth=1", "job=train"),
]
pytestmark = pytest.mark.slow


def start(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(  # type: ignore[call-overload]
        [sys.executable, str(ROOT / "run.py"), *arguments], cwd=cwd, start_new_session=True, **pipes,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def wait_until(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)


def ended(process: subprocess.Popen[str], number: signal.Signals | None = None) -> str:
    """Sends a signal to the group, waits until none of its processes is left, and returns what was said."""
    if number is not None:
        os.killpg(process.pid, number)
    told = process.communicate(timeout=PATIENCE)[1]
    end = time.monotonic() + PATIENCE
    while True:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        assert time.monotonic() < end, "processes are left"
        time.sleep(0.05)
    assert "Traceback" not in told, told
    return told


def records(folder: Path) -> list[int]:
    """The steps of the metrics that are logged so far."""
    lines = [line for file in folder.rglob("metrics.jsonl") for line in file.read_text().splitlines() if "{" in line]
    return [json.loads(line)["step"] for line in lines if line.endswith("}") and '"metrics"' in line]


def status(folder: Path) -> dict:
    (file,) = folder.rglob("status.json")
    return json.loads(file.read_text())


def test_ctrl_c_saves_and_the_second_one_ends_at_once_with_the_save_complete(tmp_path: Path) -> None:
    process = start(*TRAIN, cwd=tmp_path)  # with the MLflow mirror
    wait_until(lambda: records(tmp_path), process)
    told = ended(process, signal.SIGINT)
    now = status(tmp_path)
    assert process.returncode == 130 and now["state"] == "interrupted"
    assert f"error: stopped by Ctrl-C: {now['message']}; the same command continues from there\n" in told
    step = int(now["message"].removeprefix("saved at step ").removesuffix(" of 2000"))
    (folder,) = tmp_path.glob("runs/*/*/checkpoints")
    assert [path.name for path in folder.iterdir()] == [f"step_{step:08d}"]

    process = start(*TRAIN, cwd=tmp_path)
    wait_until(lambda: max(records(tmp_path)) > step + 1, process)
    os.killpg(process.pid, signal.SIGINT)
    assert process.stderr is not None
    said = []
    while "again stops at once" not in (said[-1] if said else ""):
        said.append(process.stderr.readline())
    told = "".join(said) + ended(process, signal.SIGINT if process.poll() is None else None)
    assert "resumed from" in told and process.returncode == 130
    latest, problems = CheckpointStore(folder).latest()
    assert latest is not None and latest.step >= step and problems == []
    assert not list(folder.glob(".*"))


def test_ctrl_c_before_the_first_step(tmp_path: Path) -> None:
    """As soon as the run folder exists: the model is built, and no step is taken."""
    process = start(*TRAIN, "tracking=none", cwd=tmp_path)
    wait_until(lambda: list(tmp_path.glob("runs/*/*/log.txt")), process)
    told = ended(process, signal.SIGINT)
    assert process.returncode == 130 and "stopped by Ctrl-C" in told and records(tmp_path) == []
    assert "last checkpoint" not in told and not list(tmp_path.glob("runs/*/*/checkpoints/*"))
    assert status(tmp_path)["state"] == "interrupted"


@pytest.mark.parametrize("module", ["hydra", "pixelflow.jobs.fetch_assets", "torch", "pixelflow.config.validate"])
def test_ctrl_c_while_it_imports(module: str, tmp_path: Path) -> None:
    """A module of that name sends Ctrl-C as soon as it is imported."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r} and sys.argv[-1:] == ['job=train']:\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    before = os.environ.get("PYTHONPATH", "")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{tmp_path}:{before}")
        process = start(*TRAIN, cwd=tmp_path)
        told = ended(process)
    assert process.returncode in (130, -signal.SIGINT) and told == ""
    assert [path.name for path in tmp_path.iterdir() if path.name != "__pycache__"] == ["sitecustomize.py"]


@pytest.mark.parametrize("launcher", ["basic", "local"])
def test_ctrl_c_stops_the_whole_sweep(launcher: str, tmp_path: Path) -> None:
    sweep = ["-m", *TRAIN, f"hydra/launcher={launcher}", "seed=0,1,2", "tracking=none"]
    process = start(*sweep, cwd=tmp_path)
    wait_until(lambda: records(tmp_path), process)
    told = ended(process, signal.SIGINT)
    assert process.returncode == 130 and "stopped by Ctrl-C" in told
    begun = [path for path in tmp_path.glob("runs/*/*") if (path / "checkpoints").exists()]
    assert len(begun) == 1 and json.loads((begun[0] / "status.json").read_text())["state"] == "interrupted"
    for log in tmp_path.rglob("logs/*.log"):
        assert "Traceback" not in log.read_text()


def test_a_killed_run_is_not_shown_as_running(tmp_path: Path) -> None:
    sweep = ["-m", *TRAIN, "hydra/launcher=local", "seed=0,1", "tracking=none", "site.processes=2"]
    process = start(*sweep, cwd=tmp_path)
    wait_until(lambda: len([1 for file in tmp_path.rglob("metrics.jsonl") if records(file.parent)]) == 2, process)
    (folder,) = tmp_path.glob("runs/*/sweep-*")
    show = [["job=table", f"job.output={tmp_path / 'table'}"], ["job=status", f"sweep={folder}"]]
    ended(during := start(*show[1], cwd=tmp_path))
    assert during.returncode == 0
    ended(process, signal.SIGKILL)
    assert {json.loads(file.read_text())["state"] for file in tmp_path.rglob("status.json")} == {"running"}
    table = start(*show[0], cwd=tmp_path)
    told = "".join(table.communicate(timeout=PATIENCE))
    assert "running" not in told and told.count(": stopped, its process was killed, step ") == 2, told
    after = start(*show[1], cwd=tmp_path)
    told = after.communicate(timeout=PATIENCE)[0]
    assert after.returncode == 1 and "2 lost of 2" in told and told.count("its process was killed") == 2
    assert "running" not in told


PREPARE = ["job=prepare", "data=shapes", "job.output=shards", "job.samples_per_shard=40", "job.workers=2"]


def test_ctrl_c_in_preparation_keeps_the_complete_shards(tmp_path: Path) -> None:
    process = start(*PREPARE, cwd=tmp_path)
    wait_until(lambda: list(tmp_path.glob("shards/done/*.json")), process)
    told = ended(process, signal.SIGINT)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "shards").glob("shard-*.tar")}
    assert process.returncode == 130 and f"stopped by Ctrl-C: {len(kept)} of " in told
    again = start(*PREPARE, cwd=tmp_path)
    wait_until(lambda: len(list(tmp_path.glob("shards/done/*.json"))) > len(kept), again)
    ended(again, signal.SIGINT)
    assert kept.items() <= {path: path.stat().st_mtime_ns for path in (tmp_path / "shards").glob("shard-*.tar")}.items()
