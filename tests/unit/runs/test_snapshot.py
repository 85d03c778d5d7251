from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from pixelflow.runs.provenance import provenance
from pixelflow.errors import UserError, WorkFailed
from pixelflow.runs.snapshot import require_complete, take_snapshot


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    (root / "pixelflow").mkdir(parents=True)
    (root / "pixelflow" / "a.py").write_text("x = 1\n")
    (root / "link").symlink_to("pixelflow")
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "-A"], check=True)
    subprocess.run([*git, "commit", "-qm", "first"], check=True)
    return root


def test_an_edit_changes_nothing_in_the_copy(checkout: Path, tmp_path: Path) -> None:
    first = take_snapshot(checkout, tmp_path / "store")
    (checkout / "pixelflow" / "a.py").write_text("x = 2\n")
    assert Path(first.path, "pixelflow", "a.py").read_text() == "x = 1\n"
    assert Path(first.path, "link").is_symlink() and not first.diff
    second = take_snapshot(checkout, tmp_path / "store")
    assert second.path != first.path and "+x = 2" in second.diff
    assert Path(second.path, "pixelflow", "a.py").read_text() == "x = 2\n"


def test_the_same_code_is_copied_once(checkout: Path, tmp_path: Path) -> None:
    assert take_snapshot(checkout, tmp_path / "store") == take_snapshot(checkout, tmp_path / "store")
    assert len(list((tmp_path / "store").iterdir())) == 1


def test_a_run_of_the_copy_names_the_commit_and_the_changes_it_was_made_from(checkout: Path) -> None:
    """Even inside the checkout, whose own state is another by then."""
    (checkout / "pixelflow" / "a.py").write_text("x = 2\n")
    copy = take_snapshot(checkout, checkout / "runs" / ".code")
    (checkout / "pixelflow" / "a.py").write_text("x = 3\n")
    record = provenance(Path(copy.path))
    assert record["commit"] == copy.commit and "+x = 2" in record["diff"] and "x = 3" not in record["diff"]


def test_uncommitted_changes_can_be_refused(checkout: Path, tmp_path: Path) -> None:
    (checkout / "pixelflow" / "a.py").write_text("x = 2\n")
    with pytest.raises(ValueError, match=r"uncommitted changes in pixelflow/a\.py: commit them, or"):
        take_snapshot(checkout, tmp_path / "store", uncommitted="refuse")
    assert not (tmp_path / "store").exists()


def test_what_git_refuses_is_told_apart(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def message(root: Path) -> str:
        with pytest.raises(UserError) as caught:
            take_snapshot(root, tmp_path / "store")
        (line,) = str(caught.value).splitlines()
        return line

    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    (tmp_path / "plain").mkdir()
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    plain = message(tmp_path / "plain")
    assert "plain is no git checkout: clone the project" in plain and "(git: fatal: not a git repository" in plain
    subprocess.run(["git", "init", "-q", tmp_path / "empty"], check=True)
    assert "empty has no commit yet: run `git add -A" in message(tmp_path / "empty")
    (checkout / ".git" / "HEAD").rename(checkout / ".git" / "HEAD.old")
    (checkout / ".git" / "HEAD").write_text("ref: refs/heads/\n")
    assert "(git: fatal: " in message(checkout)
    (checkout / ".git" / "HEAD.old").replace(checkout / ".git" / "HEAD")
    (checkout / ".git" / "config").write_text("[core\n")
    assert "cannot be read by `git rev-parse HEAD`" in message(checkout)
    assert "(git: fatal: bad config line 1 in file" in message(checkout)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own tests use it
    foreign = message(tmp_path / "empty")
    assert f"run `git config --global --add safe.directory {tmp_path}/empty`" in foreign, foreign
    assert "(git: fatal: detected dubious ownership in repository at" in foreign
    monkeypatch.setenv("PATH", str(tmp_path))
    assert message(checkout).startswith("there is no git on this machine")
    assert not (tmp_path / "store").exists()


def test_copied_files_have_the_present_time(checkout: Path, tmp_path: Path) -> None:
    """A file system that removes old files would remove those that were last edited months ago."""
    for path in (checkout / "pixelflow" / "a.py", checkout / "link"):
        os.utime(path, (1e9, 1e9), follow_symlinks=False)
    start = time.time() - 5
    copy = Path(take_snapshot(checkout, tmp_path / "store").path)
    times = {path.name: path.lstat().st_mtime for path in copy.rglob("*")}
    assert {"a.py", "link", ".snapshot.json"} <= times.keys() and min(times.values()) > start, times
    for path in (copy, *copy.rglob("*")):
        os.utime(path, (1e9, 1e9), follow_symlinks=False)
    take_snapshot(checkout, tmp_path / "store")
    assert min(path.lstat().st_mtime for path in (copy, *copy.rglob("*")) if not path.is_dir()) > start
    assert copy.stat().st_mtime > start


def test_a_copy_that_lost_files_is_completed(checkout: Path, tmp_path: Path) -> None:
    first = take_snapshot(checkout, tmp_path / "store")
    copy = Path(first.path)
    before = {path.name: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    require_complete(first)
    (copy / "pixelflow" / "__pycache__").mkdir()  # of a job that ran
    require_complete(first)
    for damage in (
        lambda: shutil.rmtree(copy / "pixelflow"),
        lambda: (copy / "pixelflow" / "a.py").write_text("x = 5\n"),
        lambda: (copy / ".files.sha256").unlink(),
        lambda: (copy / ".snapshot.json").write_text(""),
    ):
        damage()
        with pytest.raises(UserError, match=r"has lost or changed 1 files \((pixelflow/a\.py|\.\w+\.\w+)\): repeat"):
            require_complete(first)
        assert take_snapshot(checkout, tmp_path / "store") == first
        require_complete(first)
        assert {path.name: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before
    (copy / "link").unlink()
    take_snapshot(checkout, tmp_path / "store")
    assert os.readlink(copy / "link") == "pixelflow"


def test_names_and_changes_in_any_encoding(checkout: Path, tmp_path: Path) -> None:
    """git prints the bytes of a file, whatever they are."""
    (checkout / "pixelflow" / "ü b.py").write_bytes(b"# \xfc\n")
    subprocess.run(["git", "-C", str(checkout), "add", "-A"], check=True)
    copy = take_snapshot(checkout, tmp_path / "store")
    assert Path(copy.path, "pixelflow", "ü b.py").read_bytes() == b"# \xfc\n"
    require_complete(copy)
    assert provenance(Path(copy.path))["diff"] == provenance(checkout)["diff"] == copy.diff.strip() != ""


def test_a_full_disk_leaves_no_half_copy(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pixelflow.runs.snapshot.shutil.copy", full)
    with pytest.raises(WorkFailed, match="No space left"):
        take_snapshot(checkout, tmp_path / "store")
    assert list((tmp_path / "store").iterdir()) == []


def test_untracked_code_is_named(checkout: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (checkout / "pixelflow" / "new.py").write_text("")
    take_snapshot(checkout, tmp_path / "store")
    assert "not tracked by git, so not in the jobs' code: pixelflow/new.py" in caplog.text
