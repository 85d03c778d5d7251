"""Downloads from a local server: complete, resumed, damaged and missing files."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pixelflow import assets
from pixelflow.assets import ASSETS, Asset, fetch, missing_line, read_manifest
from pixelflow.errors import UserError, WorkFailed
from pixelflow.jobs import fetch_assets
from tests.conf.test_compose import composed

CONTENT = bytes(range(256)) * 40_000
"""10 MB: ten of the pieces that are read at once."""


class Handler(BaseHTTPRequestHandler):
    ranges: list[str]
    cut: list[int]
    statuses: list[int]

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", "")
        type(self).ranges.append(wanted)
        if self.statuses:
            self.send_error(self.statuses.pop(0))
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        end = self.cut.pop(0) if self.cut else len(CONTENT)
        self.wfile.write(CONTENT[start:end])

    def log_message(self, *args: object) -> None: ...


@pytest.fixture
def server() -> Iterator[tuple[str, type[Handler]]]:
    class Mine(Handler):
        ranges: list[str] = []  # noqa: RUF012
        cut: list[int] = []  # noqa: RUF012
        statuses: list[int] = []  # noqa: RUF012

    running = ThreadingHTTPServer(("127.0.0.1", 0), Mine)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}/file", Mine
    running.shutdown()
    running.server_close()


def asset(url: str, digest: str | None = hashlib.sha256(CONTENT).hexdigest()) -> Asset:
    return Asset("some/file.bin", url, "bytes", "10 MB", len(CONTENT), digest)


def test_a_download_is_whole_recorded_and_verified(server: tuple[str, type[Handler]], tmp_path: Path) -> None:
    url, handler = server
    seen: list[tuple[int, int | None]] = []
    assert fetch(asset(url), tmp_path, lambda done, total: seen.append((done, total))) == "fetched"
    assert (tmp_path / "some/file.bin").read_bytes() == CONTENT and seen[-1] == (len(CONTENT), len(CONTENT))
    assert read_manifest(tmp_path)["some/file.bin"]["sha256"] == asset(url).sha256
    assert not list(tmp_path.rglob("*.part"))
    assert fetch(asset(url), tmp_path) == "verified" and len(handler.ranges) == 1


def test_an_interrupted_download_continues(server: tuple[str, type[Handler]], tmp_path: Path) -> None:
    """The server interrupts it twice; then it continues the partial file of an earlier process."""
    url, handler = server
    handler.cut += [3_000_000, 7_000_000]
    assert fetch(asset(url), tmp_path) == "fetched"
    assert handler.ranges == ["", "bytes=3000000-", "bytes=7000000-"]
    (tmp_path / "some/file.bin").unlink()
    for there in (4_000_000, len(CONTENT)):
        (tmp_path / "some/file.bin.part").write_bytes(CONTENT[:there])
        assert fetch(asset(url), tmp_path) == "fetched"
        assert (tmp_path / "some/file.bin").read_bytes() == CONTENT
        (tmp_path / "some/file.bin").unlink()


def test_the_first_download_is_trusted_and_later_ones_held_to_it(
    server: tuple[str, type[Handler]], tmp_path: Path
) -> None:
    unknown = asset(server[0], None)
    assert fetch(unknown, tmp_path) == "fetched"
    path = tmp_path / "some/file.bin"
    path.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(UserError, match=r"some/file.bin is damaged: sha256 .* delete it and repeat"):
        fetch(unknown, tmp_path)
    path.unlink()
    assert fetch(unknown, tmp_path) == "fetched"


def test_wrong_content_and_servers_that_fail(
    server: tuple[str, type[Handler]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, handler = server
    with pytest.raises(WorkFailed, match=r"and not sha256 0000.*nothing was kept, try again"):
        fetch(asset(url, "0" * 64), tmp_path)
    with pytest.raises(WorkFailed, match="and not 5 bytes"):
        fetch(replace(asset(url, None), bytes=5), tmp_path)
    handler.statuses += [503, 503]
    assert fetch(asset(url), tmp_path) == "fetched"
    (tmp_path / "some/file.bin").unlink()
    handler.statuses += [404]
    with pytest.raises(WorkFailed, match="404"):
        fetch(asset(url), tmp_path)
    monkeypatch.setattr(assets, "ATTEMPTS", 2)
    handler.statuses += [500] * 2
    with pytest.raises(WorkFailed, match=r"cannot be fetched.*the same command resumes the download"):
        fetch(asset(url), tmp_path)
    assert not (tmp_path / "some/file.bin").exists()


def test_the_table() -> None:
    for name, one in ASSETS.items():
        assert name == one.file and one.url.startswith("https://") and one.size
        assert one.sha256 is None or len(one.sha256) == 64
    for name in ("weights-inception-2015-12-05-6726825d.pth", "vgg16-397923af.pth"):
        digest = ASSETS[name].sha256
        assert digest is not None and digest.startswith(name.rpartition("-")[2].removesuffix(".pth"))


def test_the_job_fetches_what_the_recipe_reads(
    server: tuple[str, type[Handler]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["job=fetch_assets", "metrics=imagenet", "metrics.also=[fd_dinov2,clip_score]", "objective=pixelgen",
                 "backbone.depth=9", f"assets.root={tmp_path}"]  # fmt: skip
    config = composed(*arguments)
    wanted = fetch_assets.wanted(config, fetch_assets.FetchOptions())
    assert {"vgg16-397923af.pth", "vit_base_patch14_dinov2.safetensors", "dinov2_vitl14_pretrain.pth",
            "weights-inception-2015-12-05-6726825d.pth", "VIRTUAL_imagenet256_labeled.npz",
            "clip-vit-large-patch14/merges.txt"} <= set(wanted)  # fmt: skip
    for name in wanted:
        monkeypatch.setitem(ASSETS, name, replace(asset(server[0]), file=name))
    fetch_assets.JOB.start(config, [])
    assert capsys.readouterr().out.count("fetched ") == len(wanted)
    assert all(missing_line(tmp_path, name) is None for name in wanted)
    fetch_assets.JOB.start(config, [])
    assert capsys.readouterr().out.count("verified ") == len(wanted)
    fetch_assets.JOB.start(composed("job=fetch_assets"), [])
    assert "reads nothing" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"job\.files: nowhere is not in the table"):
        fetch_assets.JOB.start(composed("job=fetch_assets", "job.files=[nowhere]"), [])
