"""Locks between processes, against a second process that holds one."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pixelflow import files
from pixelflow.errors import UserError, WorkFailed
from pixelflow.files import InUse, locked, patient, synced_together, write_json, write_text, writing, written_aside

HOLDER = """
import fcntl, sys
with open(sys.argv[1], "a+") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_that_another_process_holds_is_in_use_until_that_process_ends(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdin is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InUse, match="in use by another process"), locked(path):
            pass
        holder.kill()
        holder.wait()
        with locked(path):
            pass


def test_a_job_that_nobody_watches_waits_for_a_lock_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(files, "POLL", 0.05)
    path = tmp_path / ".lock"
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(InUse), locked(path, patient=True):  # a person who waits gets an answer at once
            pass
        waited: list[float] = []

        def waits(seconds: float) -> bool:
            waited.append(seconds)
            if len(waited) == 5:
                holder.kill()
            return True

        with patient(waits):
            with pytest.raises(InUse), locked(path):
                pass
            with locked(path, patient=True):
                pass
    assert len(waited) >= 5 and waited == sorted(waited)
    assert [record.message for record in caplog.records] == [
        f"{tmp_path} is in use by another process: waiting until it has ended"
    ]
    with locked(path), patient(lambda seconds: False), pytest.raises(InUse), locked(path, patient=True):
        pass


def test_a_filesystem_without_locks_is_named_and_not_taken_for_a_lock_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(UserError, match="does not support file locks") as raised, locked(tmp_path / ".lock"):
        pass
    assert not isinstance(raised.value, InUse)


def test_a_file_that_could_not_be_written_whole_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with written_aside(path) as aside:
        aside.write_text("first")
    with pytest.raises(RuntimeError), written_aside(path) as aside:
        aside.write_text("half of the sec")
        raise RuntimeError
    assert path.read_text() == "first"
    assert list(path.parent.iterdir()) == [path]


def test_two_writers_of_one_file_do_not_share_a_temporary_name(tmp_path: Path) -> None:
    """Processes of two hosts can have the same number; here one process writes the file twice at once."""
    path = tmp_path / "a.txt"
    with written_aside(path) as first:
        first.write_text("first")
        with written_aside(path) as second:
            assert socket.gethostname().partition(".")[0][:32] in second.name
            second.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The names of what is flushed to the disk and of what a file is renamed to, in their order."""
    calls: list[tuple[str, str]] = []
    fsync, replace = os.fsync, Path.replace

    def flush(descriptor: int) -> None:
        fsync(descriptor)
        calls.append(("fsync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))

    def rename(aside: Path, target: Path) -> Path:
        calls.append(("rename", target.name))
        return replace(aside, target)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(Path, "replace", rename)
    return calls


def test_a_file_is_on_the_disk_before_its_name_and_its_name_before_the_call_returns(
    calls: list[tuple[str, str]], tmp_path: Path
) -> None:
    write_json(tmp_path / "folder" / "a.json", {"a": 1})
    (content, rename, folder) = calls
    assert content[0] == "fsync" and content[1].startswith(".a.json.")
    assert [rename, folder] == [("rename", "a.json"), ("fsync", "folder")]
    calls.clear()
    write_json(tmp_path / "folder" / "a.json", {"a": 2}, durable=False)
    assert calls == [("rename", "a.json")]


def test_many_files_are_flushed_together(calls: list[tuple[str, str]], tmp_path: Path) -> None:
    with synced_together():
        for name in "ab":
            write_text(tmp_path / name / "f", name)
            write_text(tmp_path / name / "f", name)
        assert [what for what, _ in calls] == ["rename"] * 4
    assert sorted(calls[4:6]) == [("fsync", "f"), ("fsync", "f")]
    assert sorted(calls[6:]) == [("fsync", "a"), ("fsync", "b")]
    write_text(tmp_path / "c", "c")
    assert len(calls) == 11


@pytest.mark.parametrize(
    ("number", "kind", "message"),
    [
        (errno.ENOSPC, WorkFailed, "out cannot be written: .*; free space there, then run the same command again"),
        (errno.EDQUOT, WorkFailed, "free space"),
        (errno.EROFS, UserError, "out cannot be written: .*; choose another folder"),
        (errno.EIO, WorkFailed, "out cannot be written: .*; check the disk, then run the same command again"),
        (errno.ENOENT, FileNotFoundError, "some reason"),  # of a file that the block reads
    ],
)
def test_a_full_disk_is_named_with_its_remedy(number: int, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message), writing(Path("out"), "run the same command again"):
        raise OSError(number, "some reason")


def test_a_full_disk_while_a_file_is_written_keeps_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_text(tmp_path / "a.txt", "old")

    def full(aside: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(WorkFailed, match=r"a\.txt cannot be written: No space left"):
        write_json(path, {"a": 1})
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_path_that_cannot_be_written_is_a_mistake_of_the_user(tmp_path: Path) -> None:
    file = write_text(tmp_path / "file", "not a folder")
    with pytest.raises(UserError, match=r"lock cannot be written: .*; choose another folder"), locked(file / "lock"):
        pass
    with pytest.raises(UserError, match="inside cannot be written"):
        write_text(file / "inside", "text")
