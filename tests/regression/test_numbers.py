"""The numbers of numbers.json, a case a test; and that a changed number is found."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from tests.regression import numbers
from tests.regression.cases import CASES, Values
from tests.regression.compare import compare, machine

STORED: dict[str, Any] = json.loads(numbers.STORED.read_text())
LOSS = {"exact": {"steps": [1, 2]}, "numbers": {"loss": [0.5, 0.25]}, "hashes": {"model": "ab"}}
IMAGES = {"exact": {"labels": [0, 1]}, "grey_levels": {"mean": [20.0, 30.0]}, "shares": {"recall": 0.5}}


@pytest.fixture(scope="session")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the runs of all cases; several cases read some of them."""
    return tmp_path_factory.mktemp("numbers")


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_no_number_has_changed(name: str, collected: Path) -> None:
    same_machine = STORED["machine"] == machine()
    comparison = compare(STORED["cases"][name], CASES[name](collected), same_machine=same_machine)
    assert not comparison.differences, f"{name} {comparison}"


def changed(values: Values, kind: str, name: str, value: Any) -> Values:
    other = copy.deepcopy(values)
    other[kind][name] = value
    return other


def test_every_case_is_stored() -> None:
    assert list(STORED["cases"]) == list(CASES)
    assert set(STORED["machine"]) == set(machine())


def test_the_same_numbers_are_identical() -> None:
    for values in STORED["cases"].values():
        comparison = compare(values, copy.deepcopy(values), same_machine=True)
        assert comparison.differences == [] and comparison.compared > 0
        assert str(comparison) == f"identical ({comparison.compared} values)"


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("numbers", "loss", [0.5, 0.25000000000000006]),  # the last bit
        ("numbers", "loss", [0.5]),
        ("numbers", "loss", [0.5, float("nan")]),
        ("hashes", "model", "ac"),
        ("exact", "steps", [1, 3]),
    ],
)
def test_a_changed_number_is_found(kind: str, name: str, value: Any) -> None:
    comparison = compare(LOSS, changed(LOSS, kind, name, value), same_machine=True)
    assert len(comparison.differences) == 1 and comparison.differences[0].startswith(name)
    assert str(comparison).startswith("differs in 1 of 5 values: ")


def test_what_is_missing_is_found_and_what_is_new_is_not() -> None:
    assert len(compare(LOSS, {"numbers": LOSS["numbers"]}, same_machine=True).differences) == 3
    assert compare(LOSS, LOSS | {"numbers": LOSS["numbers"] | {"new": 1.0}}, same_machine=True).differences == []


@pytest.mark.parametrize(
    ("values", "kind", "name", "within", "beyond"),
    [
        (LOSS, "numbers", "loss", [0.5, 0.25 * 1.0009], [0.5, 0.25 * 1.0011]),
        (LOSS, "numbers", "loss", [0.5 * 0.9991, 0.25], [0.5, float("nan")]),
        (LOSS, "exact", "steps", [1, 2], [1, 3]),
        (IMAGES, "grey_levels", "mean", [20.0, 31.9], [20.0, 32.1]),
        (IMAGES, "shares", "recall", 0.51, 0.53),
        (IMAGES, "exact", "labels", [0, 1], [1, 0]),
    ],
)
def test_another_machine_has_tolerances(values: Values, kind: str, name: str, within: Any, beyond: Any) -> None:
    assert compare(values, changed(values, kind, name, within), same_machine=False).differences == []
    assert compare(values, changed(values, kind, name, beyond), same_machine=False).differences


def test_another_machine_has_other_hashes() -> None:
    comparison = compare(LOSS, changed(LOSS, "hashes", "model", "ac"), same_machine=False)
    assert comparison.differences == [] and comparison.compared == 4


def test_the_script_names_the_case_that_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(folder: Path) -> Values:
        raise RuntimeError("run.py ended with status 1")

    found = {"a": LOSS, "b": changed(LOSS, "numbers", "loss", [0.5, 0.75]), "c": LOSS}
    stored = tmp_path / "numbers.json"
    stored.write_text(json.dumps({"machine": machine(), "cases": dict.fromkeys(found, LOSS)}))
    monkeypatch.setattr(numbers, "STORED", stored)
    monkeypatch.setattr(numbers, "CASES", {name: lambda _, values=values: values for name, values in found.items()})
    assert numbers.check(tmp_path, "a") == 0
    assert numbers.check(tmp_path) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:] == [
        "a: identical (5 values)",
        "b: differs in 1 of 5 values: loss[1] is 0.75, stored 0.25 (by 2 of it)",
        "c: identical (5 values)",
    ]
    monkeypatch.setattr(numbers, "CASES", {"a": fails})
    assert numbers.check(tmp_path) == 1
    assert capsys.readouterr().out == "a: not collected: RuntimeError: run.py ended with status 1\n"
