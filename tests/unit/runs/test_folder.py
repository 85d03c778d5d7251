from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from pixelflow.errors import UserError
from pixelflow.files import write_json, write_text
from pixelflow.runs.folder import RunFolder, find_run_folder

CONFIG = {"experiment": "e", "runs_dir": "", "seed": 0, "solver": {"num_steps": 3}}


def status(path: Path) -> dict:
    return json.loads((path / "status.json").read_text())


def test_writes_what_a_run_is(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run", CONFIG) as folder:
        folder.set_status("running", step=3, max_steps=9)
        logging.getLogger("pixelflow.test").warning("a line")
        folder.set_status("finished")
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text()) == CONFIG
    provenance = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert {"commit", "diff", "versions", "command", "host", "time"} <= set(provenance)
    assert "torch" in provenance["versions"]
    assert "a line" in (tmp_path / "run" / "log.txt").read_text()
    assert status(tmp_path / "run") | {"updated": 0} == {
        "state": "finished", "message": "", "step": 3, "max_steps": 9, "updated": 0,
    }  # fmt: skip


def test_a_failure_leaves_its_traceback_and_state(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), RunFolder(tmp_path, CONFIG):
        raise RuntimeError("it broke")
    assert status(tmp_path)["state"] == "failed"
    assert status(tmp_path)["message"] == "it broke"
    assert "Traceback" in (tmp_path / "log.txt").read_text()


def test_an_interruption_is_no_failure(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), RunFolder(tmp_path, CONFIG):
        raise KeyboardInterrupt
    assert status(tmp_path)["state"] == "interrupted"


def test_one_process_at_a_time(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pixelflow.runs.folder import RunFolder\n"
        f"with RunFolder(Path({str(tmp_path)!r}), {CONFIG!r}): print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None and other.stdout.readline() == "held\n"
    with pytest.raises(ValueError, match="in use by another process"), RunFolder(tmp_path, CONFIG):
        pass
    other.kill()  # a dead process holds nothing
    other.wait()
    with RunFolder(tmp_path, CONFIG):
        pass


def test_a_forked_child_does_not_keep_the_folder(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    with RunFolder(tmp_path, CONFIG):
        child = os.fork()
        if child == 0:  # a data worker that outlives the run
            os.write(writing, b"started")
            time.sleep(60)
            os._exit(0)
    try:
        assert os.read(reading, 7) == b"started"
        with RunFolder(tmp_path, CONFIG):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_other_evaluation_settings_share_the_folder_and_config_yaml_keeps_the_first(tmp_path: Path) -> None:
    with RunFolder(tmp_path, CONFIG):
        pass
    with RunFolder(tmp_path, CONFIG | {"solver": {"num_steps": 9}}) as folder:
        assert folder.config == CONFIG
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == CONFIG


def test_a_damaged_config_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("a: [1")
    with pytest.raises(UserError, match=r"config\.yaml is damaged"), RunFolder(tmp_path, CONFIG):
        pass
    (tmp_path / "config.yaml").unlink()
    with RunFolder(tmp_path, CONFIG):  # the lock was released
        pass


def test_another_config_is_refused(tmp_path: Path) -> None:
    with RunFolder(tmp_path, CONFIG):
        pass
    with RunFolder(tmp_path, CONFIG | {"runs_dir": "elsewhere"}):  # a machine key
        pass
    with pytest.raises(ValueError, match="belongs to another config"), RunFolder(tmp_path, CONFIG | {"seed": 1}):
        pass


def test_found_by_hash_under_any_name(tmp_path: Path) -> None:
    config = CONFIG | {"runs_dir": str(tmp_path)}
    first = find_run_folder(config, "seed-0")
    assert first.name.startswith("seed-0-") and first.parent == tmp_path / "e"
    first.mkdir(parents=True)
    assert find_run_folder(config, "default") == first
    assert find_run_folder(config | {"seed": 1}, "default") != first


def test_writing_replaces_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.json"
    write_json(path, {"a": 1})
    write_text(path, "b")
    assert path.read_text() == "b"
    assert [p.name for p in path.parent.iterdir()] == ["x.json"]
