"""The candidates of a search, their repetitions, and what is said about them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixelflow.errors import UserError
from pixelflow.reporting.pareto import pareto_front
from pixelflow.sweeps.search import (
    Confirm,
    Repeated,
    Report,
    SearchResult,
    Trial,
    candidates,
    conclusion,
    fresh_seeds,
    leaders,
    read_trial,
    write_report,
)


def trial(tflop: float, distance: float, *, seed: int = 0, name: str = "") -> Trial:
    return Trial({"solver.method": name or f"{tflop:g}"}, distance, tflop, 10 * tflop, seed, 500)


def test_candidates_are_spread_over_the_front() -> None:
    front = [trial(cost, 20.0 - cost) for cost in range(1, 12)]
    beaten = [trial(cost + 0.5, 30.0) for cost in range(1, 12)]
    chosen = candidates([*beaten, *front], 5)
    assert [each.tflop for each in chosen] == [1, 3, 6, 9, 11] or [each.tflop for each in chosen] == [1, 4, 6, 8, 11]
    assert candidates(front, 1) == [front[-1]], "the least distance"
    assert candidates(front[:3], 5) == front[:3], "fewer than asked for"
    for count in range(1, 12):
        chosen = candidates(front, count)
        assert len({each.tflop for each in chosen}) == count and front[-1] in chosen


def test_ties_and_distances_that_are_not_numbers() -> None:
    trials = [
        trial(1, 5, name="a"), trial(1, 4, name="b"), trial(1, 4, name="c"), trial(2, 4, name="d"),
        trial(0.5, float("nan"), name="e"), trial(float("nan"), 1, name="f"), trial(3, 3, name="g"),
    ]  # fmt: skip
    assert [each.setting["solver.method"] for each in candidates(trials, 5)] == ["b", "g"]
    for order in ([4, 0, 1, 2, 3, 5, 6], [6, 5, 4, 3, 2, 1, 0]):
        front = pareto_front([trials[i].point("") for i in order])
        assert [(point.cost, point.quality) for point in front] == [(1, 4), (3, 3)]


def test_seeds_that_no_trial_had() -> None:
    assert fresh_seeds([trial(1, 1, seed=0), trial(1, 1, seed=7)], 3) == [8, 9, 10]


def repeated(letter: str, tflop: float, *distances: float) -> Repeated:
    return Repeated(trial(tflop, distances[0]), letter, distances)


def test_a_winner_must_be_better_by_more_than_the_standard_error() -> None:
    """The differences of A and B are 1, 2, 3: their mean is 2 and its standard error 1 / sqrt(3) = 0.577."""
    b = repeated("B", 2, 10.0, 20.0, 30.0)
    assert leaders([repeated("A", 1, 11.0, 22.0, 33.0), b]) == [b]
    assert "B has the least mean distance" in conclusion([repeated("A", 1, 11.0, 22.0, 33.0), b])
    # Differences of -1, 0, 2: their mean is 1/3 and its standard error 0.88.
    close = repeated("A", 1, 9.0, 20.0, 32.0)
    far = repeated("C", 3, 50.0, 60.0, 70.0)
    assert leaders([close, b, far]) == [b, close]
    told = conclusion([close, b, far])
    assert "A and B cannot be told apart" in told and "A needs the fewest operations" in told and "C" not in told
    equal = repeated("A", 1, 10.0, 20.0, 30.0)
    assert "A and B cannot be told apart" in conclusion([equal, b])
    assert conclusion([b]).startswith("There is one candidate, B: `solver.method=2`")
    assert "none is named" in conclusion([])


def test_the_report(tmp_path: Path) -> None:
    trials = [trial(1, 3.0, name="euler"), trial(2, 2.0, name="heun"), trial(1.5, 4.0, name="euler")]
    again = [Repeated(trials[0], "A", (3.5, 3.7)), Repeated(trials[1], "B", (2.5, 2.1))]
    result = SearchResult("search", "python run.py -m x", trials, again, [1, 2], 1000, ["a=1: <b>broken</b>"])
    write_report(result, Report(str(tmp_path), ["solver.method"], "solver.method"))
    text = (tmp_path / "search.md").read_text()
    assert "Chosen from 3 trials on 500 images each; repeated with seeds 1, 2 on 1000 images each. B has" in text
    assert "Distances of different numbers of images are not comparable." in text
    assert "not comparable" not in replace(result, num_samples=500).verdict
    assert "| A | method=euler | 1 | 10 | 3 | 3.6 | 0.1414 |" in text
    assert "| method=euler | 1.5 | 4 | 15 |  |" in text and "&lt;b&gt;broken" in text
    record = json.loads((tmp_path / "search.json").read_text())
    assert record["repeated"][1]["distances"] == [2.5, 2.1] and record["verdict"] in text
    assert len(record["trials"]) == 3 and record["seeds"] == [1, 2]
    pixels = np.array(Image.open(tmp_path / "search.png").convert("RGB")).reshape(-1, 3)
    colors = {tuple(color) for color in pixels}
    assert (0, 0, 0) in colors, "the error bars"
    assert (0xC0, 0x50, 0x4D) not in colors, "the trials are pale"


def test_an_evaluation_without_a_count_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "step_1-abc.json"
    record = {"forward_passes_per_image": 6, "seed": 3, "num_samples": 20}
    path.write_text(json.dumps({"metrics": {"fd_digits": 2.0, "seconds_per_image": 9.0}, "record": record}))
    with pytest.raises(UserError, match=r"step_1-abc\.json has no tflop_per_image"):
        read_trial(["a=1"], path, ["a"])
    path.write_text(json.dumps({"metrics": {"fd_digits": 2.0}, "record": record | {"tflop_per_image": 0.5}}))
    assert read_trial(["a=1", "b=2"], path, ["a"]) == Trial({"a": "1"}, 2.0, 0.5, 6, 3, 20)


@pytest.mark.parametrize(("key", "value"), [("candidates", 0), ("seeds", 1), ("num_samples", 0)])
def test_numbers_out_of_range(key: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{key}={value} must be at least"):
        Confirm(**{key: value})
