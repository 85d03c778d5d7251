"""References stored and read back, what is refused, and that nothing depends on order, batches or parts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pixelflow.metrics.evaluator import Evaluator
from pixelflow.metrics.features import Features
from pixelflow.metrics.fid_infinity import frechet_at_infinity
from pixelflow.metrics.frechet import GaussianStatistics, frechet_distance
from pixelflow.metrics.reference import INCEPTION, KEPT, Reference, read_statistics


class Pixels:
    """Stands in for Inception: pool, logits and spatial features are pixels and sums of them."""

    name, short, fingerprint, preprocessing = INCEPTION, "", "pixels", "none"
    num_features, num_spatial = 48, 12
    metrics = ("frechet", "spatial_frechet", "inception_score", "kid", "precision_recall", "fid_infinity")

    def needs(self) -> list[str]:
        return []

    def load(self, folder: Path, device: torch.device | str) -> None: ...

    def __call__(self, images: Tensor) -> Features:
        x = images.float().flatten(1) / 255
        return Features(pool=x, logits=4 * x[:, :10], spatial=x[:, ::4])


def images(count: int, seed: int) -> Tensor:
    drawn = torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) * 40 + 120 + 3 * seed
    return drawn.clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference.from_images(Pixels(), images(400, 1).split(64), name="400")


def evaluator(reference: Reference) -> Evaluator:
    return Evaluator(features=Pixels(), reference=reference, kid_subset_size=100, kid_num_subsets=5, split_size=100)


def test_batches_order_and_parts_change_nothing(reference: Reference) -> None:
    """To 1e-9; the Inception score goes by the images' numbers, not by the order in which they come."""
    samples = images(500, 2)
    straight = evaluator(reference)
    straight.update(samples)
    expected = straight.compute()
    assert expected["fid"] > 0.01 and expected["sfid"] > 0.001 and 0 < expected["recall"] < 1
    order = torch.randperm(500, generator=torch.Generator().manual_seed(0))
    for batch in (1, 33, 500):
        shuffled = evaluator(reference)
        for ids in order.split(batch):
            shuffled.update(samples[ids], ids=ids.tolist())
        assert shuffled.compute() == pytest.approx(expected, rel=1e-9)
    for parts in (2, 3, 7):
        whole = evaluator(reference)
        for part in range(parts):
            mine = evaluator(reference)
            for ids in torch.arange(500)[part::parts].split(17):
                mine.update(samples[ids], ids=ids.tolist())
            whole.add_state({key: value.clone() for key, value in mine.state().items()})
            mine.clear()
            assert mine.state() == {} and mine.num_samples == 0
        assert whole.compute() == pytest.approx(expected, rel=1e-9)


def test_singular_covariances_change_nothing_either(reference: Reference) -> None:
    """Fewer samples than features: eigenvalues that ought to be 0 are not taken for small ones."""
    pool = Pixels()(images(20, 3)).pool
    distances = []
    for rows in (pool, pool.flip(0)):
        for batch in (1, 7, 20):
            statistics = GaussianStatistics(num_features=48)
            for part in rows.split(batch):
                part_statistics = GaussianStatistics(num_features=48)
                part_statistics.update(part)
                statistics.merge(part_statistics)
            distances.append(frechet_distance(statistics, reference.statistics))
            distances.append(frechet_distance(reference.statistics, statistics))
    assert distances == pytest.approx([distances[0]] * len(distances), rel=1e-9)


def test_stored_and_read_back(reference: Reference, tmp_path: Path) -> None:
    reference.save(tmp_path / "new" / "kept.npz")
    found = read_statistics(tmp_path / "new" / "kept.npz")
    assert found is not None and found.pool is not None and reference.pool is not None
    assert torch.equal(found.pool, reference.pool) and torch.equal(found.statistics.mean, reference.statistics.mean)
    for field in ("name", "extractor", "preprocessing", "resolution", "num_images"):
        assert getattr(found, field) == getattr(reference, field)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["kept.npz"]
    samples = images(100, 2)
    results = []
    for one in (reference, found):
        measured = evaluator(one)
        measured.update(samples)
        results.append(measured.compute())
    assert results[0] == pytest.approx(results[1], rel=1e-9)


def test_the_adm_suites_file(tmp_path: Path) -> None:
    """mu, sigma, mu_s, sigma_s and images, without a word on the network: it is the Inception of 2015."""
    arrays = {"mu": np.zeros(48), "sigma": np.eye(48), "mu_s": np.ones(12), "sigma_s": np.eye(12)}
    np.savez(tmp_path / "adm.npz", arr_0=np.zeros((2, 4, 4, 3), np.uint8), **arrays)
    found = read_statistics(tmp_path / "adm.npz")
    assert found is not None and found.extractor == INCEPTION and found.pool is None and found.spatial is not None
    np.savez(tmp_path / "images.npz", arr_0=np.zeros((2, 4, 4, 3), np.uint8))
    assert read_statistics(tmp_path / "images.npz") is None
    for name, changed in {"shape": {"sigma": np.eye(3)}, "nan": {"mu": np.full(48, np.nan)}}.items():
        np.savez(tmp_path / f"{name}.npz", **(arrays | changed))
        with pytest.raises(ValueError, match=f"{name}.npz: mean"):
            read_statistics(tmp_path / f"{name}.npz")


def test_what_differs_is_refused(reference: Reference) -> None:
    for changed, message in (
        ({"extractor": "dinov2"}, r"holds 48 features of 'dinov2'.*measured with 'inception"),
        ({"preprocessing": "another resize"}, r"was preprocessed differently \(another resize"),
    ):
        with pytest.raises(ValueError, match=message):
            Evaluator(features=Pixels(), reference=replace(reference, **changed))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the samples have 8 px, reference '400' has 4 px"):
        evaluator(reference).update(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"metrics=\['fvd'\] are none of frechet"):
        Evaluator(features=Pixels(), reference=reference, metrics=["fvd"])


def test_a_large_reference_keeps_evenly_spaced_images(monkeypatch: pytest.MonkeyPatch) -> None:
    assert KEPT == 10_000
    monkeypatch.setattr("pixelflow.metrics.reference.KEPT", 10)
    drawn = images(35, 4)
    for batch in (4, 35):
        made = Reference.from_images(Pixels(), drawn.split(batch), name="35", total=35)
        assert made.pool is not None and len(made.pool) == 10 and made.num_images == 35
        positions = [int((row == Pixels()(drawn).pool).all(dim=1).nonzero()[0]) for row in made.pool]
        assert sorted(positions) == [0, 4, 7, 11, 14, 18, 21, 25, 28, 32]
        assert made.statistics.mean.tolist() == pytest.approx(Pixels()(drawn).pool.double().mean(dim=0).tolist())


def test_fid_infinity_removes_the_bias() -> None:
    """Two equal Gaussians: the distance of 200 samples is far from 0, that at infinity near it."""
    generator = torch.Generator().manual_seed(0)
    reference = GaussianStatistics(num_features=16)
    reference.update(torch.randn(200_000, 16, generator=generator))
    samples = torch.randn(400, 16, generator=generator)
    plain = GaussianStatistics(num_features=16)
    plain.update(samples)
    biased, unbiased = frechet_distance(plain, reference), frechet_at_infinity(samples, reference)
    assert biased > 0.1 and abs(unbiased) < biased / 3
    assert frechet_at_infinity(samples, reference) == unbiased
    with pytest.raises(ValueError, match="at least 4 samples, got 3"):
        frechet_at_infinity(samples[:3], reference)
