"""hydra/launcher=local with small tasks in place of trainings (tests/slurm/task.py)."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from pixelflow.errors import Interrupted, UserError
from pixelflow.runs.attempts import read_attempts
from pixelflow.runs.snapshot import Snapshot
from pixelflow.runs.status import read_status
from pixelflow.sweeps.local import run_batch, share_gpus
from pixelflow.sweeps.manifest import Sweep, SweepJob
from pixelflow.sweeps.plan import plan
from pixelflow.sweeps.program import Program
from pixelflow.sweeps.site import Site
from pixelflow.sweeps.states import sweep_states
from pixelflow.sweeps.submission import submit
from tests.slurm.cluster import wait_for
from tests.slurm.task import undisturbed

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """What a sweep needs of the package."""
    package = tmp_path / "code" / "pixelflow"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    for name in ("runs", "sweeps", "signals.py", "files.py", "errors.py", "limits.py", "terminal.py"):
        (package / name).symlink_to(ROOT / "pixelflow" / name)
    (tmp_path / "code" / "small_task.py").symlink_to(ROOT / "tests" / "slurm" / "task.py")
    return tmp_path / "code"


def give(
    folder: Path,
    code: Path,
    *settings: dict[str, Any],
    processes: int = 2,
    entry: str = "small_task",
    user_paths: Sequence[Path] = (),
    **more: Any,
) -> Sweep:
    sweep = Sweep(folder / "sweep", "e", "d")
    site = Site(processes=processes, max_stalls=2, **more)
    entries = []
    for number, given in enumerate(settings):
        config = {"steps": 10, "seconds": 0.02, "save_every": 2, "job": {"name": "train"}, **given}
        entries.append((SweepJob(f"r{number}", str(folder / f"r{number}"), "train", [], str(number), 10), config))
    program = Program(
        entry=entry, snapshot=Snapshot(str(code), "", ""), user_paths=[str(path) for path in user_paths],
        python=sys.executable, cwd=str(folder),
    )  # fmt: skip
    submit(sweep, plan(entries, site), site, program, launcher="local")
    return sweep


@pytest.mark.slow
def test_runs_end_as_they_should(tmp_path: Path, code: Path) -> None:
    sweep = give(tmp_path, code, {}, {"fails_at": 3}, {"dies_at": 5}, {})
    run_batch(sweep)
    states = sweep_states(sweep)
    assert [state.state for state in states] == ["finished", "failed", "failed", "finished"]
    assert states[1].message == "the loss is not finite" and states[1].failures == 1
    assert read_attempts(tmp_path / "r2").failures == 1 and "without a step of progress" in states[2].message
    assert (tmp_path / "r0" / "result").read_text() == str(undisturbed(10))
    assert "ValueError: the loss is not finite" in (sweep.folder / "logs" / "r1.log").read_text()


def test_a_signal_saves_what_runs_and_starts_nothing_more(tmp_path: Path, code: Path) -> None:
    sweep = give(tmp_path, code, {"seconds": 0.2}, {}, processes=1)

    def stop() -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and sweep_states(sweep)[0].step < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    with pytest.raises(Interrupted, match="2 of 2 runs are left"):
        run_batch(sweep)
    status = json.loads((tmp_path / "r0" / "status.json").read_text())
    assert status["state"] == "interrupted" and status["step"] >= 2
    assert not (tmp_path / "r1" / "pids").exists()


def test_a_task_whose_supervisor_is_killed_saves_and_is_left_for_the_next_command(tmp_path: Path, code: Path) -> None:
    sweep = give(tmp_path, code, {"seconds": 0.2})

    def kill() -> None:
        wait_for(lambda: sweep_states(sweep)[0].step >= 2, 30)
        task = psutil.Process(int((tmp_path / "r0" / "pids").read_text()))
        os.kill(task.ppid(), signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    with pytest.raises(Interrupted, match="1 of 1 runs are left"):
        run_batch(sweep)
    status = read_status(tmp_path / "r0")
    assert status.state == "interrupted" and status.message.startswith("saved at step")


def test_a_task_that_dies_without_a_word_has_failed(tmp_path: Path, code: Path) -> None:
    """An abort in a library, for example of NCCL's watchdog."""
    (tmp_path / "aborts.py").write_text("import os\nos.abort()\n")
    sweep = give(tmp_path, code, {}, entry="aborts", user_paths=[tmp_path])
    run_batch(sweep)
    (state,) = sweep_states(sweep)
    assert state.state == "failed" and state.message == "its process ended with status 134 and no message: see its log"


