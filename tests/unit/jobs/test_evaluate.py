"""job=evaluate on images of all kinds, with Inception of random weights, and what it says to bad ones."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image

from pixelflow.jobs.evaluate import JOB
from pixelflow.metrics import accumulate
from pixelflow.metrics.features import DigitsFeatures, Features
from pixelflow.metrics.inception import InceptionFeatures, save_random_weights
from pixelflow.metrics.reference import Reference
from pixelflow.workflows import evaluate_samples
from tests.conf.test_compose import composed

pytest.importorskip("torch_fidelity")


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inception's file, and a reference in the form of the ADM suite's: statistics and images."""
    root = tmp_path_factory.mktemp("assets")
    save_random_weights(root / "weights-inception-2015-12-05-6726825d.pth")
    extractor = InceptionFeatures()
    extractor.load(root, "cpu")
    images = random_images(12, 1)
    made = Reference.from_images(extractor, [torch.from_numpy(images).permute(0, 3, 1, 2)], name="twelve")
    assert made.spatial is not None
    np.savez(root / "adm.npz", arr_0=images, mu=made.statistics.mean, sigma=made.statistics.covariance,
             mu_s=made.spatial.mean, sigma_s=made.spatial.covariance)  # fmt: skip
    return root


def random_images(count: int, seed: int, side: int = 32) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, (count, side, side, 3)).astype(np.uint8)


def measure(samples: Path, assets: Path, *more: str) -> None:
    config = composed(
        "job=evaluate", f"samples={samples}", "metrics=imagenet", f"assets.root={assets}", "metrics.reference=adm.npz",
        "trainer.device=cpu", *more,
    )  # fmt: skip
    JOB.start(config, [])


def test_the_papers_metrics_against_an_adm_file(assets: Path, tmp_path: Path) -> None:
    """Stored statistics for FID and sFID, its images for precision and recall; their features are kept."""
    np.savez_compressed(tmp_path / "samples.npz", arr_0=random_images(11, 2))
    measure(tmp_path / "samples.npz", assets, "arm='jit x'")
    found = json.loads((tmp_path / "samples.npz.evaluation.json").read_text())
    assert found["record"]["arm"] == "jit x"
    assert list(found["metrics"]) == ["fid", "sfid", "inception_score", "precision", "recall", "num_samples"]
    assert found["record"]["reference"] == "adm.npz" and found["record"]["features"] == "inception-2015-12-05"
    assert found["record"]["reference_images_of_precision_recall"] == 12
    assert len(list((assets / "references").glob("inception*.npz"))) == 1


def test_a_folder_an_npz_and_shards_give_the_same_numbers(tmp_path: Path) -> None:
    images = random_images(30, 2, side=16)
    np.savez_compressed(tmp_path / "samples.npz", arr_0=images)
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "shards").mkdir()
    with webdataset.TarWriter(str(tmp_path / "shards" / "a.tar")) as tar:
        for i, pixels in enumerate(images):
            file = tmp_path / "folder" / "inner" / f"{i:03d}.png"
            Image.fromarray(pixels).save(file)
            tar.write({"__key__": f"{i:03d}", "png": file.read_bytes()})
    results, data = [], []
    for name in ("samples.npz", "folder", "shards"):
        JOB.start(composed("job=evaluate", f"samples={tmp_path / name}", "metrics.also=[fid_infinity]"), [])
        results.append(json.loads((tmp_path / f"{name}.evaluation.json").read_text())["metrics"])
        data.append(f"metrics.reference={tmp_path / name}")
    assert results[0] == results[1] == results[2]
    assert {"fd_digits", "fd_infinity_digits", "kid_digits", "kid_digits_se"} <= set(results[0])
    root = f"assets.root={tmp_path / 'assets'}"
    for reference in data:  # images on disk as the reference: the same images are at no distance
        JOB.start(composed("job=evaluate", f"samples={tmp_path / 'folder'}", reference, root), [])
        found = json.loads((tmp_path / "folder.evaluation.json").read_text())["metrics"]
        assert found["fd_digits"] == pytest.approx(0, abs=1e-9) and found["recall"] == found["precision"] == 1
    assert len(list((tmp_path / "assets" / "references").glob("digits*.npz"))) == 3


