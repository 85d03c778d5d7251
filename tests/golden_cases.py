"""Where the golden cases of the parity tests are. A case is a folder or a file; its name is its id."""

from __future__ import annotations

from pathlib import Path

import pytest

DEFAULT = Path(__file__).parent / "golden"


def golden_dir(config: pytest.Config) -> Path:
    """The folder given by --golden-dir, or the project's own copy."""
    path = Path(config.getoption("golden_dir") or DEFAULT)
    if not path.is_dir():
        raise pytest.UsageError(f"--golden-dir {path} is not a folder")
    return path


def golden_files(config: pytest.Config, pattern: str) -> list[Path]:
    """Files whose name matches, sorted."""
    return sorted(path for path in golden_dir(config).glob(pattern) if path.is_file())


def golden_cases(config: pytest.Config, pattern: str) -> list[Path]:
    """Folders whose name matches, sorted."""
    return sorted(path for path in golden_dir(config).glob(pattern) if path.is_dir())
