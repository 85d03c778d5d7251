"""Names of modules in strings point downward, as imports do, and the jobs are a small part of the package.

import-linter reads import statements only. A module can also be named in a string: as the target of `python -m`, of
`importlib.import_module`, or in a docstring.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "pixelflow"
FILES = sorted(PACKAGE.rglob("*.py"))

MAX_SHARE_OF_JOBS = 0.12


def layers() -> dict[str, int]:
    """Returns the rank of each module directly below `pixelflow`; a higher rank is a higher layer."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = [entry for entry in config["tool"]["importlinter"]["contracts"] if entry["type"] == "layers"]
    lowest_first = reversed(contract["layers"])
    return {name.strip(): rank for rank, line in enumerate(lowest_first) for name in re.split(r"[|:]", line)}


RANKS = layers()


def named_modules(source: str) -> list[tuple[int, str]]:
    """Returns (line, module) for each module of the package that a string of `source` names."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            for match in re.finditer(r"(?<![\w.])pixelflow\.([a-z]\w*)", node.value):
                if match[1] in RANKS:
                    found.append((node.lineno, match[1]))
    return found


def upward_names(module: str, source: str) -> list[str]:
    """Returns the names in strings of `module` that point to a layer above it, or to another one beside it."""
    return [
        f"line {line}: {module} names pixelflow.{other}"
        for line, other in named_modules(source)
        if other != module and RANKS[other] >= RANKS[module]
    ]


@pytest.mark.parametrize(
    "source",
    [
        'command = ["python", "-m", "pixelflow.jobs.train"]',
        'command = "python -P -m pixelflow.cli job=train"',
        'importlib.import_module(f"pixelflow.jobs.{name}")',
        'def run():\n    """Starts pixelflow.cli."""',
        'target = "pixelflow.config.build.build_model"',
    ],
)
def test_a_name_in_a_string_that_points_upward_is_found(source: str) -> None:
    assert len(upward_names("sweeps", source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        'command = ["python", "-m", "pixelflow.sweeps.supervisor"]',
        'target = "pixelflow.data.digits.Digits"',
        'plugin = "hydra_plugins.pixelflow.cli"',
        'command = "python run.py job=table"',
    ],
)
def test_a_name_in_a_string_that_points_downward_or_elsewhere_is_allowed(source: str) -> None:
    assert upward_names("sweeps", source) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_names_in_strings_point_downward(path: Path) -> None:
    module = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if module == "__init__":
        pytest.skip("the public API stands above all layers")
    assert upward_names(module, path.read_text(encoding="utf-8")) == []


def test_jobs_are_a_small_part_of_the_package() -> None:
    lines: Counter[str] = Counter()
    for path in FILES:
        lines[path.relative_to(PACKAGE).parts[0]] += len(path.read_text(encoding="utf-8").splitlines())
    assert lines["jobs"] <= MAX_SHARE_OF_JOBS * lines.total()
