"""Names and paths have one accepted form, and the results of a checkpoint have one place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pixelflow.errors import UserError
from pixelflow.runs.places import FOREIGN, check_name, check_path, check_writable, home_of


@pytest.mark.parametrize("name", ["quickstart", "a", "Table-3_b.2", "x" * 100])
def test_names(name: str) -> None:
    check_name(name, "experiment")


@pytest.mark.parametrize(
    "name", ["", " ", "../x", "a/b", "/a", ".", "..", "-a", ".a", "_a", "a\nb", "a b", "a;b", "ä", "a\0", "x" * 101, "a\n"]
)
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"^experiment=.* must be 1 to 100 letters, digits"):
        check_name(name, "experiment")


@pytest.mark.parametrize("path", ["", "  ", "a\nb", "a\0b", "x" * 256, "a/" + "ä" * 128, "a/" * 2001])
def test_paths_that_are_refused(path: str) -> None:
    with pytest.raises(UserError, match=r"^runs_dir"):
        check_path(path, "runs_dir")
    check_path("a/" + "x" * 255 + "/ä b", "runs_dir")


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    check_writable(str(tmp_path / "new" / "deeper"), "runs_dir")
    for name, reason in [("file", "is not a folder"), ("file/x", "is not a folder"), ("link/x", "does not exist")]:
        with pytest.raises(UserError, match=rf"^runs_dir={tmp_path / name}.*{reason}"):
            check_writable(str(tmp_path / name), "runs_dir")
    with pytest.raises(UserError, match=r"^runs_dir=/proc/nope: /proc does not allow writing"):
        check_writable("/proc/nope", "runs_dir")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]


def checkpoint(folder: Path, content: str = "{}") -> Path:
    folder.mkdir(parents=True)
    (folder / "state.json").write_text(content)
    return folder


def test_a_checkpoint_of_a_run_below_runs_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "runs" / "experiment" / "default-12345678"
    inside = checkpoint(run / "checkpoints" / "step_00000001")
    assert home_of(inside, tmp_path / "runs").parent == tmp_path / "runs" / FOREIGN  # no files of a run
    (run / "config.yaml").write_text("{}")
    assert home_of(inside, tmp_path / "runs") == run
    monkeypatch.chdir(inside)
    assert home_of(".", tmp_path / "runs") == run
    assert home_of(inside, tmp_path / "elsewhere").parent == tmp_path / "elsewhere" / FOREIGN
    monkeypatch.setattr(os, "access", lambda *_: False)  # a colleague's run
    assert home_of(inside, tmp_path / "runs").parent == tmp_path / "runs" / FOREIGN


def test_the_place_of_a_foreign_checkpoint_follows_from_its_content(tmp_path: Path) -> None:
    first = home_of(checkpoint(tmp_path / "a" / "-we ird\n"), tmp_path / "runs")
    copy = home_of(checkpoint(tmp_path / "b" / "-we ird\n"), tmp_path / "runs")
    other = home_of(checkpoint(tmp_path / "c" / "-we ird\n", '{"step": 2}'), tmp_path / "runs")
    assert first == copy != other
    assert first.name.startswith("we-ird-")
    assert not (tmp_path / "runs").exists()
