"""Compares the windows, timesteps, renoising coefficients and Euler grids of PixelFlow's cascade."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pixelflow.flow import Cascade
from pixelflow.solvers import Euler
from tests.comparison import assert_all_close, with_one_number_changed
from tests.golden_cases import DEFAULT, compare, golden_files, need

TOLERANCE = 1e-6
PARTS = ("start_t", "end_t", "original_start_t", "timestep_first", "timestep_last", "renoise", "inference")
INFERENCE = re.compile(r"inference\.N=(?P<steps>\d+),shift=(?P<shift>[\d.]+),stage=(?P<stage>\d+)\.(?P<what>\w+)")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    cases = [
        pytest.param((path, int(num_stages)), id=f"{path.stem}-S{num_stages}")
        for path in golden_files(metafunc.config, "pixelflow_schedule*.json")
        for num_stages in json.loads(path.read_text())
    ]
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", cases)


def flatten(values: Any, prefix: str = "") -> dict[str, Tensor]:
    """Returns nested mappings of numbers or lists as flat names and tensors."""
    if isinstance(values, dict):
        return {name: v for key, value in values.items() for name, v in flatten(value, f"{prefix}.{key}").items()}
    return {prefix.removeprefix("."): torch.tensor(values, dtype=torch.float64)}


def load(case: tuple[Path, int]) -> dict[str, Tensor]:
    path, num_stages = case
    return flatten(json.loads(path.read_text())[str(num_stages)])


def schedule(num_stages: int, names: list[str]) -> dict[str, Tensor]:
    """Returns this package's value for each name of the golden file that it knows."""
    cascade = Cascade(image_size=2 ** (num_stages + 2), num_stages=num_stages)
    ours: dict[str, Any] = {}
    for s, stage in enumerate(cascade.stages):
        ours[f"start_t.{s}"], ours[f"end_t.{s}"] = stage.path.start, stage.path.end
        ours[f"original_start_t.{s}"] = stage.original_start
        ours[f"timestep_first.{s}"], ours[f"timestep_last.{s}"] = stage.first_timestep, stage.last_timestep
        if s > 0:
            ours[f"renoise.{s}.alpha"], ours[f"renoise.{s}.beta"] = cascade.renoise_coefficients(s)
    for name in names:
        if match := INFERENCE.fullmatch(name):
            steps, shift, stage = int(match["steps"]), float(match["shift"]), int(match["stage"])
            if stage >= num_stages or match["what"] not in ("tau", "timesteps"):
                continue
            tau = Euler(num_steps=steps, num_stages=num_stages, shift=shift).time_grid(stage)
            ours[name] = {"tau": tau, "timesteps": cascade.timestep(stage, tau[:-1])}[match["what"]]
    return {name: torch.as_tensor(value, dtype=torch.float64) for name, value in ours.items()}


@pytest.mark.parametrize("part", PARTS)
def test_schedule(case: tuple[Path, int], part: str) -> None:
    expected, title = load(case), f"{part} of {case[1]} stages"
    if part == "renoise" and case[1] == 1:  # a single stage is never renoised
        return
    actual = {name: value for name, value in schedule(case[1], list(expected)).items() if name.startswith(f"{part}.")}
    compare(case[0].stem, actual, expected, TOLERANCE, title)
    if part != "inference":
        need(case[0].stem, expected, actual, f"the whole of {title} (what it holds agrees)")


def test_what_the_case_holds_beyond_the_comparison(case: tuple[Path, int]) -> None:
    expected = load(case)
    known = schedule(case[1], list(expected))
    if others := [name for name in expected if name not in known]:
        pytest.skip(f"{case[0].stem} holds numbers that are not compared: {', '.join(others[:5])}")


@pytest.mark.parametrize("num_stages", range(1, 7))
def test_one_changed_number_fails(num_stages: int) -> None:
    expected = load((DEFAULT / "pixelflow_schedule.json", num_stages))
    actual = schedule(num_stages, list(expected))
    assert set(actual) == set(expected)
    for position, name in enumerate(expected):
        changed = expected | {name: with_one_number_changed(expected[name], position=position)}
        with pytest.raises(AssertionError, match=re.escape(name)):
            assert_all_close(actual, changed, TOLERANCE)
