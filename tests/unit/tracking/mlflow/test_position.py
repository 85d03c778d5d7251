from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pixelflow.errors import UserError, WorkFailed
from pixelflow.tracking.jsonl import MetricsLog
from pixelflow.tracking.mlflow.position import MirrorState, count_unsent, lock_file, store_settings


def test_settings_are_kept_and_progress_with_them(run_folder: Callable[..., Path]) -> None:
    folder = run_folder("http://host:5000")
    first = replace(MirrorState.load(folder), run_id="abc", offset=7)
    first.save(folder)
    run_folder("http://host:5000", run_name="other")
    assert MirrorState.load(folder) == replace(first, run_name="other")
    assert sorted(path.name for path in folder.iterdir()) == ["mlflow.json"]


@pytest.mark.parametrize("change", [{"uri": "http://other:5000"}, {"experiment": "other"}])
def test_another_place_means_another_run_from_the_first_line_on(tmp_path: Path, change: dict[str, str]) -> None:
    settings = {"uri": "http://host:5000", "experiment": "test"}
    rest = {"folder": tmp_path, "run_name": "run", "parent_run_id": None, "artifact_root": None}
    store_settings(**settings, **rest)  # type: ignore[arg-type]
    first = replace(MirrorState.load(tmp_path), run_id="abc", experiment_id="1", offset=7)
    first.save(tmp_path)
    store_settings(**{**settings, **change}, **rest)  # type: ignore[arg-type]
    assert MirrorState.load(tmp_path) == replace(first, **change, run_id=None, experiment_id=None, offset=0)  # type: ignore[arg-type]


def test_a_relative_sqlite_file_is_stored_absolute(
    run_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    state = MirrorState.load(run_folder("sqlite:///runs/mlflow.db"))
    assert state.uri == f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert state.database == tmp_path / "runs" / "mlflow.db"
    assert MirrorState.load(run_folder("http://host", name="b")).database is None


def test_a_path_is_no_address(run_folder: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match=r"uri='./mlruns' must be an address: sqlite:///FILE"):
        run_folder("./mlruns")


def test_a_folder_that_was_never_mirrored_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="never mirrored"):
        MirrorState.load(tmp_path)


def test_a_failed_save_leaves_the_old_state_whole(
    run_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run_folder("http://host:5000")
    before = (folder / "mlflow.json").read_text()

    write = Path.write_bytes

    def cut(path: Path, content: bytes) -> None:
        write(path, content[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", cut)
    with pytest.raises(WorkFailed, match="No space left on device"):
        replace(MirrorState.load(folder), offset=9).save(folder)
    assert (folder / "mlflow.json").read_text() == before


def test_unsent_counts_the_records_behind_the_offset(run_folder: Callable[..., Path]) -> None:
    folder = run_folder("http://host:5000")
    assert count_unsent(folder) == 0
    with MetricsLog(folder) as log:
        log.metrics({"loss": 1.0}, step=1)
        size = log.path.stat().st_size
        log.metrics({"loss": 1.0}, step=2)
        log.status("FINISHED")
    assert count_unsent(folder) == 3
    replace(MirrorState.load(folder), offset=size).save(folder)
    assert count_unsent(folder) == 2


def test_a_lock_has_one_holder_and_is_free_after_it(tmp_path: Path) -> None:
    holder = lock_file(tmp_path / "lock", wait=False)
    assert holder is not None
    assert lock_file(tmp_path / "lock", wait=False) is None
    holder.close()
    assert lock_file(tmp_path / "lock", wait=True) is not None


def test_a_file_system_without_locks_counts_as_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file, kind) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", refuse)
    assert lock_file(tmp_path / "lock", wait=False) is not None


@pytest.mark.parametrize("text", ["", '{"folder_id": "x", "uri', "[]", '{"uri": "x"}'])
def test_a_damaged_record_is_named_in_a_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "mlflow.json").write_text(text)
    with pytest.raises(UserError, match=r"^.*mlflow\.json is damaged \(.*\); delete it, and the run is sent") as raised:
        MirrorState.load(tmp_path)
    assert "\n" not in str(raised.value)
