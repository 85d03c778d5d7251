"""job=data reports every file that cannot be used, and what to do about it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pixelflow.data import ImageFolder, Reading
from pixelflow.data.images import folder_name
from pixelflow.data.inspection import describe_samples, remedy
from pixelflow.jobs import data as job
from tests.conf.test_compose import composed
from tests.unit.data.files import image_folder


def broken_folder(root: Path, *, broken: int) -> Path:
    image_folder(root, count=40)
    for file in sorted((root / "train").rglob("*.jpg"))[:broken]:
        file.write_bytes(file.read_bytes()[:200])
    (root / "train" / "c1" / "empty.png").touch()
    return root


def test_all_files_that_are_broken_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Half of the budget of training is exceeded; the sheet, the speed and the list are there all the same."""
    root = broken_folder(tmp_path / "birds", broken=12)
    call = ["data=imagefolder", f"data.root={root}", "data.reading.workers=0", f"job.output={tmp_path / 'out'}"]
    job.JOB.start(composed("job=data", *call, "job.batches=1", "job.batch_size=8"), [])
    told = capsys.readouterr().out
    assert "13 of 41 samples looked at cannot be used:" in told
    assert f"{root / 'train' / 'c0' / '0000.jpg'}: " in told
    assert "  and 3 more\n" in told
    assert "to leave them out instead: data.reading.max_bad_share=0.318" in told
    folder = tmp_path / "out" / "birds"
    listed = [json.loads(line) for line in (folder / "bad_samples.jsonl").read_text().splitlines()]
    assert len(listed) == 13 and listed[-1]["reason"] == "empty file"
    assert (folder / "contact_sheet.png").exists()
    assert json.loads((folder / "data.json").read_text())["images per second"] > 0


def test_a_folder_without_a_good_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = broken_folder(tmp_path / "birds", broken=40)
    call = ["data=imagefolder", f"data.root={root}", "data.image_size=16", f"job.output={tmp_path / 'out'}"]
    job.JOB.start(composed("job=data", *call, "job.samples=20"), [])
    told = capsys.readouterr().out
    assert "20 of 20 samples looked at cannot be used" in told and "job.samples=41 looks at all" in told
    assert "not measured, because most samples cannot be used" in told


def test_few_broken_files_need_no_remedy(tmp_path: Path) -> None:
    data = ImageFolder(root=str(broken_folder(tmp_path, broken=0)), num_classes=2, reading=Reading(max_bad_share=0.1))
    facts, bad = describe_samples(data, 100)
    text = remedy(data, bad, looked_at=facts["looked at"], listed=tmp_path / "list")
    assert "1 of 41 samples" in text and "remedy: none is needed" in text and "looks at all" not in text


@pytest.mark.parametrize(
    ("root", "name"),
    [
        ("/a/b", "b"), ("/a/b/", "b"), ("/a/b/*.parquet", "b"), ("b/x-{0..3}.tar", "b"), ("b/x.tar", "b"),
        ("s3://b", "b"), ("https://host/b/", "b"), ("/", "none"), (None, "none"),
        ("owner/b", "b"), ("s3://b/..", "none"),
    ],
)  # fmt: skip
def test_the_name_of_a_folder(root: str | None, name: str) -> None:
    assert folder_name(root, "none") == name
