"""The examples in docstrings and the Python blocks of the README and docs/ run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import sys
from pathlib import Path

import pytest

import pixelflow
from tests import forked
from tests.docs.commands import PAGES, ROOT, python_examples, quoted_files

RUN = re.compile(r"runs/quickstart/default-[0-9a-f]{8}")
EXAMPLES = [page for page in PAGES if python_examples(page)]


def with_examples() -> list[str]:
    """Modules whose source holds a prompt of the interpreter."""
    modules = pkgutil.walk_packages(pixelflow.__path__, "pixelflow.")
    files = {module.name: ROOT / f"{module.name.replace('.', '/')}.py" for module in modules if not module.ispkg}
    return sorted(name for name, file in files.items() if ">>> " in file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", with_examples())
def test_examples_in_docstrings(name: str) -> None:
    results = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert results.attempted and not results.failed


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two training steps, in place of the quickstart's."""
    runs = tmp_path_factory.mktemp("runs")
    less = ["trainer.max_steps=2", "trainer.batch_size=8", "trainer.grid_every=0", "tracking=none", f"runs_dir={runs}"]
    done = forked.call("run.py", "job=train", *less)
    assert done.returncode == 0, done.stderr
    return next(runs.glob("*/*/checkpoints")).parent


@pytest.mark.parametrize("page", EXAMPLES, ids=lambda page: page.name)
def test_python_blocks_of_a_page(page: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page run one after the other in one namespace."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    namespace: dict[str, object] = {"__name__": page.stem}
    for text in python_examples(page):
        exec(compile(RUN.sub(str(run), text), page.name, "exec"), namespace)


def test_the_files_quoted_in_extending_are_those_of_the_tested_package() -> None:
    quoted = quoted_files(ROOT / "docs" / "extending.md")
    assert len(quoted) == 5
    for name, text in quoted.items():
        assert text == (ROOT / "tests" / "outside" / name).read_text(encoding="utf-8")
