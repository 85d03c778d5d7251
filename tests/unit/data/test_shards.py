from __future__ import annotations

import errno
import fcntl
import io
import itertools
import json
import tarfile
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
import webdataset
from PIL import Image

from pixelflow.data import ImageText, Reading, WebDataset
from pixelflow.data.preparation import PrepareSettings, prepare
from pixelflow.data.records import BadSample
from pixelflow.data.shards import ShardError, ShardSource, ShardStore, scan
from pixelflow.errors import UserError
from tests.unit.data.files import encoded, grey_of

N = 20


def shard(path: Path, samples: list[dict[str, bytes]], first: int = 0) -> Path:
    with tarfile.open(path, "w") as archive:
        for number, members in enumerate(samples, start=first):
            for extension, content in members.items():
                info = tarfile.TarInfo(f"some/{number:05}.{extension}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


def grey(i: int) -> bytes:
    return encoded(Image.new("RGB", (20, 20), (i, i, i)), quality=100)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """20 samples in shards of 7, 7 and 6; image i is grey i, of class i mod 3, and described."""
    root = tmp_path / "shards"
    root.mkdir()
    for start in range(0, N, 7):
        samples = [
            {"jpg": grey(i), "cls": str(i % 3).encode(), "txt": f"grey {i}".encode(),
             "json": json.dumps({"long": f"a plain grey of {i}"}).encode()}
            for i in range(start, min(start + 7, N))
        ]  # fmt: skip
        shard(root / f"s{start:02}.tar", samples, start)
    return root


def data(root: object, tmp_path: Path, **settings: object) -> WebDataset:
    defaults: dict = {"image_size": 16, "num_classes": 3, "reading": Reading(workers=0, retries=1)}
    return WebDataset(root=str(root), cache_dir=str(tmp_path / "cache"), **(defaults | settings))


@pytest.mark.parametrize("shuffle", [0, 1, 2])
def test_every_epoch_holds_every_sample_once(folder: Path, tmp_path: Path, shuffle: int) -> None:
    loader = data(folder, tmp_path, shuffle_shards=shuffle).loader(batch_size=10, seed=0)
    for _ in range(2):
        batches = list(itertools.islice(loader, 2))
        greys = [g for b in batches for g in grey_of(b.x)]
        assert sorted(greys) == list(range(N))
        assert [g % 3 for g in greys] == torch.cat([b.condition.class_label for b in batches]).tolist()


def test_workers_and_ranks_change_nothing(folder: Path, tmp_path: Path) -> None:
    plain = [b.x for b in itertools.islice(data(folder, tmp_path, shuffle_shards=1).loader(batch_size=4, seed=1), 10)]
    parts = []
    for rank in range(2):
        loader = data(folder, tmp_path, shuffle_shards=1, reading=Reading(workers=2)).loader(
            batch_size=4, seed=1, rank=rank, world_size=2
        )
        parts.append([b.x for b in itertools.islice(loader, 10)])
        loader.close()
    assert all(torch.equal(torch.cat(pair), whole) for *pair, whole in zip(*parts, plain, strict=True))


def test_the_samples_are_those_that_webdataset_reads(folder: Path, tmp_path: Path) -> None:
    source = data(folder, tmp_path, captions={"txt": 1.0}).source("train")
    theirs = webdataset.WebDataset(sorted(map(str, folder.glob("*.tar"))), shardshuffle=False)
    for index, sample in enumerate(theirs):
        record = source.read(index)
        assert record.image == sample["jpg"]
        assert record.label == int(sample["cls"])
        assert record.captions["txt"] == sample["txt"].decode()
    assert index + 1 == sum(source.group_sizes)


def test_captions_by_weight(folder: Path, tmp_path: Path) -> None:
    texts = ImageText(root=str(folder), captions={"txt": 1, "long": 1}, image_size=16, cache_dir=str(tmp_path / "c"),
                      reading=Reading(workers=0))  # fmt: skip
    batch = next(iter(texts.loader(batch_size=N, seed=0)))
    assert batch.condition.caption is not None
    long = [text.startswith("a plain") for text in batch.condition.caption]
    assert 0 < sum(long) < N
    assert [int(text.split()[-1]) for text in batch.condition.caption] == grey_of(batch.x)
    assert batch.condition.class_label.unique().tolist() == [0]


def test_shards_behind_a_url_are_kept_within_bounds(folder: Path, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    for path in folder.glob("*.tar"):
        memory.pipe(f"/bucket/{path.name}", path.read_bytes())
    some = data("memory://bucket", tmp_path, cache_gb=25e-6, shuffle_shards=1)
    greys = [g for b in itertools.islice(some.loader(batch_size=10, seed=0), 2) for g in grey_of(b.x)]
    assert sorted(greys) == list(range(N))
    kept = list((tmp_path / "cache" / "shards").glob("*.tar"))
    assert 1 <= len(kept) < 3
    pattern = data("memory://bucket/s{00,07,14}.tar", tmp_path)
    assert pattern.source("train").group_sizes == [7, 7, 6]


def test_long_names_and_strange_members(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in (("d/", None), ("x" * 150 + ".jpg", grey(9)), ("x" * 150 + ".cls", b"1"),
                              ("noextension", b"?"), ("b.seg.png", b"mask"), ("b.JPG", grey(8))):  # fmt: skip
            info = tarfile.TarInfo(name)
            if content is None:
                info.type = tarfile.DIRTYPE
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    source = data(tmp_path, tmp_path).source("train")
    assert source.group_sizes == [2]
    assert source.read(0).image == grey(9) and source.read(0).label == 1
    assert source.read(1).image == grey(8) and source.read(1).label is None


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"cls": b"1"}, "missing image"),
        ({"jpg": grey(1), "cls": b"one"}, "missing label"),
        ({"jpg": grey(1), "json": b"{"}, "damaged json"),
        ({"jpg": grey(1), "json": b"[" * 100_000}, "damaged json"),
        ({"jpg": grey(1), "embedding.npy": b"?"}, "damaged embedding"),
    ],
)
def test_bad_members(tmp_path: Path, members: dict[str, bytes], reason: str) -> None:
    path = shard(tmp_path / "a.tar", [members])
    source = ShardSource([str(path)], ShardStore(cache=tmp_path / "c", cache_bytes=1e9, retries=0))
    with pytest.raises(BadSample, match=reason):
        source.read(0)


