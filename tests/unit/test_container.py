"""What can be checked of the Dockerfile and the workflow without an engine: instructions, paths, and what they run."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


def instructions() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile and their arguments, in order, without comments."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in joined.splitlines() if line.strip())]


def copied() -> list[str]:
    return [path for name, rest in instructions() if name == "COPY" for path in shlex.split(rest)[:-1]]


def test_only_known_instructions_in_their_order() -> None:
    names = [name for name, _ in instructions()]
    assert set(names) <= {"FROM", "RUN", "WORKDIR", "COPY", "ARG", "USER", "ENTRYPOINT"} and names[0] == "FROM"
    assert names[-2:] == ["USER", "ENTRYPOINT"]


def test_it_runs_run_py_as_a_user_without_rights() -> None:
    last = dict(instructions())
    assert int(last["USER"]) > 0
    assert json.loads(last["ENTRYPOINT"]) == ["python", "run.py"] and "run.py" in copied()
    assert ("ARG", "TORCH=cpu") in instructions()


def test_the_context_holds_what_is_copied_and_little_else() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert rules[0] == "*"
    assert sorted(rule[1:] for rule in rules if rule[0] == "!") == sorted(copied())
    for path in copied():
        assert (ROOT / path).exists()
        assert not any(fnmatch.fnmatch(path, rule) for rule in rules[1:] if rule[0] != "!")


def test_the_extras_that_it_installs_exist() -> None:
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    lists = [extras for _, rest in instructions() for extras in re.findall(r"\.\[(.*?)\]", rest)]
    wanted = [name for extras in lists for name in extras.split(",")]
    assert wanted and set(wanted) <= set(known)


@pytest.mark.parametrize("path", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda path: path.name)
def test_a_workflow_runs_the_checks(path: Path) -> None:
    content = yaml.safe_load(path.read_text())
    (job,) = content["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step][-1] == ".ci/run"
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
