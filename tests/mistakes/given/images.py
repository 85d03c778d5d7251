"""Images for `samples=` and `data.root=` that cannot be used."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.mistakes.given.models import Models


def npz(folder: Path, text: str, models: Models) -> Path:
    """An .npz of images, made by one of `ARCHIVES`."""
    path = folder / "samples.npz"
    ARCHIVES[text](path)
    return path


def damaged_npz(folder: Path, text: str, models: Models) -> Path:
    """An .npz of images of which only the first bytes are left; the text is their number."""
    path = folder / "samples.npz"
    np.savez(path, arr_0=_noise(16))
    path.write_bytes(path.read_bytes()[: int(text)])
    return path


def images(folder: Path, text: str, models: Models) -> Path:
    """A folder of images as job=sample writes it, with a file of these names replaced: `NAME=TEXT`."""
    (folder / "images").mkdir()
    for number, pixels in enumerate(_noise(4)):
        Image.fromarray(pixels).save(folder / "images" / f"{number:06}.png")
    (folder / "record.json").write_text(json.dumps({"class_list": [0, 1]}), encoding="utf-8")
    name, _, content = text.partition("=")
    if name:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    return folder


def sizes(folder: Path, text: str, models: Models) -> Path:
    """A folder with images of two sizes."""
    for number, side in enumerate((16, 16, 20)):
        Image.new("RGB", (side, side)).save(folder / f"{number}.png")
    return folder


def deep_pixels(folder: Path, text: str, models: Models) -> Path:
    """A folder with an image of 16 bits per pixel."""
    Image.fromarray(np.zeros((16, 16), np.uint16)).save(folder / "0.png")
    return folder


def shards(folder: Path, text: str, models: Models) -> Path:
    """A folder with one tar shard whose samples have these members: `EXTENSION=TEXT`, `index=JSON` for index.json."""
    name, _, content = text.partition("=")
    with tarfile.open(folder / "0.tar", "w") as archive:
        for number, pixels in enumerate(_noise(4)):
            stream = io.BytesIO()
            Image.fromarray(pixels).save(stream, "png")
            members = {"png": stream.getvalue(), "cls": str(number % 2).encode()}
            if name and name != "index":
                members[name] = content.encode()
            for extension, value in members.items():
                if value:
                    _add(archive, f"{number:04}.{extension}", value)
    if name == "index":
        (folder / "index.json").write_text(content, encoding="utf-8")
    return folder


def cut_shard(folder: Path, text: str, models: Models) -> Path:
    """A folder with one tar shard of which only the first bytes are left; the text is their number."""
    shards(folder, "", models)
    (folder / "0.tar").write_bytes((folder / "0.tar").read_bytes()[: int(text)])
    return folder


def classes(folder: Path, text: str, models: Models) -> Path:
    """A folder of images in this number of folders of classes, without images if the text ends with `empty`."""
    for number in range(int(text.split()[0])):
        (folder / "train" / f"c{number}").mkdir(parents=True)
        if not text.endswith("empty"):
            Image.fromarray(_noise(1)[0]).save(folder / "train" / f"c{number}" / "0.png")
    return folder


def bad_images(folder: Path, text: str, models: Models) -> Path:
    """Ten folders of classes whose images hold this text."""
    for number in range(10):
        (folder / "train" / f"c{number}").mkdir(parents=True)
        (folder / "train" / f"c{number}" / "0.png").write_text(text, encoding="utf-8")
    return folder


def parquet(folder: Path, text: str, models: Models) -> Path:
    """A folder whose file train.parquet holds this text."""
    (folder / "train.parquet").write_text(text, encoding="utf-8")
    return folder


def _noise(count: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 16, 16, channels), dtype=np.uint8)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _arrays(**arrays: Any) -> Callable[[Path], None]:
    return lambda path: np.savez(path, **arrays)


def _no_array(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("arr_0.npy", b"this is no array")


class _Runs:
    """An object whose unpickling would make a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("import evil; evil.call()",)


ARCHIVES: dict[str, Callable[[Path], None]] = {
    "text_labels": _arrays(arr_0=_noise(4), arr_1=np.array(["cat", "dog", "cat", "cow"])),
    "few_labels": _arrays(arr_0=_noise(4), arr_1=np.array([0, 1])),
    "many_labels": _arrays(arr_0=_noise(4), arr_1=np.arange(9)),
    "matrix_labels": _arrays(arr_0=_noise(4), arr_1=np.zeros((4, 10))),
    "nan_labels": _arrays(arr_0=_noise(4), arr_1=np.full(4, np.nan)),
    "negative_labels": _arrays(arr_0=_noise(4), arr_1=np.array([0, 1, -1, 2])),
    "large_labels": _arrays(arr_0=_noise(4), arr_1=np.array([0, 1, 2, 10**6])),
    "object_labels": _arrays(arr_0=_noise(4), arr_1=np.array([_Runs()] * 4, dtype=object)),
    "object_images": _arrays(arr_0=np.array([_Runs()] * 4, dtype=object)),
    "no_images": _arrays(arr_0=_noise(0)),
    "floats": _arrays(arr_0=_noise(4) / 255.0),
    "nan": _arrays(arr_0=np.full((4, 16, 16, 3), np.nan)),
    "five_channels": _arrays(arr_0=_noise(4, 5)),
    "channels_first": _arrays(arr_0=_noise(4).transpose(0, 3, 1, 2)),
    "fortran": _arrays(arr_0=np.asfortranarray(_noise(4))),
    "three_dimensions": _arrays(arr_0=_noise(4)[..., 0]),
    "other_name": _arrays(images=_noise(4)),
    "empty": lambda path: path.write_bytes(b"") and None,
    "no_array": _no_array,
    "statistics_nan": _arrays(mu=np.full(64, np.nan), sigma=np.eye(64)),
    "statistics_shape": _arrays(mu=np.zeros(64), sigma=np.eye(3)),
    "statistics_text": _arrays(mu=np.array(["x"] * 64), sigma=np.eye(64)),
    "statistics_object": _arrays(mu=np.array([_Runs()] * 64, dtype=object), sigma=np.eye(64)),
    "statistics_other": _arrays(mu=np.zeros(7), sigma=np.eye(7)),
    "statistics_resolution": _arrays(mu=np.zeros(64), sigma=np.eye(64), resolution=np.array("big")),
}
"""Writers of an .npz, by name."""