def test_embeddings_are_delivered(tmp_path: Path) -> None:
    def member(i: int) -> bytes:
        stream = io.BytesIO()
        np.save(stream, np.full((3, 2), i, dtype=np.float16))
        return stream.getvalue()

    shard(tmp_path / "a.tar", [{"jpg": grey(i), "cls": b"0", "embedding.npy": member(i)} for i in range(6)])
    batch = next(iter(data(tmp_path, tmp_path, embeddings=True).loader(batch_size=6, seed=0)))
    assert batch.condition.text is not None
    assert batch.condition.text.shape == (6, 3, 2)
    assert batch.condition.text[:, 0, 0].int().tolist() == grey_of(batch.x)
    assert batch.condition[2:4].text.shape == (2, 3, 2)  # type: ignore[union-attr]


def test_a_shard_that_vanishes_is_tried_again_and_named(folder: Path, tmp_path: Path) -> None:
    some = data(folder, tmp_path)
    loader = some.loader(batch_size=10, seed=0)
    (folder / "s07.tar").unlink()
    with pytest.raises(ShardError, match=r"s07\.tar cannot be read, tried 2 times: .*No such file"):
        list(itertools.islice(loader, 2))


def test_a_shard_that_comes_back_is_read(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = folder / "s07.tar"
    content = hidden.read_bytes()
    loader = data(folder, tmp_path).loader(batch_size=10, seed=0)
    hidden.unlink()
    monkeypatch.setattr("pixelflow.data.shards.time.sleep", lambda seconds: hidden.write_bytes(content))
    assert len(list(itertools.islice(loader, 2))) == 2


def test_a_shard_that_is_cut_short_is_named(folder: Path, tmp_path: Path) -> None:
    path = folder / "s07.tar"
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"s07\.tar is (cut short|not a whole tar archive)"):
        data(folder, tmp_path).loader(batch_size=10, seed=0)


def test_no_tar_at_all(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"this is no archive" * 100)
    with pytest.raises(ValueError, match="not a whole tar archive"):
        scan(tmp_path / "a.tar")


@pytest.mark.parametrize(
    ("root", "message"),
    [
        (None, "root is missing: give the folder or the URL of .tar shards"),
        ("nowhere", "root=nowhere is not a folder of shards"),
        ("nowhere-{0..3}.tar", r"nowhere-0\.tar does not exist"),
    ],
)
def test_check(root: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WebDataset(root=root).check()


def test_pairs_can_be_prepared(tmp_path: Path) -> None:
    """A folder of images and texts has no shards, and preparing it must not look for any."""
    (tmp_path / "pairs").mkdir()
    for i in range(6):
        (tmp_path / "pairs" / f"{i}.jpg").write_bytes(grey(i))
        (tmp_path / "pairs" / f"{i}.txt").write_text(f"grey {i}")
    pairs = ImageText(root=str(tmp_path / "pairs"), image_size=16)
    settings = PrepareSettings(size=16, samples_per_shard=4)
    index = prepare(pairs, split="train", output=tmp_path / "out", settings=settings, workers=0, max_bad_share=0)
    assert (index["samples"], index["classes"], pairs.class_names()) == (6, [], ())
    texts = ImageText(root=str(tmp_path / "out"), image_size=16, cache_dir=str(tmp_path / "c"),
                      reading=Reading(workers=0))  # fmt: skip
    captions = next(iter(texts.loader(batch_size=6, seed=0))).condition.caption
    assert sorted(captions or ()) == [f"grey {i}" for i in range(6)]


def test_pairs_beside_each_other(tmp_path: Path) -> None:
    root = tmp_path / "pairs" / "deep"
    root.mkdir(parents=True)
    for i in range(6):
        (root / f"{i}.jpg").write_bytes(grey(i))
        if i != 5:
            (root / f"{i}.txt").write_text(f"grey {i}\n")
        (root / f"{i}.json").write_text(json.dumps({"long": f"a plain grey of {i}", "width": 20}))
    texts = ImageText(root=str(tmp_path / "pairs"), image_size=16, captions={"txt": 1.0}, reading=Reading(workers=0))
    texts.check()
    loader = texts.loader(batch_size=6, seed=0)
    batch = next(iter(loader))
    assert batch.condition.caption is not None
    assert [int(text.split()[-1]) for text in batch.condition.caption] == grey_of(batch.x)
    assert loader.bad.reasons == {"missing caption": 1}
    long = ImageText(root=str(tmp_path / "pairs"), image_size=16, captions={"long": 1.0}, reading=Reading(workers=0))
    assert all(c.startswith("a plain") for c in next(iter(long.loader(batch_size=6, seed=0))).condition.caption or ())
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"holds neither \.tar files nor images"):
        ImageText(root=str(tmp_path / "empty"), image_size=16).check()


