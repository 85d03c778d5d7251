"""Runs the corpus and prints the counts: `python -m tests.mistakes [TEXT]`, with TEXT for the lines that hold it."""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.mistakes.corpus import read_corpus
from tests.mistakes.runner import Outcome, Runner

COLUMNS = ("tried", "refused well", "poor message", "traceback", "left something", "executed something")


def counts(outcome: Outcome) -> dict[str, int]:
    """Returns 0 or 1 for each of `COLUMNS`."""
    bad = outcome.traceback or bool(outcome.left) or bool(outcome.executed)
    values = (
        1, not bad and not outcome.poor, bool(outcome.poor) and not outcome.traceback, outcome.traceback,
        bool(outcome.left), bool(outcome.executed),
    )  # fmt: skip
    return {name: int(value) for name, value in zip(COLUMNS, values, strict=True)}


def table(outcomes: Sequence[Outcome]) -> str:
    """Returns the counts by kind as a table in Markdown."""
    kinds: dict[str, Counter[str]] = {}
    for outcome in outcomes:
        for kind in (outcome.case.kind.partition(":")[0], "all"):
            kinds.setdefault(kind, Counter()).update(counts(outcome))
    kinds["all"] = kinds.pop("all")
    lines = ["| kind | " + " | ".join(COLUMNS) + " |", "|---|" + "---:|" * len(COLUMNS)]
    lines += [f"| {kind} | " + " | ".join(str(count[name]) for name in COLUMNS) + " |" for kind, count in kinds.items()]
    return "\n".join(lines)


def run_all(text: str = "") -> int:
    """Runs the lines that contain `text`, prints what is wrong and the table; returns the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        runner, outcomes = Runner(Path(folder) / "corpus"), []
        for case in read_corpus():
            if text in case.line or text in case.kind:
                outcomes.append(runner.run(case))
                if problems := outcomes[-1].problems():
                    print(problems, file=sys.stderr, flush=True)
    print(table(outcomes))
    return int(any(outcome.problems() for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(run_all(*sys.argv[1:2]))
