"""The arithmetic of the ADM suite (FID, sFID, inception score, precision and recall) on stored features."""

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
from tests.golden_cases import golden_files

TOLERANCE = 1e-4


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    paths = golden_files(metafunc.config, "adm_metrics*.json")
    metafunc.parametrize("case", paths, ids=[path.stem for path in paths])


def load(case: Path) -> tuple[dict[str, float], dict[str, Tensor]]:
    return json.loads(case.read_text()), load_file(case.with_suffix(".safetensors"))


def statistics(features: Tensor, batch_size: int) -> GaussianStatistics:
    result = GaussianStatistics(num_features=features.shape[1])
    for batch in features.split(batch_size):
        result.update(batch)
    return result


def distance(samples: Tensor, reference: Tensor) -> float:
    return frechet_distance(statistics(samples, 100), statistics(reference, 77))


def test_fid(case: Path) -> None:
    expected, features = load(case)
    assert distance(features["sample_pool"], features["ref_pool"]) == pytest.approx(expected["fid"], rel=TOLERANCE)


def test_sfid(case: Path) -> None:
    expected, features = load(case)
    got = distance(features["sample_spatial"], features["ref_spatial"])
    assert got == pytest.approx(expected["sfid"], rel=TOLERANCE)


def test_inception_score(case: Path) -> None:
    expected, features = load(case)
    got = inception_score(features["sample_probs"], split_size=int(expected["is_split_size"]))
    assert got == pytest.approx(expected["inception_score"], rel=TOLERANCE)


@pytest.mark.parametrize("block", [4096, 256])
def test_precision_and_recall(case: Path, block: int) -> None:
    expected, features = load(case)
    precision, recall = precision_recall(
        features["sample_pool"], features["ref_pool"], k=int(expected["neighbourhood"]), block=block
    )
    assert precision == pytest.approx(expected["precision"], rel=TOLERANCE)
    assert recall == pytest.approx(expected["recall"], rel=TOLERANCE)


def test_every_number_of_the_case_is_compared(case: Path) -> None:
    expected, features = load(case)
    compared = {"fid", "sfid", "inception_score", "precision", "recall", "is_split_size", "neighbourhood"}
    assert set(expected) == compared
    assert all(torch.isfinite(value).all() for value in features.values())
