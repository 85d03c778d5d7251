"""A wheel carries the config groups and the recipes, and gives the command `pixelflow` in any folder."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKED = ("pixelflow/", "conf/", "experiments/", "pyproject.toml", "setup.py", "README.md", "LICENSE")


@pytest.mark.slow
def test_an_installed_wheel(tmp_path: Path) -> None:
    source = tmp_path / "source"  # building must not leave files in the repository
    files = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], check=True, capture_output=True).stdout
    for name in filter(None, files.decode().split("\0")):
        path, copy = ROOT / name, source / name
        if name.startswith(("pixelflow/", "conf/", "experiments/")) or name in (
            "pyproject.toml",
            "setup.py",
            "README.md",
        ):
            copy.parent.mkdir(parents=True, exist_ok=True)
            if path.is_symlink():
                copy.symlink_to(os.readlink(path))
            else:
                copy.write_bytes(path.read_bytes())
    build = "from setuptools import build_meta as b; import sys; b.build_wheel(sys.argv[1])"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=source, env=environment, check=True)
    (wheel,) = tmp_path.glob("*.whl")

    home = tmp_path / "venv"
    venv.create(home, with_pip=False)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(home)}))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = home / "bin" / "python"
    install = ["-m", "pip", "install", "--no-deps", "--no-index", "--ignore-installed", "-q", str(wheel)]
    subprocess.run([python, *install], env=environment, check=True)

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    command = str(home / "bin" / "pixelflow")
    told = subprocess.run([command, "--help"], cwd=elsewhere, env=environment, capture_output=True, text=True)
    assert told.returncode == 0 and "digits_kickoff" in told.stdout and "pixelflow_tiny" in told.stdout, told.stderr
    small = ["job=train", "trainer.max_steps=2", "trainer.device=cpu", "trainer.batch_size=4", "tracking=none"]
    done = subprocess.run([command, *small], cwd=elsewhere, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list(elsewhere.glob("runs/quickstart/*/checkpoints/step_00000002"))) == 1
    wrong = subprocess.run([command + "-evaluate"], cwd=elsewhere, env=environment, capture_output=True, text=True)
    assert wrong.returncode == 2 and "needs one of checkpoint=PATH and samples=" in wrong.stderr