@pytest.mark.parametrize("saves_after", [1, 2, 3])
def test_parts_that_are_kept_on_the_way_change_nothing(
    saves_after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part is due after so many batches of three, as after a minute of a real evaluation."""
    np.savez_compressed(tmp_path / "samples.npz", arr_0=random_images(30, 2, side=16))
    config = composed("job=evaluate", f"samples={tmp_path / 'samples.npz'}")
    monkeypatch.setattr(evaluate_samples, "READ_BATCH", 10)
    path = tmp_path / "samples.npz.evaluation.json"
    JOB.start(config, [])
    expected = json.loads(path.read_text())["metrics"]
    written, write = [], accumulate.Parts.write
    seconds = iter([0.0, *(1000.0 if i == saves_after else 0.0 for i in range(1, 10))])

    def spy(parts: accumulate.Parts, suite: Any) -> None:
        written.append(suite.num_samples)
        write(parts, suite)

    monkeypatch.setattr(accumulate, "time", SimpleNamespace(monotonic=lambda: next(seconds, 0.0)))
    monkeypatch.setattr(accumulate.Parts, "write", spy)
    JOB.start(config, [])
    assert written[0] == 10 * saves_after and sum(written) == 30
    assert json.loads(path.read_text())["metrics"] == pytest.approx(expected, rel=1e-9)
    assert not list(tmp_path.glob(".*state*"))


def test_bad_input_is_a_short_message_and_writes_nothing(assets: Path, tmp_path: Path) -> None:
    good = random_images(11, 3)
    np.savez(tmp_path / "no_arr_0.npz", images=good)
    np.savez(tmp_path / "floats.npz", arr_0=good.astype(np.float32) / 255)
    np.savez(tmp_path / "nine.npz", arr_0=good[:9])
    np.savez(tmp_path / "large.npz", arr_0=random_images(11, 3, side=64))
    np.savez(tmp_path / "good.npz", arr_0=good)
    np.savez(tmp_path / "wrong.npz", mu=np.zeros(64), sigma=np.eye(64))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "good.npz").read_bytes()[:500])
    for name in ("mixed", "truncated", "empty"):
        (tmp_path / name).mkdir()
    for i, pixels in enumerate(good):
        for name in ("mixed", "truncated"):
            Image.fromarray(pixels).save(tmp_path / name / f"{i:03d}.png")
    Image.fromarray(good[0][:16, :16]).save(tmp_path / "mixed" / "004.png")
    damaged = tmp_path / "truncated" / "006.png"
    damaged.write_bytes(damaged.read_bytes()[:-900])
    before = sorted(p.name for p in tmp_path.iterdir())
    for name, message, *more in (
        ("no_arr_0.npz", "it has no arr_0 (it has images)"),
        ("floats.npz", "arr_0 must be uint8 (N, H, W, C), got float32"),
        ("nine.npz", "9 images are too few to be measured: at least 10"),
        ("large.npz", "the samples have 64 px, reference 'adm.npz' has 32 px"),
        ("cut.npz", "cut.npz cannot be read as an .npz of images"),
        ("mixed", "004.png has (16, 16) pixels, 000.png has (32, 32)"),
        ("truncated", "006.png cannot be read"),
        ("empty", "holds no .png, .jpg or .webp images"),
        ("good.npz", "holds 64 features of 'inception-2015-12-05'", f"metrics.reference={tmp_path / 'wrong.npz'}"),
        ("good.npz", "metrics.also=['fvd']: fvd is none of", "metrics.also=[fvd]"),
        ("good.npz", "lacks clip-vit-large-patch14/model.safetensors, ", "metrics.also=[clip_score]"),
        ("good.npz", "lacks dinov2_vitl14_pretrain.pth; `python run.py job=fetch_assets`", "metrics.also=[fd_dinov2]"),
    ):  # fmt: skip
        with pytest.raises(ValueError) as caught:
            measure(tmp_path / name, assets, *more)
        assert message in str(caught.value), (name, str(caught.value))
        assert len(str(caught.value)) < 800 and "\n" not in str(caught.value)
        assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_features_that_are_not_finite(assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extract = DigitsFeatures.__call__

    def broken(self: DigitsFeatures, images: torch.Tensor) -> Features:
        found = extract(self, images)
        pool = found.pool.clone()
        pool[3] = torch.nan
        return Features(pool=pool, logits=found.logits)

    np.savez(tmp_path / "good.npz", arr_0=random_images(11, 3, side=16))
    config = composed("job=evaluate", f"samples={tmp_path / 'good.npz'}", "trainer.device=cpu")
    JOB.start(config, [])
    (tmp_path / "good.npz.evaluation.json").unlink()
    monkeypatch.setattr(DigitsFeatures, "__call__", broken)
    with pytest.raises(ValueError, match="features hold NaN or infinity in 1 of"):
        JOB.start(config, [])
    assert [p.name for p in tmp_path.iterdir()] == ["good.npz"]
