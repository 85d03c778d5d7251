"""Files that are fetched once and then read offline: weights of frozen networks, statistics of references.

One table says what they are. A checksum stands there only where it is published or where independent sources agree on
it; any other file's checksum is written into the folder's manifest when it is first fetched, and holds from then on.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
CHUNK = 1 << 20
ATTEMPTS = 5
TIMEOUT = 60.0
COMMAND = "python run.py job=fetch_assets"


@dataclass(frozen=True)
class Asset:
    """file: its path in the assets folder. bytes: None where only `size`, for people, is known. sha256: None if the
    first download has to be trusted."""

    file: str
    url: str
    about: str
    size: str
    bytes: int | None = None
    sha256: str | None = None


_CLIP = "https://huggingface.co/openai/clip-vit-large-patch14/resolve/32bd64288804d66eefd0ccbe215aa642df71cc41"
_ADM = "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/ref_batches/imagenet"

ASSETS: dict[str, Asset] = {
    asset.file: asset
    for asset in (
        Asset(
            "weights-inception-2015-12-05-6726825d.pth",
            "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
            "Inception of 2015-12-05, torch-fidelity's port", "96 MB", 95_628_359,
            "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        ),
        Asset(
            "vgg16-397923af.pth", "https://download.pytorch.org/models/vgg16-397923af.pth", "torchvision's VGG-16",
            "553 MB", 553_433_881, "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        ),
        Asset(
            "vit_base_patch14_dinov2.safetensors",
            "https://huggingface.co/timm/vit_base_patch14_dinov2.lvd142m/resolve/main/model.safetensors",
            "DINOv2 ViT-B/14, timm's form", "about 350 MB",
        ),
        Asset(
            "dinov2_vitl14_pretrain.pth",
            "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
            "DINOv2 ViT-L/14 as released", "1.2 GB", 1_217_586_395,
            "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
        ),
        Asset(
            "clip-vit-large-patch14/model.safetensors", f"{_CLIP}/model.safetensors", "CLIP ViT-L/14", "1.7 GB",
            1_710_540_580, "a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb",
        ),
        *(
            Asset(f"clip-vit-large-patch14/{name}", f"{_CLIP}/{name}", "of CLIP ViT-L/14", "about 1 MB")
            for name in ("config.json", "vocab.json", "merges.txt")
        ),
        *(
            Asset(name, f"{_ADM}/{size}/{name}", f"ADM's reference of ImageNet {size}", told)
            for size, name, told in (
                (64, "VIRTUAL_imagenet64_labeled.npz", "about 0.2 GB"),
                (128, "VIRTUAL_imagenet128_labeled.npz", "about 0.6 GB"),
                (256, "VIRTUAL_imagenet256_labeled.npz", "about 2 GB"),
                (512, "VIRTUAL_imagenet512.npz", "about 8 GB"),
            )
        ),
    )
}  # fmt: skip


def missing_line(folder: Path, file: str) -> str | None:
    """What to tell a user about a file that is not there: its name, its size, its place; None if it is there."""
    if (folder / file).is_file():
        return None
    if (asset := ASSETS.get(file)) is None:
        return f"{folder / file} is missing"
    return f"{folder / file} is missing ({asset.about}, {asset.size}, {asset.url})"


def read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """file -> sha256, bytes and url, of what was fetched or found and hashed."""
    path = folder / MANIFEST
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise ValueError(f"{path} is damaged; delete it, and the files beside it are hashed anew") from None


def fetch(asset: Asset, folder: Path, progress: Callable[[int, int | None], None] = lambda done, total: None) -> str:
    """Make sure that the asset lies in `folder`, whole; returns "verified", "recorded" or "fetched".

    A download is written to `<file>.part`, goes on from there after a break, and is renamed once its checksum is right.
    progress: told the bytes there are and the bytes there will be. Raises OSError where the server does not answer or
    the content is not what it should be; a file that was there and is damaged is not touched.
    """
    path = folder / asset.file
    known = asset.sha256 or read_manifest(folder).get(asset.file, {}).get("sha256")
    if path.is_file():
        digest = sha256(path)
        if known and digest != known:
            raise OSError(f"{path} is damaged: sha256 {digest[:12]}..., not {known[:12]}...; delete it and fetch again")
        _record(folder, asset, digest, path.stat().st_size)
        return "verified" if known else "recorded"
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    _download(asset.url, part, progress)
    digest, size = sha256(part), part.stat().st_size
    if (known and digest != known) or (asset.bytes and size != asset.bytes):
        part.unlink()
        wanted = f"sha256 {known[:12]}..." if known else f"{asset.bytes} bytes"
        raise OSError(
            f"{asset.url} gave {size} bytes, sha256 {digest[:12]}..., and not {wanted}; nothing was kept, try again"
        )
    part.replace(path)
    _record(folder, asset, digest, size)
    return "fetched"


def sha256(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _record(folder: Path, asset: Asset, digest: str, size: int) -> None:
    manifest = read_manifest(folder)
    manifest[asset.file] = {"sha256": digest, "bytes": size, "url": asset.url}
    aside = folder / f".{MANIFEST}.{os.getpid()}.tmp"
    aside.write_text(json.dumps(manifest, indent=1, sort_keys=True), encoding="utf-8")
    aside.replace(folder / MANIFEST)


def _download(url: str, part: Path, progress: Callable[[int, int | None], None]) -> None:
    """The whole of `url` into `part`, tried again from where it broke off."""
    for attempt in range(ATTEMPTS):
        before = part.stat().st_size if part.exists() else 0
        try:
            if _continue(url, part, progress):
                return
            error: Exception = OSError("the connection was closed early")
        except urllib.error.HTTPError as problem:
            if problem.code < 500:
                raise OSError(f"{url}: {problem.code} {problem.reason}") from None
            error = problem
        except OSError as problem:  # URLError, time-outs and broken connections are all of this kind
            error = problem
        gained = (part.stat().st_size if part.exists() else 0) - before
        logger.warning("%s: %s; %d more bytes are there, attempt %d of %d", url, error, gained, attempt + 1, ATTEMPTS)
    raise OSError(f"{url} cannot be fetched: {error}; the same command goes on from there")


def _continue(url: str, part: Path, progress: Callable[[int, int | None], None]) -> bool:
    """One connection; whether the file is whole after it."""
    there = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={there}-"} if there else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and there:  # nothing beyond these bytes: whole, and the checksum decides
            return True
        raise
    with response:
        resumed = response.status == 206  # else the server sends it from the beginning
        length = response.headers.get("Content-Length")
        there = there if resumed else 0
        total = there + int(length) if length else None
        with open(part, "ab" if resumed else "wb") as stream:
            while content := response.read(CHUNK):
                stream.write(content)
                there += len(content)
                progress(there, total)
    return total is None or there == total
