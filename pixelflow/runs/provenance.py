"""Where a result comes from: commit, uncommitted changes, versions, command, machine."""

from __future__ import annotations

import importlib.metadata
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pixelflow.runs.snapshot import snapshot_record

PACKAGES = ("torch", "torchvision", "numpy", "hydra-core", "mlflow", "torch-fidelity", "scikit-learn", "safetensors")


def versions() -> dict[str, str]:
    """Of Python and of the packages that can change a result."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def provenance(root: Path) -> dict[str, Any]:
    """A record of this process. root: the checkout whose commit is recorded; null where it is none."""
    copied = snapshot_record(root)
    return {
        "command": shlex.join([Path(sys.executable).name, *sys.argv]),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "host": platform.node(),
        "commit": copied["commit"] if copied else _git(root, "rev-parse", "HEAD"),
        "diff": copied["diff"].strip() if copied else _git(root, "diff", "HEAD"),
        "versions": versions(),
    }


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