def test_a_task_that_is_killed_with_its_supervisor_is_left_for_the_next_command(tmp_path: Path, code: Path) -> None:
    sweep = give(tmp_path, code, {"seconds": 0.2})

    def kill() -> None:
        wait_for(lambda: sweep_states(sweep)[0].step >= 2, 30)
        task = psutil.Process(int((tmp_path / "r0" / "pids").read_text()))
        supervisor = task.parent()
        task.suspend()  # it must not save in between
        assert supervisor is not None
        supervisor.kill()
        task.kill()

    threading.Thread(target=kill, daemon=True).start()
    with pytest.raises(Interrupted, match="1 of 1 runs are left"):
        run_batch(sweep)
    (state,) = sweep_states(sweep)
    assert (state.state, state.message) == ("interrupted", "it was killed together with its supervisor")


def test_a_job_imports_the_modules_of_the_user_and_the_frozen_code(tmp_path: Path, code: Path) -> None:
    """The entry is any module; here it is one of the user's, which records where it found the package."""
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "guided.py").write_text("NAME = 'ramp'\n")
    (mine / "entry.py").write_text(
        "import json, sys, guided, pixelflow, pixelflow.runs.status as status\n"
        "from pathlib import Path\n"
        "folder = Path(json.loads(Path(sys.argv[1]).read_text())['folder'])\n"
        "(folder / 'found').write_text(f'{guided.NAME} {pixelflow.__file__}')\n"
        "status.write_status(folder, 'finished', job='train')\n"
    )
    sweep = give(tmp_path, code, {}, entry="entry", user_paths=[mine])
    run_batch(sweep)
    log = (sweep.folder / "logs" / "r0.log").read_text()
    assert [state.state for state in sweep_states(sweep)] == ["finished"], log
    assert (tmp_path / "r0" / "found").read_text() == f"ramp {code / 'pixelflow' / '__init__.py'}"


@pytest.mark.parametrize(("gpus", "seen"), [(1, ["GPU-a", "GPU-b"]), (0, ["GPU-a,GPU-b"] * 2)])
def test_each_job_sees_its_own_gpus(
    gpus: int, seen: list[str], tmp_path: Path, code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where jobs ask for none, they see what the command sees."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    (tmp_path / "entry.py").write_text(
        "import json, os, sys\n"
        "from pathlib import Path\n"
        "from pixelflow.runs.status import write_status\n"
        "folder = Path(json.loads(Path(sys.argv[1]).read_text())['folder'])\n"
        "(folder / 'gpus').write_text(os.environ['CUDA_VISIBLE_DEVICES'])\n"
        "write_status(folder, 'finished', job='train')\n"
    )
    sweep = give(tmp_path, code, {}, {}, entry="entry", user_paths=[tmp_path], gpus_per_node=gpus)
    run_batch(sweep)
    assert [(tmp_path / f"r{number}" / "gpus").read_text() for number in range(2)] == seen


def test_a_job_that_does_not_start_has_failed(tmp_path: Path, code: Path) -> None:
    sweep = give(tmp_path, code, {})
    (code / "pixelflow" / "errors.py").unlink()  # a link to the module
    (code / "pixelflow" / "errors.py").write_text("raise RuntimeError('broken')\n")
    run_batch(sweep)
    (state,) = sweep_states(sweep)
    assert state.state == "failed" and state.message == "it did not start: RuntimeError: broken"


