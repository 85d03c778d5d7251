"""Files that are downloaded once and then read offline: weights of frozen networks, statistics of references.

`ASSETS` lists them. It has a checksum only if it is published or if independent sources agree on it; the checksum of
any other file is recorded in the folder's manifest at the first download and checked from then on.
"""

from __future__ import annotations

import hashlib
import json
import logging
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixelflow.errors import UserError, WorkFailed
from pixelflow.files import sync_to_disk, write_text

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
CHUNK = 1 << 20
ATTEMPTS = 5
TIMEOUT = 60.0
COMMAND = "python run.py job=fetch_assets"


@dataclass(frozen=True)
class Asset:
    """A file of the assets folder.

    Args:
        file: Path in the assets folder.
        url: Source.
        about: Description.
        size: Size as text.
        bytes: Size in bytes, if it is known exactly.
        sha256: Checksum; None if the first download has to be trusted.
        image_size: For the reference of a metric: side of its images in pixels.
    """

    file: str
    url: str
    about: str
    size: str
    bytes: int | None = None
    sha256: str | None = None
    image_size: int | None = None


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
            Asset(name, f"{_ADM}/{size}/{name}", f"ADM's reference of ImageNet {size}", volume, image_size=size)
            for size, name, volume in (
                (64, "VIRTUAL_imagenet64_labeled.npz", "about 0.2 GB"),
                (128, "VIRTUAL_imagenet128_labeled.npz", "about 0.6 GB"),
                (256, "VIRTUAL_imagenet256_labeled.npz", "about 2 GB"),
                (512, "VIRTUAL_imagenet512.npz", "about 8 GB"),
            )
        ),
    )
}  # fmt: skip


def missing_line(folder: Path, file: str) -> str | None:
    """Returns a message about a missing file with its path, size and source; None if the file exists."""
    if (folder / file).is_file():
        return None
    if (asset := ASSETS.get(file)) is None:
        return f"{folder / file} is missing"
    return f"{folder / file} is missing ({asset.about}, {asset.size}, {asset.url})"


def read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns sha256, bytes and url of each file that was downloaded, or found and hashed.

    Raises:
        UserError: The manifest is damaged.
    """
    path = folder / MANIFEST
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise UserError(f"{path} is damaged; delete it, and the files are hashed again") from None


def fetch(asset: Asset, folder: Path, progress: Callable[[int, int | None], None] = lambda done, total: None) -> str:
    """Ensures that `folder` holds the asset with the right checksum.

    A download is written to `<file>.part`, resumed after an interruption, and renamed when its checksum is right.

    Args:
        asset: The file.
        folder: The assets folder.
        progress: Called with the number of bytes present and the total, if known.

    Returns:
        "verified" or "recorded" for a file that existed, with or without a known checksum; "fetched" for a download.

    Raises:
        UserError: The existing file is damaged; it is left unchanged.
        WorkFailed: The server does not answer or sends other content.
    """
    path = folder / asset.file
    known = asset.sha256 or read_manifest(folder).get(asset.file, {}).get("sha256")
    if path.is_file():
        digest = sha256(path)
        if known and digest != known:
            raise UserError(f"{path} is damaged: sha256 {digest[:12]}..., not {known[:12]}...; delete it and repeat")
        _record(folder, asset, digest, path.stat().st_size)
        return "verified" if known else "recorded"
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    _download(asset.url, part, progress)
    digest, size = sha256(part), part.stat().st_size
    if (known and digest != known) or (asset.bytes and size != asset.bytes):
        part.unlink()
        wanted = f"sha256 {known[:12]}..." if known else f"{asset.bytes} bytes"
        raise WorkFailed(
            f"{asset.url} gave {size} bytes, sha256 {digest[:12]}..., and not {wanted}; nothing was kept, try again"
        )
    sync_to_disk(part)
    part.replace(path)
    _record(folder, asset, digest, size)
    return "fetched"


def sha256(path: Path) -> str:
    """Returns the SHA-256 checksum of a file in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _record(folder: Path, asset: Asset, digest: str, size: int) -> None:
    manifest = read_manifest(folder)
    manifest[asset.file] = {"sha256": digest, "bytes": size, "url": asset.url}
    write_text(folder / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True))


def _download(url: str, part: Path, progress: Callable[[int, int | None], None]) -> None:
    """Downloads `url` to `part`, and resumes after interruptions."""
    for attempt in range(ATTEMPTS):
        before = part.stat().st_size if part.exists() else 0
        try:
            if _continue(url, part, progress):
                return
            error: Exception = OSError("the connection was closed early")
        except urllib.error.HTTPError as problem:
            if problem.code < 500:
                raise WorkFailed(f"{url}: {problem.code} {problem.reason}") from None
            error = problem
        except OSError as problem:  # URLError, time-outs and broken connections are subclasses
            error = problem
        gained = (part.stat().st_size if part.exists() else 0) - before
        logger.warning("%s: %s; %d bytes were received, attempt %d of %d", url, error, gained, attempt + 1, ATTEMPTS)
    raise WorkFailed(f"{url} cannot be fetched: {error}; the same command resumes the download")


def _continue(url: str, part: Path, progress: Callable[[int, int | None], None]) -> bool:
    """Downloads through one connection, and returns whether the file is complete."""
    there = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={there}-"} if there else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and there:  # there are no further bytes: the file is complete, and its checksum is checked
            return True
        raise
    with response:
        resumed = response.status == 206  # otherwise the server sends the file from the beginning
        length = response.headers.get("Content-Length")
        there = there if resumed else 0
        total = there + int(length) if length else None
        with open(part, "ab" if resumed else "wb") as stream:
            while content := response.read(CHUNK):
                stream.write(content)
                there += len(content)
                progress(there, total)
    return total is None or there == total
