"""The provenance of a result: commit, uncommitted changes, versions, command, machine, and the user's own code."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pixelflow.runs.snapshot import snapshot_record

DISTRIBUTION = "pixelflow"
PACKAGES = (
    "torch", "torchvision", "numpy", "hydra-core", "mlflow", "torch-fidelity", "scikit-learn", "safetensors", "pillow",
    "simplejpeg",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that can change a result."""
    found = {"python": platform.python_version()}
    return found | {package: version for package in PACKAGES if (version := _version(package))}


def provenance(root: Path, modules: Sequence[str] = ()) -> dict[str, Any]:
    """Returns a record of the code, the command and the machine of this process.

    Args:
        root: The folder that holds the package `pixelflow`: a checkout, a copy of one, or the folder of installed
            packages. Commit and diff are None where git does not track the package there; `version` is that of the
            installed package, None where none is installed.
        modules: Modules outside this package that the result depends on; see `named_modules`.
    """
    copied = snapshot_record(root)
    commit, diff = (copied["commit"], copied["diff"].strip()) if copied else _checkout(root / DISTRIBUTION)
    return {
        "command": shlex.join([Path(sys.executable).name, *sys.argv]),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "host": platform.node(),
        "version": _version(DISTRIBUTION),
        "commit": commit,
        "diff": diff,
        "versions": versions(),
        "modules": {name: _module_record(name) for name in modules},
    }


def named_modules(config: Mapping[str, Any]) -> list[str]:
    """Returns the modules outside this package that the `_target_` keys of a config name, sorted.

    Examples:
        >>> named_modules({"backbone": {"_target_": "mylib.nets.Unet"}, "ema": {"_target_": "pixelflow.training.Ema"}})
        ['mylib.nets']
    """
    targets = {target for target in _targets(config) if target.split(".")[0] != DISTRIBUTION}
    return sorted({target.rpartition(".")[0] for target in targets} - {""})


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        if isinstance(target := node.get("_target_"), str):
            yield target
        node = node.values()
    elif not isinstance(node, list | tuple):
        return
    for entry in node:
        yield from _targets(entry)


def _module_record(name: str) -> dict[str, Any]:
    """Distribution and version of an installed module; commit and diff, or a hash, of one that lies in a folder."""
    file = _source(name)
    distribution = _distribution(name.split(".")[0], file)
    commit, diff = _checkout(file.parent if file.name == "__init__.py" else file) if file else (None, None)
    return {
        "distribution": distribution,
        "version": _version(distribution) if distribution else None,
        "file": str(file) if file else None,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest() if file and file.is_file() else None,
        "commit": commit,
        "diff": diff,
    }


def _source(name: str) -> Path | None:
    """The file of a module, or of the nearest parent: the last part of a name may be a class."""
    while name:
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            spec = None
        if spec is not None:
            return Path(spec.origin) if spec.origin and spec.has_location else None
        name = name.rpartition(".")[0]
    return None


def _distribution(package: str, file: Path | None) -> str | None:
    """The distribution that holds a package; one of the same name is tried first, since reading all takes a second."""
    try:
        named = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        named = None
    if named is not None and file is not None and file.is_relative_to(str(named.locate_file(package))):
        return named.name
    return next(iter(importlib.metadata.packages_distributions().get(package, [])), None)


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _checkout(path: Path) -> tuple[str | None, str | None]:
    """Commit and diff of the checkout that tracks `path`. Installed packages may lie in a checkout without being it."""
    if not _git(path.parent, "ls-files", "--", path.name):
        return None, None
    return _git(path.parent, "rev-parse", "HEAD"), _git(path.parent, "diff", "HEAD")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        command = ["git", "-C", str(folder), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