def test_gpus_are_shared_out() -> None:
    four = {"CUDA_VISIBLE_DEVICES": "0,1,2,3,5"}
    assert share_gpus(Site(processes=4, gpus_per_node=2), four) == [["0", "1"], ["2", "3"]]
    assert share_gpus(Site(processes=1, gpus_per_node=2), four) == [["0", "1"]]
    assert share_gpus(Site(processes=2), four) == [[], []]
    assert share_gpus(Site(processes=4, gres="gpu:2"), four) == [["0", "1"], ["2", "3"]]
    with pytest.raises(UserError, match=r"asks for 8 GPUs, and this machine shows 5; use site\.gpus_per_node=5$"):
        share_gpus(Site(gpus_per_node=8), four)
    with pytest.raises(UserError, match=r"shows 0; use site\.gpus_per_node=0 site\.gres=null$"):
        share_gpus(Site(gres="gpu:1"), {"CUDA_VISIBLE_DEVICES": ""})


def test_slices_are_shared_out_as_gpus() -> None:
    slices = {"CUDA_VISIBLE_DEVICES": "MIG-a,MIG-b,MIG-c"}
    assert share_gpus(Site(processes=4, gpus_per_node=1), slices) == [["MIG-a"], ["MIG-b"], ["MIG-c"]]


RECORDER = """
import json, os, sys
from pathlib import Path
from pixelflow.runs.status import write_status
folder = Path(json.loads(Path(sys.argv[1]).read_text())['folder'])
rank = os.environ.get('RANK', '0')
names = ('WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT', 'CUDA_VISIBLE_DEVICES', 'OF_SITE', 'LOADEDMODULES')
found = {name: os.environ.get(name) for name in names}
(folder / f'rank-{rank}').write_text(json.dumps(found | {'path': sys.path, 'cwd': os.getcwd()}))
if rank == '0':
    write_status(folder, 'finished', job='train')
"""
"""The entry of a job that records its environment."""


def recorded(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("rank-*"))]


def test_a_job_has_as_many_processes_as_its_site_says(
    tmp_path: Path, code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They meet at one port of this machine, which no other job uses, and share the GPUs of their job."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    (tmp_path / "recorder.py").write_text(RECORDER)
    sweep = give(tmp_path, code, {}, {}, entry="recorder", user_paths=[tmp_path], gpus_per_node=2)
    run_batch(sweep)
    runs = [recorded(tmp_path / f"r{number}") for number in range(2)]
    assert [[rank["LOCAL_RANK"] for rank in run] for run in runs] == [["0", "1"]] * 2
    assert {rank["WORLD_SIZE"] for run in runs for rank in run} == {"2"}
    assert [{rank["CUDA_VISIBLE_DEVICES"] for rank in run} for run in runs] == [{"0,1"}, {"2,3"}]
    ports = [{(rank["MASTER_ADDR"], rank["MASTER_PORT"]) for rank in run} for run in runs]
    assert len(ports[0]) == len(ports[1]) == 1 and ports[0] != ports[1]


def test_the_sites_lines_and_the_users_modules_reach_a_job(
    tmp_path: Path, code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`module` is a function of the user's shell, as on a cluster."""
    monkeypatch.setenv("BASH_FUNC_module%%", '() {  export LOADEDMODULES="$LOADEDMODULES:$2"\n}')
    monkeypatch.setenv("LOADEDMODULES", "python/3.11")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "of the user"))
    (tmp_path / "recorder.py").write_text(RECORDER)
    setup = ["module load cuda/12", "export OF_SITE='a b'", f"export PYTHONPATH={tmp_path}/site:$PYTHONPATH"]
    run_batch(give(tmp_path, code, {}, entry="recorder", user_paths=[tmp_path], setup=setup))
    (job,) = recorded(tmp_path / "r0")
    assert job["OF_SITE"] == "a b" and job["LOADEDMODULES"] == "python/3.11:cuda/12" and job["WORLD_SIZE"] is None
    assert job["path"][:4] == [str(code), str(tmp_path), f"{tmp_path}/site", f"{tmp_path}/of the user"]
    assert job["cwd"] == str(tmp_path)


def test_a_line_of_the_site_that_ends_the_job_is_its_failure(tmp_path: Path, code: Path) -> None:
    sweep = give(tmp_path, code, {}, setup=["echo the licence server is away >&2; exit 3"])
    run_batch(sweep)
    (state,) = sweep_states(sweep)
    assert (state.state, state.message) == ("failed", "it did not start: the licence server is away")
