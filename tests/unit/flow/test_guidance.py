from __future__ import annotations

import pytest

from pixelflow.flow import (
    ConstantGuidance,
    IntervalGuidance,
    NoGuidance,
    StageIntervalGuidance,
    StageWiseGuidance,
)
from pixelflow.flow.guidance import stage_weights


def test_none_and_constant() -> None:
    assert NoGuidance().scale(2, 0.3) == 1
    assert ConstantGuidance(scale=2.5).scale(0, 0.0) == ConstantGuidance(scale=2.5).scale(3, 1.0) == 2.5


def test_four_stages_give_the_table_of_the_paper() -> None:
    assert stage_weights(4) == pytest.approx([0, 1 / 6, 2 / 3, 1], abs=1e-12)
    guidance = StageWiseGuidance(scale=2.4, num_stages=4)
    assert [guidance.scale(stage, 0.5) for stage in range(4)] == pytest.approx([1, 1 + 1.4 / 6, 1 + 2.8 / 3, 2.4])


@pytest.mark.parametrize("num_stages", range(1, 7))
def test_any_number_of_stages_rises_to_the_scale(num_stages: int) -> None:
    guidance = StageWiseGuidance(scale=2.4, num_stages=num_stages)
    scales = [guidance.scale(stage, 0.5) for stage in range(num_stages)]
    assert scales[-1] == pytest.approx(2.4, abs=1e-12)
    assert scales == sorted(set(scales))
    if num_stages > 1:
        assert scales[0] == 1  # exactly: the null pass of the coarsest stage is left out


def test_other_numbers_of_stages_interpolate_the_table_linearly() -> None:
    assert stage_weights(3) == pytest.approx([0, (1 / 6 + 2 / 3) / 2, 1])
    assert stage_weights(7)[::2] == pytest.approx(stage_weights(4))


def test_given_weights_replace_the_table() -> None:
    guidance = StageWiseGuidance(scale=3.0, num_stages=2, weights=[1.0, 0.5])
    assert [guidance.scale(stage, 0.0) for stage in range(2)] == [3.0, 2.0]


@pytest.mark.parametrize("num_stages", [3, 5])
def test_a_table_of_the_wrong_length_is_refused(num_stages: int) -> None:
    with pytest.raises(ValueError, match=f"weights has 4 entries, but the cascade has {num_stages} stages"):
        StageWiseGuidance(scale=2.4, num_stages=num_stages, weights=[0, 0, 1, 1])


def test_interval_excludes_its_low_end_and_includes_its_high_end() -> None:
    guidance = IntervalGuidance(scale=2.25, low=0.1, high=0.9)
    scales = {tau: guidance.scale(0, tau) for tau in (0.0, 0.1, 0.1000001, 0.5, 0.9, 0.9000001, 1.0)}
    assert [tau for tau, scale in scales.items() if scale == 2.25] == [0.1000001, 0.5, 0.9]
    assert set(scales.values()) == {1.0, 2.25}


@pytest.mark.parametrize(("low", "high"), [(0.5, 0.5), (0.9, 0.1), (-0.1, 0.5), (0.5, 1.1)])
def test_an_empty_interval_or_one_outside_0_to_1_is_refused(low: float, high: float) -> None:
    with pytest.raises(ValueError, match=f"low={low}, high={high}"):
        IntervalGuidance(scale=2.0, low=low, high=high)


def test_an_open_interval_excludes_both_ends() -> None:
    guidance = IntervalGuidance(scale=2.25, low=0.1, high=0.9, include_high=False)
    assert [guidance.scale(0, tau) for tau in (0.1, 0.5, 0.8999999, 0.9)] == [1.0, 2.25, 2.25, 1.0]


@pytest.mark.parametrize("include_high", [True, False])
def test_table_times_interval(include_high: bool) -> None:
    settings = {"scale": 2.4, "low": 0.1, "high": 0.9, "include_high": include_high}
    both = StageIntervalGuidance(num_stages=4, **settings)  # type: ignore[arg-type]
    table = StageWiseGuidance(scale=2.4, num_stages=4)
    for stage in range(4):
        for tau in (0.0, 0.1, 0.5, 0.9, 0.95):
            inside = 0.1 < tau < 0.9 or (include_high and tau == 0.9)
            assert both.scale(stage, tau) == (table.scale(stage, tau) if inside else 1)
    with pytest.raises(ValueError, match="weights has 1 entries"):
        StageIntervalGuidance(num_stages=4, weights=[1.0], **settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"low=0.9, high=0.1"):
        StageIntervalGuidance(scale=2.0, num_stages=4, low=0.9, high=0.1)
