"""Tests that the config groups are found."""

from __future__ import annotations

from pathlib import Path

import pytest

from pixelflow import conf_dir


def test_a_checkout_has_them_beside_the_package():
    assert (conf_dir.conf_folder() / "backbone" / "pixelflow_tiny.yaml").is_file()


def test_an_installed_package_has_them_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(conf_dir, "_PACKAGE", tmp_path / "pixelflow")
    (tmp_path / "conf").mkdir()
    assert conf_dir.conf_folder() == tmp_path / "conf"
    (tmp_path / "pixelflow" / "conf").mkdir(parents=True)
    assert conf_dir.conf_folder() == tmp_path / "pixelflow" / "conf"
