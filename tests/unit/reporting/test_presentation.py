"""What a recipe may state about its table and chart, and the messages about what it may not."""

from __future__ import annotations

from typing import Any

import pytest

from pixelflow.errors import UserError
from pixelflow.reporting.paper_rows import paper_rows
from pixelflow.reporting.presentation import Chart, Presentation, chart_of


def test_a_chart_of_every_option() -> None:
    node = {"x": "optimizer.lr", "label": "rate", "scale": "log", "series": "arm", "metrics": ["fid", "fd_mine"]}
    assert chart_of(node) == Chart("optimizer.lr", "rate", "log", "arm", ("fid", "fd_mine"))
    assert chart_of({"x": "arm", "label": None, "scale": None, "series": None, "metrics": None}) == Chart("arm")
    assert chart_of(None) is None


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ("kickoff", r"chart='kickoff' must be a mapping, such as \{x: cascade.kickoff\}, or null"),
        ({"x": "a", "y": "b"}, "chart.y is not an option of a chart; accepted: x, label, scale, series, metrics"),
        ({"label": "a"}, "chart.x is missing: a config key such as cascade.kickoff, or arm"),
        ({"x": 3}, "chart.x=3 must be text that names a config key"),
        ({"x": ""}, "chart.x='' must be text that names a config key"),
        ({"x": "a", "label": 3}, "chart.label=3 must be text$"),
        ({"x": "a", "series": ["b"]}, r"chart.series=\['b'\] must be text that names a config key"),
        ({"x": "a", "scale": "logarithmic"}, "chart.scale='logarithmic' must be one of linear, log, category"),
        ({"x": "a", "metrics": "fid"}, r"chart.metrics='fid' must be a list of metrics, such as \[fid, recall\]"),
        ({"x": "a", "metrics": ["fdi"]}, "chart.metrics: 'fdi' is not a known metric; known are fid, sfid"),
        ({"x": "a", "metrics": [3]}, "chart.metrics: 3 is not a known metric"),
    ],
)
def test_a_malformed_chart(node: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        chart_of(node)


def test_a_config_of_an_earlier_version_states_less() -> None:
    assert Presentation.of({"axes": ["k"], "paper": []}, swept=["seed"]) == Presentation(axes=("k",), swept=("seed",))
    assert Presentation.of({}) == Presentation()


@pytest.mark.parametrize("x", [8, 0.5, "8x8 tokens", None])
def test_a_quoted_row_has_a_place_in_the_chart(x: float | str | None) -> None:
    (row,) = paper_rows([{"label": "a", "source": "b", "metrics": {"fid": 1.0}, "x": x}])
    assert row.x == x


@pytest.mark.parametrize("x", [True, [8], {"k": 8}])
def test_a_quoted_row_has_no_other_place(x: Any) -> None:
    with pytest.raises(UserError, match=r"paper\[0\].x=.* must be a number or text"):
        paper_rows([{"label": "a", "source": "b", "metrics": {"fid": 1.0}, "x": x}])
