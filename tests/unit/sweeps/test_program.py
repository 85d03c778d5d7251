from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from pixelflow.runs.snapshot import Snapshot, take_snapshot
from pixelflow.sweeps.program import Program, user_paths


def test_the_folders_of_the_user_are_those_of_neither_python_nor_packages_nor_the_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout, library, current = tmp_path / "checkout", tmp_path / "library", tmp_path / "current"
    for folder in (checkout, library, current):
        folder.mkdir()
    monkeypatch.chdir(current)
    of_python = [sysconfig.get_path("stdlib"), f"{sysconfig.get_path('stdlib')}/lib-dynload",
                 sysconfig.get_path("purelib"), os.path.dirname(sys.executable)]  # fmt: skip
    paths = ["", *of_python, str(checkout), str(library), str(library), str(tmp_path / "missing")]
    assert user_paths(paths, checkout) == [str(current), str(library)]


def test_a_program_is_read_as_it_was_written(tmp_path: Path) -> None:
    program = Program.of_this_process("the.entry", Snapshot("/code", "abc", "+1"), tmp_path)
    program.save(tmp_path)
    assert Program.load(tmp_path) == program
    assert program.command("the.entry", "file") == [sys.executable, "-P", "-m", "the.entry", "file"]


def test_the_frozen_code_comes_before_the_modules_of_the_user() -> None:
    paths = {"user_paths": ["/mine", "/other"], "python": "python", "cwd": "/a b"}
    program = Program(entry="e", snapshot=Snapshot("/code", "", ""), **paths)
    assert program.python_path("/third", "") == "/code:/mine:/other:/third"
    installed = Program(entry="e", snapshot=Snapshot("", "", ""), **paths)
    assert installed.python_path() == "/mine:/other"
    nothing = Program(entry="e", snapshot=Snapshot("", "", ""), **paths | {"user_paths": []})
    assert nothing.set_up(["true"]) == ["cd '/a b'", "true"]


def test_what_a_site_and_the_users_environment_add_to_pythonpath_stays(tmp_path: Path) -> None:
    """A folder of packages that is no part of this Python, as a module of the cluster sets it."""
    (tmp_path / "a b").mkdir()
    program = Program(
        entry="e", snapshot=Snapshot("/code", "", ""), user_paths=[], python="", cwd=str(tmp_path / "a b")
    )
    lines = [*program.set_up(["export PYTHONPATH=/module:$PYTHONPATH"]), 'echo "$PYTHONPATH"', "pwd"]
    done = subprocess.run(["bash", "-c", "\n".join(lines)], env={"PYTHONPATH": "/users/site-packages"},
                          capture_output=True, text=True)  # fmt: skip
    assert done.stdout.split("\n")[:2] == ["/code:/module:/users/site-packages", str(tmp_path / "a b")]


@pytest.mark.parametrize(
    ("lost", "names"),
    [(["a.py"], "a.py"), (["a.py", "b c.py"], "a.py b c.py"), ([".files.sha256"], "all files"), (["."], "all files")],
)
def test_a_job_whose_code_is_not_complete_says_so_before_python_imports_other_code(
    lost: list[str], names: str, tmp_path: Path
) -> None:
    for name in ("a.py", "b c.py", "d.py"):
        (tmp_path / "checkout" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "checkout" / name).write_text(f"name = '{name}'\n")
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"]):
        subprocess.run(["git", "-C", str(tmp_path / "checkout"), *command], check=True)
    snapshot = take_snapshot(tmp_path / "checkout", tmp_path / "the store")
    program = Program(entry="e", snapshot=snapshot, user_paths=[], python="", cwd=str(tmp_path))

    def start() -> subprocess.CompletedProcess[str]:
        script = "\n".join([*program.set_up(["true"]), "echo started"])
        return subprocess.run(["bash", "-c", script], capture_output=True, text=True)

    assert (start().returncode, start().stdout, start().stderr) == (0, "started\n", "")
    for name in lost:
        path = Path(snapshot.path, name)
        path.unlink() if path.is_file() else shutil.rmtree(path)
    done = start()
    assert (done.returncode, done.stdout) == (1, "")
    message = f"{snapshot.path}, the frozen code, has lost or changed {names}"
    assert done.stderr.startswith(message) and "repeat the sweep's own command" in done.stderr
    assert len(done.stderr.splitlines()) == 1
