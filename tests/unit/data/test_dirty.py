"""200 deliberately broken files among 2,000: all good ones arrive, all bad ones are named with their reason."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixelflow.data import ImageFolder, Reading
from pixelflow.data.dirty import DirtyData, DirtyReport, Found
from pixelflow.errors import UserError
from tests.unit.data.files import encoded
from tests.unit.data.test_decode import bomb, huge_jpeg

TOTAL, BROKEN = 2000, 200


def pixels(i: int) -> np.ndarray:
    """A grey image that can be identified after any crop: its three channels count in base 13."""
    return np.broadcast_to(np.uint8([i % 13 * 19, i // 13 % 13 * 19, i // 169 * 19]), (18, 18, 3))


def good(i: int) -> bytes:
    """Every kind of file that must be converted correctly."""
    image = Image.fromarray(np.ascontiguousarray(pixels(i)))
    kinds: list[Callable[[], bytes]] = [
        lambda: encoded(image, quality=100, subsampling=0),
        lambda: encoded(image, "PNG"),
        lambda: encoded(image.convert("P", palette=Image.Palette.ADAPTIVE), "PNG"),
        lambda: encoded(image.convert("RGBA"), "WEBP", lossless=True),
        lambda: encoded(image, "TIFF"),
    ]
    return kinds[i % len(kinds)]()


def bad(i: int) -> tuple[bytes, str]:
    jpeg = encoded(Image.fromarray(np.random.default_rng(i).integers(0, 255, (40, 40, 3), dtype=np.uint8)))
    kinds = [
        (b"", "empty file"),
        (jpeg[: len(jpeg) // 2], "corrupt image"),
        (b"<html>404 not found</html>", "not an image"),
        (bomb(), "too many pixels"),
        (huge_jpeg(), "too many pixels"),
        (encoded(Image.effect_noise((30, 30), 50), "PNG")[:600], "corrupt image"),
        (jpeg[:900] + b"\xff\xd9" + jpeg[1000:], "corrupt image"),
        (np.random.default_rng(i).bytes(800), "not an image"),
    ]
    return kinds[i % len(kinds)]


def told(x: object) -> list[int]:
    values = ((x.mean(dim=(2, 3)) + 1) * 127.5 / 19).round().int()  # type: ignore[attr-defined]
    return (values[:, 0] + 13 * values[:, 1] + 169 * values[:, 2]).tolist()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The data, and the reason by the name of each broken file."""
    root = tmp_path_factory.mktemp("dirty")
    broken = set(np.random.default_rng(0).permutation(TOTAL)[:BROKEN].tolist())
    reasons = {}
    for i in range(TOTAL):
        path = root / "train" / f"c{i % 2}" / f"{i:04}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if i in broken:
            content, reasons[path.name] = bad(i)
        else:
            content = good(i)
        path.write_bytes(content)
    return root, reasons


def listed(path: Path) -> dict[str, str]:
    return {Path(line["file"]).name: line["reason"] for line in map(json.loads, path.read_text().splitlines())}


def test_all_good_ones_arrive_and_all_bad_ones_are_named(folder: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    root, reasons = folder
    data = ImageFolder(root=str(root), image_size=16, num_classes=2, reading=Reading(workers=2, max_bad_share=0.2))
    loader = data.loader(batch_size=100, seed=0, report=tmp_path)
    seen: Counter[int] = Counter()
    for batch in itertools.islice(loader, TOTAL // 100):
        images = told(batch.x)
        assert [i % 2 for i in images] == batch.condition.class_label.tolist()
        seen.update(images)
    loader.close()
    assert set(seen) == {i for i in range(TOTAL) if f"{i:04}.jpg" not in reasons}
    assert seen.total() == TOTAL  # substitutes keep every rank's number of steps
    assert listed(tmp_path / "bad_samples.jsonl") == reasons
    assert loader.bad.reasons == Counter(reasons.values())


def test_a_restart_lists_none_twice(folder: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    root, reasons = folder
    data = ImageFolder(root=str(root), image_size=16, num_classes=2, reading=Reading(workers=0, max_bad_share=0.2))
    for _ in range(2):
        for _ in itertools.islice(data.loader(batch_size=500, seed=0, report=tmp_path), 2):
            pass
    lines = (tmp_path / "bad_samples.jsonl").read_text().splitlines()
    assert len(lines) == len(listed(tmp_path / "bad_samples.jsonl")) > 80
    assert listed(tmp_path / "bad_samples.jsonl").items() <= reasons.items()


def test_too_many_are_refused(folder: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    data = ImageFolder(
        root=str(folder[0]), image_size=16, num_classes=2, reading=Reading(workers=0, max_bad_share=0.05)
    )
    message = r"\d+ of \d+ samples cannot be used \(\d+ .*more than max_bad_share=0.05 accepts; .*bad_samples.jsonl"
    with pytest.raises(DirtyData, match=message):
        list(itertools.islice(data.loader(batch_size=100, seed=0, report=tmp_path), 20))
    assert (tmp_path / "bad_samples.jsonl").exists()


def test_a_folder_of_broken_files_only(tmp_path: Path) -> None:
    (tmp_path / "c0").mkdir()
    for i in range(3):
        (tmp_path / "c0" / f"{i}.jpg").write_bytes(b"?")
    data = ImageFolder(root=str(tmp_path), image_size=16, num_classes=1, reading=Reading(workers=0))
    with pytest.raises(ValueError, match=r"50 samples in a row cannot be used; the last was .*: not an image"):
        next(iter(data.loader(batch_size=2, seed=0)))


def test_a_damaged_list_of_an_earlier_start_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad_samples.jsonl").write_text('{"index": 1, "rea')
    with pytest.raises(UserError, match=r"bad_samples\.jsonl cannot be read .*remove it"):
        DirtyReport(folder=tmp_path, max_share=0)


def test_filtered_samples_do_not_count_as_damaged() -> None:
    report = DirtyReport(folder=None, max_share=0)
    report.add(drawn=1, found=[Found(0, "a", "too small", "", True)])
    with pytest.raises(DirtyData, match="1 of 2 samples"):
        report.add(drawn=1, found=[Found(1, "b", "corrupt image", "", False)])


def test_the_reference_of_the_metrics_leaves_them_out_too(folder: tuple[Path, dict[str, str]]) -> None:
    data = ImageFolder(root=str(folder[0]), image_size=16, num_classes=2, reference_images=300)
    images, labels = data.images("train")
    assert 250 < len(images) == len(labels) < 295
    assert images.shape[1:] == (3, 16, 16)
    with pytest.raises(ValueError, match=r"has no val folder; use the train split"):
        data.images("held_out")