@pytest.mark.parametrize("content", ["{", "[]", '{"shards": [{"name": "a.tar"}]}'])
def test_a_damaged_index_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "index.json").write_text(content)
    with pytest.raises(UserError, match=r"index\.json is damaged .*copy it again"):
        WebDataset(root=str(tmp_path)).check()


def test_an_unknown_protocol_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"root=nowhere://bucket: .*nowhere"):
        data("nowhere://bucket", tmp_path).source("train")
    with pytest.raises(UserError, match=r"root=nowhere://bucket: .*nowhere"):
        data("nowhere://bucket", tmp_path).check()


def test_a_cache_on_a_filesystem_without_locks_is_refused_at_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    fsspec.filesystem("memory").pipe("/locks/a.tar", (folder / "s00.tar").read_bytes())
    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(UserError, match="does not support file locks"):
        data("memory://locks", tmp_path).source("train")


def test_links_devices_and_names_that_lead_out_are_not_followed(tmp_path: Path) -> None:
    """Members are read in place and never written to disk, so that their names do not matter."""
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    root = tmp_path / "root"
    root.mkdir()
    with tarfile.open(root / "a.tar", "w") as archive:
        for name, kind, target in (
            ("a.txt", tarfile.SYMTYPE, str(secret)), ("b.txt", tarfile.LNKTYPE, str(secret)),
            ("c.jpg", tarfile.CHRTYPE, ""), ("d.jpg", tarfile.FIFOTYPE, ""),
        ):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
        for name in ("/etc/evil.jpg", "../../evil2.jpg"):
            info = tarfile.TarInfo(name)
            info.size = len(grey(3))
            archive.addfile(info, io.BytesIO(grey(3)))
    before = sorted(tmp_path.rglob("*"))
    source = data(root, tmp_path).source("train")
    assert source.group_sizes == [2]
    assert [source.read(i).image for i in range(2)] == [grey(3)] * 2
    assert [source.read(i).captions for i in range(2)] == [{}] * 2
    assert [path for path in sorted(tmp_path.rglob("*")) if tmp_path / "cache" not in [path, *path.parents]] == before


def test_a_member_that_states_more_bytes_than_it_has(tmp_path: Path) -> None:
    sparse = tarfile.TarInfo("a.jpg")
    sparse.size, sparse.pax_headers = 512, {"GNU.sparse.size": str(10**15), "GNU.sparse.map": "0,512"}
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(sparse, io.BytesIO(bytes(512)))
        whole = tarfile.TarInfo("b.jpg")
        whole.size = len(grey(3))
        archive.addfile(whole, io.BytesIO(grey(3)))
    source = data(tmp_path, tmp_path).source("train")
    assert source.group_sizes == [1]
    assert source.read(0).image == grey(3)
    long = tarfile.TarInfo("a.jpg")
    long.size = 10**15
    (tmp_path / "a.tar").write_bytes(long.tobuf() + bytes(10240))
    with pytest.raises(UserError, match=r"not a whole tar archive|cut short"):
        scan(tmp_path / "a.tar")


@pytest.mark.parametrize("name", ["../a.tar", "/etc/a.tar", "b/a.tar", "..", "", 5])
def test_an_index_names_files_beside_it_only(tmp_path: Path, name: object) -> None:
    index = {"shards": [{"name": name, "samples": 1, "bytes": 10}]}
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"index\.json is damaged"):
        data(tmp_path, tmp_path).source("train")


@pytest.mark.parametrize("samples", [-1, 1.5, "1", None])
def test_an_index_counts_in_whole_numbers(tmp_path: Path, samples: object) -> None:
    index = {"shards": [{"name": "a.tar", "samples": samples, "bytes": 10}]}
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"index\.json is damaged"):
        data(tmp_path, tmp_path).source("train")
