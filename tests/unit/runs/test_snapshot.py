from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pixelflow.runs.provenance import provenance
from pixelflow.errors import WorkFailed
from pixelflow.runs.snapshot import take_snapshot


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


def test_no_git(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no git checkout"):
        take_snapshot(tmp_path, tmp_path / "store")


def test_a_full_disk_leaves_no_half_copy(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pixelflow.runs.snapshot.shutil.copy2", full)
    with pytest.raises(WorkFailed, match="No space left"):
        take_snapshot(checkout, tmp_path / "store")
    assert list((tmp_path / "store").iterdir()) == []


def test_untracked_code_is_named(checkout: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (checkout / "pixelflow" / "new.py").write_text("")
    take_snapshot(checkout, tmp_path / "store")
    assert "not tracked by git, so not in the jobs' code: pixelflow/new.py" in caplog.text
