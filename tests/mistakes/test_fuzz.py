"""Whatever is drawn from the options of all groups is refused in one message, or it trains two steps.

100 commands are drawn, the same ones every time; `PIXELFLOW_FUZZ=2000` draws that many others.
"""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from tests.mistakes.corpus import Case
from tests.mistakes.drawing import SMALL, overrides
from tests.mistakes.runner import SECRET, Outcome, Runner

DRAWS = int(os.environ.get("PIXELFLOW_FUZZ", "0"))
GIT = "subprocess.Popen ('git', "


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    return Runner(Path(tmp_path_factory.mktemp("fuzz")) / "commands")


@pytest.fixture(scope="module")
def counts() -> Iterator[Counter[str]]:
    counter: Counter[str] = Counter()
    yield counter
    print(f"\nfuzz: {dict(counter)}")


def problem(outcome: Outcome) -> str:
    """Returns what is wrong with the end of a drawn command, or an empty text."""
    trained = outcome.status == 0
    executed = [event for event in outcome.executed if not (trained and event.startswith(GIT))]
    short = outcome.message.startswith("error: ") and len(outcome.message) < 500 and outcome.message.count("\n") < 2
    if outcome.traceback:
        return "a traceback"
    if executed:
        return f"executed {executed}"
    if SECRET in outcome.out + outcome.err:
        return "it shows an environment variable"
    if trained:
        last = [name for name in outcome.left if name.endswith("checkpoints/step_00000002/state.json")]
        return "" if len(last) == 1 else f"it trained and left {outcome.left}"
    if outcome.status == 1 and short:  # the work failed, in a run folder that says so
        return ""
    return "" if outcome.status == 2 and short and not outcome.left else f"status {outcome.status}, left {outcome.left}"


@pytest.mark.slow
@pytest.mark.timeout(24 * 3600)
@settings(
    max_examples=DRAWS or 100,
    derandomize=not DRAWS,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(drawn=overrides())
def test_whatever_is_drawn(runner: Runner, counts: Counter[str], drawn: list[str]) -> None:
    case = Case("fuzz", shlex.join([*SMALL, *drawn]), 0, ".")
    outcome = runner.run(case, works=True, seconds=60.0)
    counts[{0: "trained", 1: "failed", 2: "refused"}.get(outcome.status or 0, "other")] += 1
    assert not (wrong := problem(outcome)), f"{wrong}: {shlex.join(drawn)}\n{outcome.err[-3000:]}"
