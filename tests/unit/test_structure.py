"""Limits on the files of the package: no import cycles, distinct names, short files and short argument lists."""

from __future__ import annotations

import ast
import graphlib
import re
from collections import defaultdict
from pathlib import Path

import grimp
import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "pixelflow"
FILES = sorted(PACKAGE.rglob("*.py"))

MAX_LINES = 400
MAX_ARGUMENTS = 12

SAME_NAMES = {
    "__init__.py": "every package has one",
    "settings.py": "the settings of sampling and the settings of training",
    "status.py": "a job's file has the name of the job; runs/status.py is the record that job=status shows",
    "table.py": "a job's file has the name of the job; reporting/table.py is the table that job=table writes",
}
"""Basenames that may occur more than once, with the reason."""


def test_there_is_no_import_cycle_between_files() -> None:
    graph = grimp.build_graph("pixelflow", cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"import cycle: {' imports '.join(reversed(error.args[1]))}")


def test_no_two_files_have_the_same_name() -> None:
    places = defaultdict(list)
    for path in FILES:
        places[path.name].append(str(path.relative_to(PACKAGE)))
    assert {name: paths for name, paths in places.items() if len(paths) > 1 and name not in SAME_NAMES} == {}


def test_no_file_is_longer_than_400_lines() -> None:
    lines = {str(path.relative_to(PACKAGE)): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {name: count for name, count in lines.items() if count > MAX_LINES} == {}


def test_locks_are_taken_in_one_file() -> None:
    """`pixelflow.files` has the only lock helper."""
    takers = [path.name for path in FILES if re.search(r"import (fcntl|filelock)|from filelock", path.read_text())]
    assert takers == ["files.py"]


def test_no_constructor_takes_more_than_12_arguments() -> None:
    """A frozen dataclass is exempt: it is a record of values, and the remedy for a long argument list."""
    counts = {}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                counts[f"{path.relative_to(PACKAGE)}: {node.name}"] = constructor_arguments(node)
    assert {name: count for name, count in counts.items() if count > MAX_ARGUMENTS} == {}


def constructor_arguments(node: ast.ClassDef) -> int:
    """Returns the number of arguments of `__init__`, written or made by a dataclass that is not frozen."""
    for method in node.body:
        if isinstance(method, ast.FunctionDef) and method.name == "__init__":
            arguments = method.args
            return len([*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]) - 1
    decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
    if any("dataclass" in text and "frozen=True" not in text for text in decorators):
        return sum(isinstance(statement, ast.AnnAssign) for statement in node.body)
    return 0
