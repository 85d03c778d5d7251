from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from pixelflow.data import Preprocess
from pixelflow.data import decode as decoding
from pixelflow.data.decode import decode, jpeg_decoder, size_of
from pixelflow.data.records import BadSample
from tests.unit.data.files import encoded, picture

LIMIT = 1_000_000


def got(data: bytes, **settings: int) -> np.ndarray:
    return decode(data, max_pixels=LIMIT, **settings)


def close(a: np.ndarray, b: Image.Image, mean: float = 1.0) -> bool:
    return a.shape == (b.height, b.width, 3) and np.abs(a.astype(int) - np.asarray(b.convert("RGB"))).mean() <= mean


def rotated_jpeg(orientation: int) -> tuple[bytes, Image.Image]:
    """A JPEG whose EXIF header requires a rotation, and its upright pixels."""
    image = picture(0, 40, 64)
    exif = Image.Exif()
    exif[0x0112] = orientation
    turns = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_270, 8: Image.Transpose.ROTATE_90}
    shown = image.transpose(turns[orientation]) if orientation in turns else image
    return encoded(image, quality=95, exif=exif.tobytes()), shown


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_formats(format: str) -> None:
    image = picture(1)
    data = encoded(image, format)
    assert close(got(data), Image.open(io.BytesIO(data)), 2.0)
    assert close(got(data), image, 12.0)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_exif_rotation(orientation: int) -> None:
    data, shown = rotated_jpeg(orientation)
    assert close(got(data), shown, 7.0)


def test_cmyk_has_the_colours_of_pillow_and_of_the_picture() -> None:
    image = picture(2)
    data = encoded(image.convert("CMYK"), quality=95)
    assert close(got(data), image, 4.0)


def test_grey_palette_and_transparency() -> None:
    image = picture(3)
    assert close(got(encoded(image.convert("L"))), image.convert("L"), 2.0)
    palette = image.convert("P", palette=Image.Palette.ADAPTIVE)
    assert close(got(encoded(palette, "PNG")), palette, 0.0)
    assert got(encoded(Image.new("1", (9, 7), 1), "PNG")).tolist() == np.full((7, 9, 3), 255).tolist()
    half = image.convert("RGBA")
    half.putalpha(Image.fromarray(np.tile(np.uint8([0, 255]), (image.height, image.width // 2))))
    pixels = got(encoded(half, "PNG"))
    assert (pixels[:, 0::2] == 255).all()  # transparent shows white paper
    assert np.array_equal(pixels[:, 1::2], np.asarray(image)[:, 1::2])


def test_sixteen_bits() -> None:
    values = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    pixels = got(encoded(Image.fromarray(values), "PNG"))
    assert np.abs(pixels[..., 0].astype(int) - np.arange(256).reshape(16, 16)).max() <= 1
    floats = Image.fromarray((values / 65535).astype(np.float32))
    assert np.array_equal(got(encoded(floats, "TIFF")), pixels)


def test_reduced_only_where_half_is_enough() -> None:
    data = encoded(picture(4, 200, 300))
    assert got(data, shortest=101).shape == (200, 300, 3)
    assert got(data, shortest=100).shape == (100, 150, 3)
    assert min(got(data, shortest=30).shape[:2]) in range(30, 60)


def bomb() -> bytes:
    """A PNG of 40,000 x 40,000 pixels in a few bytes; decoding it would take 1.6 GB."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")

    side = (40_000).to_bytes(4, "big")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", side + side + b"\x08\x00\x00\x00\x00") + chunk(b"IDAT", b"x")


def huge_jpeg() -> bytes:
    """A JPEG whose header states 40,000 x 40,000 pixels."""
    data = bytearray(encoded(picture(5)))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = (40_000).to_bytes(2, "big") * 2
    return bytes(data)


GOOD = encoded(picture(6, 60, 80))
PNG = encoded(picture(6, 60, 80), "PNG")
BROKEN = {
    "nothing": (b"", "empty file"),
    "text": (b"hello", "not an image"),
    "zeros": (bytes(1000), "not an image"),
    "half a JPEG": (GOOD[: len(GOOD) // 2], "corrupt image"),
    "a JPEG's header": (GOOD[:100], "not an image|corrupt image"),
    "a JPEG with a hole": (GOOD[:700] + b"\xff\xd9" + GOOD[900:], "corrupt image"),
    "half a PNG": (PNG[: len(PNG) // 2], "corrupt image"),
    "40,000 x 40,000": (bomb(), "too many pixels"),
    "40,000 x 40,000 JPEG": (huge_jpeg(), "too many pixels"),
    "1001 x 1000": (encoded(Image.new("L", (1001, 1000)), "PNG"), "too many pixels"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken(name: str) -> None:
    data, reason = BROKEN[name]
    with pytest.raises(BadSample) as caught:
        got(data)
    assert caught.value.reason in reason.split("|")
    assert len(str(caught.value)) < 300


def test_bytes_after_the_image_are_ignored() -> None:
    end = GOOD.rindex(b"\xff\xd9")
    padded = GOOD[:end] + b"junkjunk" + GOOD[end:]
    assert np.array_equal(got(padded), got(GOOD))
    assert np.array_equal(got(GOOD + b"trailing bytes"), got(GOOD))


def test_sizes_come_from_the_header() -> None:
    assert size_of(GOOD, max_pixels=LIMIT) == size_of(PNG, max_pixels=LIMIT) == (60, 80)
    assert size_of(GOOD[:700], max_pixels=LIMIT) == (60, 80)


def test_postscript_starts_no_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow would start Ghostscript to draw it."""
    monkeypatch.setattr("subprocess.Popen", lambda *args, **options: pytest.fail("a program was started"))
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    with pytest.raises(BadSample, match="not an image"):
        decode(script, max_pixels=1000)


@pytest.fixture
def without_simplejpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a platform for which simplejpeg has no wheel."""
    monkeypatch.setattr(decoding, "simplejpeg", None)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("subsampling", [0, 2])
def test_pillow_decodes_the_same_pixels(mode: str, subsampling: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("simplejpeg")
    assert jpeg_decoder() == "simplejpeg"
    data = encoded(picture(7, 203, 305).convert(mode), quality=90, subsampling=subsampling)
    ours, crop = got(data), Preprocess().training_crop(data, 64, np.array([0.3, 0.6]))
    monkeypatch.setattr(decoding, "simplejpeg", None)
    assert jpeg_decoder() == "pillow"
    assert np.abs(got(data).astype(int) - ours).max() <= 1
    reduced = Preprocess().training_crop(data, 64, np.array([0.3, 0.6]))
    assert np.abs(reduced.astype(int) - crop).mean() < 5, "another factor of reduction, and then Lanczos to one size"
    assert (size_of(data, max_pixels=LIMIT), got(data, shortest=50).shape) == ((203, 305), (51, 77, 3))


@pytest.mark.parametrize("name", sorted({*BROKEN} - {"a JPEG with a hole"}))  # whose missing part Pillow draws grey
def test_broken_without_simplejpeg(name: str, without_simplejpeg: None) -> None:
    test_broken(name)


@pytest.mark.parametrize("orientation", [1, 6])
def test_exif_rotation_without_simplejpeg(orientation: int, without_simplejpeg: None) -> None:
    test_exif_rotation(orientation)
