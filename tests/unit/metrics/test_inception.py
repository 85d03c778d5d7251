"""Inception in torch-fidelity's file format with seeded random weights, beside torch-fidelity itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pixelflow.metrics.evaluator import Evaluator
from pixelflow.metrics.features import Features
from pixelflow.metrics.inception import InceptionFeatures, save_random_weights
from pixelflow.metrics.reference import Reference

pytest.importorskip("torch_fidelity")


def images(count: int, *, side: int = 32, seed: int = 0) -> Tensor:
    """Smooth noise: what an Inception of random weights can tell apart."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=generator) * 255
    fine = torch.randn(count, 3, side, side, generator=generator) * 20
    smooth = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")
    return (smooth + fine).clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("assets") / "inception.pth"
    save_random_weights(path)
    return path


@pytest.fixture(scope="module")
def extractor(weights: Path) -> InceptionFeatures:
    made = InceptionFeatures(file=weights.name)
    made.load(weights.parent, "cpu")
    return made


@pytest.fixture(scope="module")
def theirs(weights: Path) -> Any:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    return FeatureExtractorInceptionV3(
        "theirs", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(weights)
    )


@pytest.mark.parametrize("side", [32, 64])
def test_pool_and_logits_are_those_of_torch_fidelity(side: int, extractor: InceptionFeatures, theirs: Any) -> None:
    ours = extractor(images(2, side=side))
    pool, logits = theirs(images(2, side=side))
    torch.testing.assert_close(ours.pool, pool, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.logits, logits, atol=1e-4, rtol=1e-4)
    assert ours.pool.shape == (2, 2048) and ours.logits is not None and ours.logits.shape == (2, 1008)
    assert pool.std() > 0.01 and logits.std() > 0.01


def test_the_spatial_layer_is_the_first_channels_of_the_1x1_branch(extractor: InceptionFeatures, theirs: Any) -> None:
    """Layer, channels and order, against a hook on torch-fidelity's own module."""
    seen: list[Tensor] = []
    hook = theirs.Mixed_6d.branch1x1.register_forward_hook(lambda module, args, output: seen.append(output.clone()))
    theirs(images(2))
    hook.remove()
    spatial = extractor(images(2)).spatial
    assert spatial is not None and spatial.shape == (2, 2023) and seen[0].shape == (2, 192, 17, 17)
    for image in range(2):
        for row, column, channel in ((0, 0, 0), (0, 0, 6), (3, 11, 2), (16, 16, 6), (7, 0, 5)):
            position = (row * 17 + column) * 7 + channel
            assert spatial[image, position] == pytest.approx(seen[0][image, channel, row, column].item(), abs=1e-5)
    torch.testing.assert_close(spatial, seen[0][:, :7].permute(0, 2, 3, 1).reshape(2, 2023), atol=1e-5, rtol=1e-5)


def test_grey_is_three_equal_channels_and_batches_change_little(extractor: InceptionFeatures) -> None:
    grey = images(3)[:, :1]
    torch.testing.assert_close(extractor(grey).pool, extractor(grey.expand(-1, 3, -1, -1)).pool)
    whole, single = extractor(images(3)), extractor(images(3)[:1])
    torch.testing.assert_close(whole.pool[:1], single.pool, rtol=1e-4, atol=1e-5)


def test_the_weights_are_read_as_plain_tensors(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> Any:
            return print, ("unpickled",)

    torch.save({"fc.weight": Harm()}, tmp_path / "harm.pth")
    torch.save({"fc.weight": torch.zeros(3)}, tmp_path / "other.pth")
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04 and no more")
    for name, message in {
        "harm.pth": "is not a file of plain tensors",
        "cut.pth": "is not a file of plain tensors",
        "other.pth": "holds no weights of torch-fidelity's Inception",
        "absent.pth": "absent.pth is missing",
    }.items():
        with pytest.raises(ValueError, match=message) as caught:
            InceptionFeatures(file=name).load(tmp_path, "cpu")
        assert len(str(caught.value)) < 400


@pytest.mark.parametrize("bad", [torch.zeros(1, 3, 8, 8), torch.zeros(1, 2, 8, 8, dtype=torch.uint8)])
def test_other_images_are_refused(bad: Tensor, extractor: InceptionFeatures) -> None:
    with pytest.raises(ValueError, match=r"images must be uint8 \(B, 1 or 3, H, W\)"):
        extractor(bad)


def agreement(extractor: InceptionFeatures, weights: Path, count: int) -> tuple[dict[str, float], dict[str, float]]:
    import torch_fidelity
    from torch.utils.data import TensorDataset

    class Images(TensorDataset):
        def __getitem__(self, index: int) -> Tensor:
            return self.tensors[0][index]

    samples, real = images(count, seed=1), images(count, seed=2) // 2
    found = torch_fidelity.calculate_metrics(
        input1=Images(samples), input2=Images(real), fid=True, isc=True, isc_splits=1, samples_shuffle=False,
        cuda=False, cache=False, save_cpu_ram=True, verbose=False, batch_size=50,
        feature_extractor_weights_path=str(weights),
    )  # fmt: skip
    return measured(extractor, samples, real, batch=50), found


def measured(extractor: InceptionFeatures, samples: Tensor, real: Tensor, *, batch: int) -> dict[str, float]:
    reference = Reference.from_images(extractor, real.split(50), name="real")
    evaluator = Evaluator(features=extractor, reference=reference)
    for part in samples.split(batch):
        evaluator.update(part)
    return evaluator.compute()


def compare(ours: dict[str, float], theirs: dict[str, float]) -> None:
    assert ours["fid"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)
    assert ours["inception_score"] == pytest.approx(theirs["inception_score_mean"], rel=1e-4)
    assert ours["fid"] > 0.1 and ours["inception_score"] > 1 and ours["sfid"] > 0.01


@pytest.mark.slow
def test_fid_and_inception_score_are_those_of_torch_fidelity(extractor: InceptionFeatures, weights: Path) -> None:
    compare(*agreement(extractor, weights, 16))


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_the_same_on_many_images(extractor: InceptionFeatures, weights: Path) -> None:
    """FEATURE_IMAGES=2000 takes half an hour on a core; without it there are fewer."""
    compare(*agreement(extractor, weights, int(os.environ.get("FEATURE_IMAGES", 40))))


@pytest.mark.slow
def test_batch_sizes_of_the_network_change_metrics_by_less_than_1e_4(extractor: InceptionFeatures) -> None:
    samples, real = images(24, seed=1), images(24, seed=2) // 2
    large, small = (measured(extractor, samples, real, batch=batch) for batch in (24, 7))
    assert {"fid", "sfid", "inception_score", "precision", "recall"} <= {*large}
    assert small == pytest.approx(large, rel=1e-4)


def test_an_evaluation_needs_what_the_reference_lacks(extractor: InceptionFeatures) -> None:
    made = Reference.from_images(extractor, [images(6)], name="six")
    assert isinstance(extractor(images(1)), Features) and made.spatial is not None
    for gone, message in (("pool", "no images"), ("spatial", "no mu_s and sigma_s")):
        from dataclasses import replace

        with pytest.raises(ValueError, match=message):
            Evaluator(features=extractor, reference=replace(made, **{gone: None}))
