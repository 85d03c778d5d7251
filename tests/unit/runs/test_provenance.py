"""Provenance, against git itself and packages that the test writes."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from pixelflow.runs.provenance import named_modules, provenance


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's package in a folder of its own, which can be imported."""
    folder = tmp_path / "theirs"
    (folder / "their_nets").mkdir(parents=True)
    (folder / "their_nets" / "__init__.py").write_text("")
    (folder / "their_nets" / "unet.py").write_text("width = 1\n")
    monkeypatch.syspath_prepend(str(folder))
    for name in ("their_nets", "their_nets.unet"):  # of another test's folder
        sys.modules.pop(name, None)
    importlib.invalidate_caches()
    return folder


def commit(folder: Path) -> str:
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "first")
    return git(folder, "rev-parse", "HEAD")


def test_the_users_package_is_recorded_with_its_commit_and_its_changes(package: Path, tmp_path: Path) -> None:
    head = commit(package)
    file = package / "their_nets" / "unet.py"
    file.write_text("width = 2\n")
    # A class within a class: the nearest module counts.
    record = provenance(tmp_path, ["their_nets.unet.Net"])["modules"]["their_nets.unet.Net"]
    assert record["commit"] == head and "-width = 1\n+width = 2" in record["diff"]
    assert record["file"] == str(file) and record["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert record["distribution"] is None


def test_code_without_git_is_recorded_by_its_hash(package: Path, tmp_path: Path) -> None:
    record = provenance(tmp_path, ["their_nets.unet"])["modules"]["their_nets.unet"]
    assert (record["commit"], record["diff"], record["version"]) == (None, None, None)
    assert record["sha256"] == hashlib.sha256(b"width = 1\n").hexdigest()


def test_an_installed_module_is_recorded_with_its_distribution(tmp_path: Path) -> None:
    record = provenance(tmp_path, ["yaml.loader"])["modules"]["yaml.loader"]
    assert record["distribution"].lower() == "pyyaml"
    assert record["version"] == importlib.metadata.version("pyyaml")


def test_a_distribution_of_the_same_name_is_found_without_reading_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for torch.optim, which most recipes name: all distributions of an environment take a second to read."""
    known = importlib.metadata.packages_distributions()["torch"]
    monkeypatch.setattr(importlib.metadata, "packages_distributions", lambda: pytest.fail("all of them were read"))
    record = provenance(tmp_path, ["torch.optim"])["modules"]["torch.optim"]
    assert [record["distribution"]] == known and record["version"] == importlib.metadata.version("torch")


def test_a_users_package_with_the_name_of_a_distribution_is_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "theirs" / "psycopg").mkdir(parents=True)
    (tmp_path / "theirs" / "psycopg" / "__init__.py").write_text("")
    installed = tmp_path / "installed" / "psycopg-9.9.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: psycopg\nVersion: 9.9\n")
    for folder in ("installed", "theirs"):
        monkeypatch.syspath_prepend(str(tmp_path / folder))
    record = provenance(tmp_path, ["psycopg"])["modules"]["psycopg"]
    assert record["file"] == str(tmp_path / "theirs" / "psycopg" / "__init__.py") and record["version"] is None


def test_a_module_that_is_gone_is_no_error(tmp_path: Path) -> None:
    record = provenance(tmp_path, ["nowhere.at.all"])["modules"]["nowhere.at.all"]
    assert set(record.values()) == {None}


def test_packages_installed_inside_a_users_checkout_have_no_commit(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("site-packages\n")
    (tmp_path / "site-packages" / "pixelflow").mkdir(parents=True)
    (tmp_path / "site-packages" / "pixelflow" / "__init__.py").write_text("")
    head = commit(tmp_path)
    assert provenance(tmp_path / "site-packages")["commit"] is None
    (tmp_path / "pixelflow").mkdir()
    (tmp_path / "pixelflow" / "__init__.py").write_text("")
    git(tmp_path, "add", "pixelflow")
    assert provenance(tmp_path)["commit"] == head


def test_modules_that_a_config_names() -> None:
    config = {
        "backbone": {"_target_": "their_nets.unet.Unet", "block": {"_target_": "their_nets.blocks.Block"}},
        "objective": {"terms": [{"_target_": "pixelflow.losses.FlowMatching"}, {"_target_": "other.Loss"}]},
        "seed": 0,
    }
    assert named_modules(config) == ["other", "their_nets.blocks", "their_nets.unet"]
