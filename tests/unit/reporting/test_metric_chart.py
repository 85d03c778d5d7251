"""Charts, checked by their axes: positions, tick labels, panels, and what is not drawn."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from pixelflow.reporting.metric_chart import metric_chart
from pixelflow.reporting.presentation import Chart, Presentation
from pixelflow.reporting.runs import Run
from pixelflow.reporting.table import Table, build_table
from tests.unit.reporting.conftest import HOSTILE


@pytest.fixture
def table(make_run: Callable[..., Run]) -> Table:
    runs = [
        make_run({"k": k}, seed, {"fid": 10.0 * k + seed, "accuracy": 0.9, "recall": 0.5})
        for k in (1, 2)
        for seed in (0, 2)
    ]
    return build_table([*runs, make_run({"k": 3}, 0, {"fid": math.nan, "recall": 0.1})])


def test_metric_chart_shows_means_spread_and_seeds(table: Table, tmp_path: Path, drawn: list[Figure]) -> None:
    path = metric_chart(table, tmp_path / "deep" / "chart.png")
    assert Image.open(path).format == "PNG"
    assert [file.name for file in path.parent.iterdir()] == ["chart.png"]
    panels = drawn[0].axes
    assert [panel.get_title() for panel in panels] == ["FID ↓", "recall ↑", "accuracy [%] ↑"]
    assert [label.get_text() for label in panels[0].get_xticklabels()] == ["1", "2", "3"]
    assert panels[0].get_xlabel() == "k"
    # Hand-computed: mean 11 and 21, each with std sqrt(2).
    bars = [np.array(container.lines[2][0].get_segments()[0])[:, 1] for container in panels[0].containers[:2]]
    for bar, mean in zip(bars, (11.0, 21.0), strict=True):
        np.testing.assert_allclose(bar, [mean - math.sqrt(2), mean + math.sqrt(2)])
    dots = [list(line.get_ydata()) for line in panels[0].lines if line.get_marker() == "o"]
    assert dots == [[10.0, 12.0], [20.0, 22.0]]
    accuracy = [container.lines[0].get_ydata()[0] for container in panels[2].containers]
    assert accuracy == [90.0, 90.0]


def test_metric_chart_of_chosen_keys(table: Table, tmp_path: Path, drawn: list[Figure]) -> None:
    metric_chart(table, tmp_path / "chart.png", keys=["recall", "fid"])
    assert [panel.get_title() for panel in drawn[0].axes] == ["recall ↑", "FID ↓"]
    with pytest.raises(ValueError, match="no row has sfid; measured are fid, recall, accuracy"):
        metric_chart(table, tmp_path / "other.png", keys=["sfid"])


def test_metric_chart_writes_dollars_as_they_are(make_run: Callable[..., Run], tmp_path: Path) -> None:
    runs = [make_run({"$k": text}, 0, {"fid": 1.0}) for text in ("$a_$", "b$\\frac")]
    assert metric_chart(build_table(runs), tmp_path / "chart.png").exists()


def test_labels_and_titles_lie_inside_the_figure(
    make_run: Callable[..., Run], tmp_path: Path, drawn: list[Figure]
) -> None:
    runs = [make_run({"k": f"a-rather-long-label-{i}"}, s, {"fid": 1.0 + i + s}) for i in range(12) for s in (0, 1)]
    metric_chart(build_table(runs), tmp_path / "chart.png")
    (figure,) = drawn
    (panel,) = figure.axes
    box = figure.get_tightbbox()
    assert box.x0 >= 0 and box.y0 >= 0
    assert box.x1 <= figure.get_figwidth() and box.y1 <= figure.get_figheight()
    assert panel.get_window_extent().height > 0.4 * figure.bbox.height
    extents = [label.get_window_extent() for label in panel.get_xticklabels()]
    assert len(extents) == 12


def test_metric_chart_of_hostile_names(make_run: Callable[..., Run], tmp_path: Path, drawn: list[Figure]) -> None:
    runs = [make_run({"$\\frac{": text}, 0, {"fid": 1.0}) for text in HOSTILE]
    with matplotlib.rc_context({"text.usetex": True}):  # as in the matplotlibrc of an author
        metric_chart(build_table(runs), tmp_path / "chart.png")
    labels = drawn[0].axes[0].get_xticklabels()
    assert {"$x$", "_hidden", "a b", "\\x1b[2J"} <= {label.get_text() for label in labels}
    assert not any(label.get_parse_math() or label.get_usetex() for label in labels)
    assert max(Image.open(tmp_path / "chart.png").size) < 2000


# The swept value on the axis ---------------------------------------------------------------------------------------

PAPER = [
    {"label": f"{k}x{k} tokens", "source": "A", "match": {"cascade.kickoff": k}, "metrics": {"fid": fid, "recall": 0.5}}
    for k, fid in ((4, 3.49), (8, 3.21), (16, 3.34))
]


def kickoffs(make_run: Callable[..., Run], values: Any = (4, 8, 16), **record: Any) -> list[Run]:
    """The distance is 10 * k + seed, with the seeds 0 and 2."""
    return [
        make_run(
            {"cascade.kickoff": k, "solver.order": k},
            seed,
            {"recall": 0.25, "fd_digits": 10.0 * n + seed, "seconds_per_image": 0.1},
            record={"num_samples": 1000, **record},
        )
        for n, k in enumerate(values)
        for seed in (0, 2)
    ]


def titles(figure: Figure) -> list[str]:
    return [panel.get_title() for panel in figure.axes]


def ticks(panel: Any) -> list[tuple[float, str]]:
    """The positions and texts of the labels on the horizontal axis."""
    panel.figure.canvas.draw()
    return [(label.get_position()[0], label.get_text()) for label in panel.get_xticklabels()]


def means(panel: Any) -> list[tuple[float, float]]:
    """The positions of the means, in the order in which they are drawn."""
    return [
        (float(container.lines[0].get_xdata()[0]), float(container.lines[0].get_ydata()[0]))
        for container in panel.containers
    ]


def assert_labels_do_not_overlap(figure: Figure) -> None:
    """No two labels of an axis overlap, and no text lies outside the figure."""
    figure.canvas.draw()
    box = figure.get_tightbbox()
    assert box.x0 >= -0.02 and box.y0 >= -0.02
    assert box.x1 <= figure.get_figwidth() + 0.02 and box.y1 <= figure.get_figheight() + 0.02
    for panel in figure.axes:
        labels = [label for label in panel.get_xticklabels() if label.get_text()]
        if labels and labels[0].get_rotation() == 0:
            extents = [label.get_window_extent() for label in labels]
            assert all(one.x1 < other.x0 for one, other in itertools.pairwise(extents))
        else:  # parallel lines of text: their distance is that of the ticks times the sine of the angle
            places = [panel.transData.transform((label.get_position()[0], 0))[0] for label in labels]
            least = labels[0].get_fontsize() * 1.2 / math.sin(math.radians(labels[0].get_rotation() or 30))
            assert all(b - a > least for a, b in itertools.pairwise(places))
        title = panel.title.get_window_extent()
        assert title.width < panel.get_window_extent().width * 1.3


def test_a_table_with_one_column_shows_its_numbers_on_the_axis(
    make_run: Callable[..., Run], tmp_path: Path, drawn: list[Figure]
) -> None:
    table = build_table(kickoffs(make_run), Presentation(swept=("cascade.kickoff",)))
    metric_chart(table, tmp_path / "chart.png")
    (figure,) = drawn
    assert titles(figure) == ["FD (digits CNN) ↓", "recall ↑"]  # the distance first, and no time
    panel = figure.axes[0]
    assert panel.get_xscale() == "linear" and panel.get_xlabel() == "kickoff"
    assert ticks(panel) == [(4.0, "4"), (8.0, "8"), (16.0, "16")]
    assert means(panel) == [(4.0, 1.0), (8.0, 11.0), (16.0, 21.0)]
    bars = [container.lines[2][0].get_segments()[0][:, 1] for container in panel.containers]
    np.testing.assert_allclose(bars[1], [11 - math.sqrt(2), 11 + math.sqrt(2)])
    dots = [(list(line.get_xdata()), list(line.get_ydata())) for line in panel.lines if line.get_marker() == "o"]
    assert dots[1] == ([8.0, 8.0], [10.0, 12.0])
    (line,) = [line for line in panel.lines if line.get_linestyle() == "-" and len(line.get_xdata()) == 3]
    assert list(line.get_ydata()) == [1.0, 11.0, 21.0]
    assert_labels_do_not_overlap(figure)


@pytest.mark.parametrize(
    ("record", "has_time"), [({"other_load": 0.1}, True), ({"other_load": 0.9}, False), ({}, False)]
)
def test_times_are_drawn_only_if_they_can_be_compared(
    make_run: Callable[..., Run], tmp_path: Path, drawn: list[Figure], record: dict, has_time: bool
) -> None:
    chart = Chart("cascade.kickoff", metrics=("seconds_per_image", "fd_digits"))
    table = build_table(kickoffs(make_run, **record), Presentation(swept=("cascade.kickoff",), chart=chart))
    metric_chart(table, tmp_path / "chart.png")
    assert ("s/image ↓" in titles(drawn[0])) == has_time
    assert titles(drawn[0])[-1] == "FD (digits CNN) ↓"


def test_quoted_values_have_panels_of_their_own(
    make_run: Callable[..., Run], tmp_path: Path, drawn: list[Figure]
) -> None:
    chart = Chart("cascade.kickoff", "kickoff [pixels]", "log")
    presentation = Presentation(swept=("cascade.kickoff",), paper=tuple(PAPER), chart=chart)
    metric_chart(build_table(kickoffs(make_run), presentation), tmp_path / "chart.png")
    (figure,) = drawn
    assert titles(figure) == ["FD (digits CNN) ↓", "recall ↑", "paper: FID ↓", "paper: recall ↑"]
    ours, paper = figure.axes[0], figure.axes[2]
    assert [panel.get_xscale() for panel in figure.axes] == ["log"] * 4
    assert ticks(paper) == ticks(ours) == [(4.0, "4"), (8.0, "8"), (16.0, "16")]
    np.testing.assert_allclose(paper.get_xlim(), ours.get_xlim())
    points = [line for line in paper.lines if line.get_marker() == "s"]
    assert [(list(line.get_xdata()), list(line.get_ydata())) for line in points] == [
        ([4.0, 8.0, 16.0], [3.49, 3.21, 3.34])
    ]
    assert not any(3.0 < y < 4.0 for _, y in means(ours))
    # Below ours: the same left edge, a lower upper edge.
    assert paper.get_position().x0 == pytest.approx(ours.get_position().x0, abs=0.01)
    assert paper.get_position().y1 < ours.get_position().y0
    assert {panel.get_xlabel() for panel in figure.axes} == {"kickoff [pixels]"}
    assert_labels_do_not_overlap(figure)


def test_the_place_of_a_quoted_row(make_run: Callable[..., Run], tmp_path: Path, drawn: list[Figure]) -> None:
    """Its `x`, else its value of the axis, else its label; texts make the panel one of categories."""
    metrics = {"fid": 3.0}
    paper = (
        {"label": "a", "source": "A", "metrics": metrics, "x": "x of ours", "match": {"cascade.kickoff": 8}},
        {"label": "b", "source": "A", "metrics": metrics, "match": {"cascade.kickoff": 8}},
        {"label": "c", "source": "A", "metrics": metrics},
    )
    presentation = Presentation(swept=("cascade.kickoff",), paper=paper)
    metric_chart(build_table(kickoffs(make_run), presentation), tmp_path / "chart.png")
    panel = drawn[0].axes[2]
    assert ticks(panel) == [(0.0, "x of ours"), (1.0, "8"), (2.0, "c")]
    numbers = ({"label": "a", "source": "A", "metrics": metrics, "x": 32},)
    metric_chart(
        build_table(kickoffs(make_run), Presentation(swept=("cascade.kickoff",), paper=numbers)), tmp_path / "b.png"
    )
    assert ticks(drawn[1].axes[2])[-1] == (32.0, "32")


def test_a_logarithmic_axis_labels_small_numbers_apart(
    make_run: Callable[..., Run], tmp_path: Path, drawn: list[Figure]
) -> None:
    rates = (1e-5, 3e-5, 1e-4, 1.1e-4, 3e-4, 1e-3, 1e-2)
    runs = [make_run({"optimizer.lr": lr}, 0, {"fd_digits": lr}) for lr in rates]
    presentation = Presentation(chart=Chart("optimizer.lr", scale="log"))
    metric_chart(build_table(runs, presentation), tmp_path / "chart.png")
    (panel,) = drawn[0].axes
    assert [text for _, text in ticks(panel)] == ["1e-5", "3e-5", "1e-4", "3e-4", "1e-3", "0.01"]  # 1.1e-4 is too close
    assert [place for place, _ in means(panel)] == list(rates)
    assert_labels_do_not_overlap(drawn[0])


@pytest.mark.parametrize(("values", "scale"), [((0, 1, 2), "log"), ((-1, 1), "log"), (("a", "b"), "linear")])
def test_a_scale_that_the_values_do_not_have_is_one_of_categories(
    make_run: Callable[..., Run], tmp_path: Path, drawn: list[Figure], values: Any, scale: str
) -> None:
    table = build_table(kickoffs(make_run, values), Presentation(chart=Chart("cascade.kickoff", scale=scale)))
    metric_chart(table, tmp_path / "chart.png")
    assert [text for _, text in ticks(drawn[0].axes[0])] == [str(value) for value in values]
    assert not [line for line in drawn[0].axes[0].lines if line.get_linestyle() == "-" and len(line.get_xdata()) > 2]


def test_numbers_as_categories_stand_at_equal_distances(
    make_run: Callable[..., Run], tmp_path: Path, drawn: list[Figure]
) -> None:
    table = build_table(kickoffs(make_run), Presentation(chart=Chart("cascade.kickoff", scale="category")))
    metric_chart(table, tmp_path / "chart.png")
    assert ticks(drawn[0].axes[0]) == [(0.0, "4"), (1.0, "8"), (2.0, "16")]
    assert [place for place, _ in means(drawn[0].axes[0])] == [0.0, 1.0, 2.0]


def test_each_value_of_the_series_is_a_line(make_run: Callable[..., Run], tmp_path: Path, drawn: list[Figure]) -> None:
    runs = [
        make_run({"trainer.max_steps": steps, "cost": cost}, 0, {"fd_digits": steps + number})
        for number, cost in enumerate(("_equal images", "$equal$ FLOPs"))
        for steps in (100, 200, 300)
    ]
    presentation = Presentation(chart=Chart("trainer.max_steps", series="cost"))
    metric_chart(build_table(runs, presentation), tmp_path / "chart.png")
    (figure,) = drawn
    lines = [line for line in figure.axes[0].lines if line.get_linestyle() == "-" and len(line.get_xdata()) == 3]
    assert sorted(list(line.get_ydata()) for line in lines) == [[100, 200, 300], [101, 201, 301]]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["cost $equal$ FLOPs", "cost _equal images"]
    assert not any(text.get_parse_math() for text in legend.get_texts())
    assert_labels_do_not_overlap(figure)


def test_rows_at_the_same_place_are_told_apart_without_a_series(
    make_run: Callable[..., Run], tmp_path: Path, drawn: list[Figure]
) -> None:
    """A line through both values of a place would be none of the two."""
    runs = [make_run({"k": k, "w": w}, 0, {"fd_digits": k + w}) for k in (1, 2) for w in (0.5, 0.25)]
    metric_chart(build_table(runs, Presentation(swept=("k", "w"), chart=Chart("k"))), tmp_path / "chart.png")
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["w 0.25", "w 0.5"]


def test_a_chart_of_a_key_that_no_row_has_shows_the_rows(
    make_run: Callable[..., Run], tmp_path: Path, drawn: list[Figure], caplog: pytest.LogCaptureFixture
) -> None:
    chart = Chart("cascade.kikoff", metrics=("sfid", "recall"))
    metric_chart(build_table(kickoffs(make_run), Presentation(chart=chart)), tmp_path / "chart.png")
    assert titles(drawn[0]) == ["recall ↑"] and ticks(drawn[0].axes[0])[0] == (4.0, "4")
    assert "chart.metrics: sfid not measured" in caplog.text
    assert caplog.text.count("chart.x=cascade.kikoff is a key of no row") == 1


@pytest.mark.parametrize(
    "names",
    [
        ["jit x"],
        ["jit velocity", "jit x", "cascade x"],
        ["velocity", "x"],
        [f"an arm with a rather long name, the number {n} of twelve" for n in range(12)],
        [f"a{n}" for n in range(12)],
    ],
    ids=["one", "three", "short", "long", "many"],
)
def test_labels_of_arms_do_not_overlap(
    make_run: Callable[..., Run], tmp_path: Path, drawn: list[Figure], names: list[str]
) -> None:
    runs = [
        make_run({"arm": name, "k": n}, s, {"fd_digits": 1.0 + n + s, "recall": 0.5, "accuracy": 0.9})
        for n, name in enumerate(names)
        for s in (0, 1)
    ]
    metric_chart(build_table(runs, Presentation(arms=tuple(names))), tmp_path / "chart.png")
    assert_labels_do_not_overlap(drawn[0])
    shown = [text for _, text in ticks(drawn[0].axes[0])]
    assert len(set(shown)) == len(names)
    assert all(len(text) <= 40 for text in shown)


def test_a_class_on_the_axis_has_the_name_of_its_option(
    make_run: Callable[..., Run], tmp_path: Path, drawn: list[Figure]
) -> None:
    runs = [make_run({"solver._target_": f"pixelflow.solvers.{name}"}, 0, {"fid": 1.0}) for name in ("Euler", "Heun")]
    metric_chart(build_table(runs), tmp_path / "chart.png")
    assert ticks(drawn[0].axes[0]) == [(0.0, "euler"), (1.0, "heun")]
    assert drawn[0].axes[0].get_xlabel() == "solver"
