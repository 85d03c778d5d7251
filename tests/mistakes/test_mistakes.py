"""Every line of the corpus is refused as it says, in one process, and leaves nothing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.mistakes.corpus import Case, read_corpus
from tests.mistakes.runner import Runner

CORPUS = read_corpus()
QUICK = 8
"""The quick suite runs every eighth line; `make mistakes` and the slow tests run all."""


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    return Runner(Path(tmp_path_factory.mktemp("mistakes")) / "corpus")


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case.line, marks=[pytest.mark.slow] if number % QUICK else [])
        for number, case in enumerate(CORPUS)
    ],
)
def test_mistake(case: Case, runner: Runner) -> None:
    assert not (problems := runner.run(case).problems()), problems


def test_every_line_is_there_once() -> None:
    lines = Counter(case.line for case in CORPUS)
    assert not [line for line, count in lines.items() if count > 1]
    assert len(lines) >= 250


def test_a_command_that_is_accepted_is_a_problem(runner: Runner) -> None:
    outcome = runner.run(Case("none", "trainer.max_steps=1 tracking=none", 2, "."))
    assert outcome.traceback and outcome.left and "began to train" in outcome.problems()


def test_foreign_code_is_seen(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    def hostile(name: str) -> None:
        import os

        import evil  # type: ignore[import-not-found]

        os.system("true")
        Path("left").write_text("x")
        print(os.environ["SECRET"])
        evil.Part()

    monkeypatch.setattr("tests.mistakes.runner.main", hostile)
    outcome = runner.run(Case("none", "x=1", 2, "."))
    assert outcome.left == ["work/left"]
    assert [event.split()[0] for event in outcome.executed] == ["import", "open", "os.system", "open", "the"]
    assert "shows an environment variable" in outcome.problems()
