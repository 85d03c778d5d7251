"""Folders of config options, runs and sweeps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.mistakes.given.models import Models


def recipe(folder: Path, text: str, models: Models) -> Path:
    """A folder for `--config-dir` with the recipe `given`: the text, in YAML."""
    return _option(folder, "experiments", f"# @package _global_\n{text}")


def option(folder: Path, text: str, models: Models) -> Path:
    """A folder for `--config-dir` with the option `given` of a group; the text is `GROUP YAML`."""
    group, _, content = text.partition(" ")
    return _option(folder, group, content)


def file(folder: Path, text: str, models: Models) -> Path:
    """A text file."""
    (folder / "file").write_text(text, encoding="utf-8")
    return folder / "file"


def empty(folder: Path, text: str, models: Models) -> Path:
    """An empty folder."""
    return folder


def missing(folder: Path, text: str, models: Models) -> Path:
    """A path where nothing is."""
    return folder / (text or "missing")


def manifest(folder: Path, text: str, models: Models) -> Path:
    """The folder of a sweep whose manifest is this text."""
    (folder / "manifest.json").write_text(text, encoding="utf-8")
    return folder


def sweep(folder: Path, text: str, models: Models) -> Path:
    """The folder of a sweep without runs, with a key of its manifest replaced: `KEY=JSON`."""
    content = {"experiment": "x", "digest": "0", "axes": [], "paper": [], "mlflow": {}}
    key, _, value = text.partition("=")
    if key:
        content[key] = json.loads(value)
    return manifest(folder, json.dumps(content), models)


def submitted(folder: Path, text: str, models: Models) -> Path:
    """The folder of a sweep with a submission of no runs, one of whose files is replaced: `FILE=TEXT`."""
    name, _, content = text.partition("=")
    words = ("token", "user", "host", "command", "launcher", "commit", "snapshot")
    record = dict.fromkeys(words, "x") | {"time": 0.0, "uncommitted": False}
    place = sweep(folder, "", models) / "submissions" / "x"
    place.mkdir(parents=True)
    for file, whole in {"submission.json": json.dumps(record), "runs.json": "[]"}.items():
        (place / file).write_text(content if file == name else whole, encoding="utf-8")
    return folder


def runs(folder: Path, text: str, models: Models) -> Path:
    """The folder of runs with the trained run, one of whose files is replaced: `FILE=TEXT`."""
    copied = Path(shutil.copytree(models.runs, folder / "runs"))
    name, _, content = text.partition("=")
    if name:
        (run,) = copied.glob("*/*")
        (run / name).write_text(content, encoding="utf-8")
    return copied


def _option(folder: Path, group: str, content: str) -> Path:
    (folder / group).mkdir(parents=True)
    (folder / group / "given.yaml").write_text(content.replace("\\n", "\n"), encoding="utf-8")
    return folder
