"""Compares the arithmetic of the ADM suite (FID, sFID, inception score, precision, recall) on stored features."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from pixelflow.metrics.frechet import GaussianStatistics, frechet_distance
from pixelflow.metrics.inception_score import inception_score
from pixelflow.metrics.precision_recall import precision_recall
from tests.golden_cases import golden_files, need

TOLERANCE = 1e-4


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    files = golden_files(metafunc.config, "adm_metrics*.json") + golden_files(
        metafunc.config, "adm_metrics*.safetensors"
    )
    cases = sorted({path.with_suffix("") for path in files})
    metafunc.parametrize("case", cases, ids=[case.name for case in cases])


def load(case: Path) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Returns the numbers and the features of a case; a missing file holds none."""
    numbers, features = case.with_suffix(".json"), case.with_suffix(".safetensors")
    return (
        json.loads(numbers.read_text()) if numbers.is_file() else {},
        load_file(features) if features.is_file() else {},
    )


def load_part(
    case: Path, *, numbers: tuple[str, ...], features: tuple[str, ...]
) -> tuple[dict[str, float], list[Tensor]]:
    """Returns the numbers and the named features; skips the test if the case does not hold one of them."""
    expected, held = load(case)
    need(case.name, expected, numbers[:1], numbers[0])
    need(case.name, expected, numbers, f"the settings of {numbers[0]}")
    need(case.name, held, features, f"the features of {numbers[0]}")
    return expected, [held[name] for name in features]


def statistics(features: Tensor, batch_size: int) -> GaussianStatistics:
    result = GaussianStatistics(num_features=features.shape[1])
    for batch in features.split(batch_size):
        result.update(batch)
    return result


def distance(samples: Tensor, reference: Tensor) -> float:
    return frechet_distance(statistics(samples, 100), statistics(reference, 77))


def test_fid(case: Path) -> None:
    expected, features = load_part(case, numbers=("fid",), features=("sample_pool", "ref_pool"))
    assert distance(*features) == pytest.approx(expected["fid"], rel=TOLERANCE)


def test_sfid(case: Path) -> None:
    expected, features = load_part(case, numbers=("sfid",), features=("sample_spatial", "ref_spatial"))
    assert distance(*features) == pytest.approx(expected["sfid"], rel=TOLERANCE)


def test_inception_score(case: Path) -> None:
    expected, (probabilities,) = load_part(
        case, numbers=("inception_score", "is_split_size"), features=("sample_probs",)
    )
    got = inception_score(probabilities, split_size=int(expected["is_split_size"]))
    assert got == pytest.approx(expected["inception_score"], rel=TOLERANCE)


@pytest.mark.parametrize("block", [4096, 256])
@pytest.mark.parametrize("name", ["precision", "recall"])
def test_precision_and_recall(case: Path, name: str, block: int) -> None:
    expected, features = load_part(case, numbers=(name, "neighbourhood"), features=("sample_pool", "ref_pool"))
    values = precision_recall(*features, k=int(expected["neighbourhood"]), block=block)
    assert values[name == "recall"] == pytest.approx(expected[name], rel=TOLERANCE)


def test_what_the_case_holds_beyond_the_comparison(case: Path) -> None:
    expected, features = load(case)
    assert all(torch.isfinite(value).all() for value in features.values())
    known = {"fid", "sfid", "inception_score", "precision", "recall", "is_split_size", "neighbourhood"}
    if others := sorted(set(expected) - known):
        pytest.skip(f"{case.name} holds numbers that are not compared: {', '.join(others)}")
