"""Locates the golden cases of the parity tests, and skips the parts that a case does not hold.

A case is a folder or a file whose name is its id. It is compared in everything that it holds: a missing part (a
sampler, a loss term, a table) is skipped with a reason that names the part and the case, and never fails.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from tests.comparison import assert_all_close

DEFAULT = Path(__file__).parent / "golden"


def golden_dir(config: pytest.Config) -> Path:
    """Returns the folder given by --golden-dir, by default the copies stored in tests/golden."""
    path = Path(config.getoption("golden_dir") or DEFAULT)
    if not path.is_dir():
        raise pytest.UsageError(f"--golden-dir {path} is not a folder")
    return path


def golden_files(config: pytest.Config, pattern: str) -> list[Path]:
    """Returns the files whose name matches, sorted."""
    return sorted(path for path in golden_dir(config).glob(pattern) if path.is_file())


def golden_cases(config: pytest.Config, pattern: str) -> list[Path]:
    """Returns the folders whose name matches, sorted."""
    return sorted(path for path in golden_dir(config).glob(pattern) if path.is_dir())


def stored_cases(pattern: str) -> list[Path]:
    """Returns the folders stored in tests/golden whose name matches, for the tests of the comparison itself."""
    return sorted(path for path in DEFAULT.glob(pattern) if path.is_dir())


def load_golden(folder: Path) -> dict[str, Tensor]:
    """Returns the tensors of a case; none if the file is missing."""
    path = folder / "golden.safetensors"
    return load_file(path) if path.is_file() else {}


def tensor_names(folder: Path) -> list[str]:
    """Returns the names of the tensors of a case without reading them, sorted; none if the file is missing."""
    path = folder / "golden.safetensors"
    if not path.is_file():
        return []
    with safe_open(path, framework="pt") as file:
        return sorted(file.keys())


def need(case: str, held: Container[str], names: Iterable[str], part: str) -> None:
    """Skips the test if the case does not hold all of `names`, which `part` is computed from."""
    if missing := [name for name in names if name not in held]:
        pytest.skip(f"{case} does not hold {part}: no {', '.join(missing[:3])}{' ...' if len(missing) > 3 else ''}")


def compare(case: str, actual: Mapping[str, Tensor], golden: Mapping[str, Tensor], tolerance: float, part: str) -> None:
    """Compares the results that the case holds; skips the test if it holds none of them."""
    held = {name: value for name, value in actual.items() if name in golden}
    if not held:
        pytest.skip(f"{case} does not hold {part}: no {next(iter(actual), 'result')}")
    assert_all_close(held, golden, tolerance)
