"""Decodes image files to upright RGB pixels.

JPEGs are decoded by libjpeg-turbo (simplejpeg), at a reduced size where the crop needs at most half of it. All other
cases (CMYK, 16 bits, palettes, transparency, rotation by EXIF, other formats) are decoded by Pillow, and so are all
JPEGs where simplejpeg is not installed, since it has no wheel for some platforms. The size is read from the header and
checked before any pixel is decoded.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from pixelflow.data.records import BadSample

try:
    import simplejpeg
except ImportError:  # no wheel for this platform
    simplejpeg = None

JPEG = b"\xff\xd8\xff"
EXIF_WITHIN = 4096
"""Number of bytes in which the EXIF header of a JPEG begins, if it has one (it follows the JFIF header)."""
HARMLESS = "extraneous bytes before marker 0xd9"
"""Warning of libjpeg-turbo about bytes between the last row and the end marker; all pixels are intact."""
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""Formats that Pillow may decode. Others are not images of a data set, and for an EPS file Pillow starts a program,
Ghostscript."""
WHITE = (255, 255, 255)


def decode(data: bytes, *, max_pixels: int, shortest: int | None = None) -> np.ndarray:
    """Decodes an image file.

    Args:
        data: The content of the file.
        max_pixels: Largest accepted number of pixels of the stored image, which bounds the memory.
        shortest: Length in pixels that the short side must keep, or None to decode in full. A JPEG of at least twice
            that length is decoded at an eighth to a half of its size; between a half and the whole, libjpeg-turbo has
            no vector code and reducing is slower than decoding in full.

    Returns:
        (H, W, 3) uint8.

    Raises:
        BadSample: The file is empty, damaged, too large or not an image.
    """
    if not data:
        raise BadSample("empty file")
    if data.startswith(JPEG) and simplejpeg is not None:
        pixels = _decode_jpeg(data, max_pixels, shortest)
        if pixels is not None:
            return pixels
    return np.array(_open(data, max_pixels, shortest))  # a copy, because torch needs writable memory


def jpeg_decoder() -> str:
    """Returns the name of the package that decodes ordinary JPEGs here: "simplejpeg" or "pillow".

    Decoded in full, both give the same pixels within a grey level. At a reduced size they differ by a few, because
    Pillow reduces to an eighth, a quarter or a half only. Pillow accepts some damaged files; the missing part is grey.
    """
    return "pillow" if simplejpeg is None else "simplejpeg"


def size_of(data: bytes, *, max_pixels: int) -> tuple[int, int]:
    """Returns the stored (height, width) from the header; raises BadSample if the file is not an image."""
    try:
        if data.startswith(JPEG) and simplejpeg is not None:
            return simplejpeg.decode_jpeg_header(data, strict=False)[:2]
    except (ValueError, KeyError):
        pass
    with _image(io.BytesIO(data), max_pixels) as image:
        return image.height, image.width


def size_of_file(path: Path, *, max_pixels: int) -> tuple[int, int]:
    """Returns the stored (height, width) of a file, of which the header alone is read; raises BadSample."""
    try:
        with open(path, "rb") as stream, _image(stream, max_pixels) as image:
            return image.height, image.width
    except OSError as error:
        raise BadSample("unreadable file", str(error.strerror)) from None


def _decode_jpeg(data: bytes, max_pixels: int, shortest: int | None) -> np.ndarray | None:
    """Decodes an ordinary JPEG; None if Pillow must decode it."""
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except (ValueError, KeyError):  # KeyError: a header without a colour space
        return None
    _bound(height, width, max_pixels)
    if colorspace in ("CMYK", "YCCK") or (b"Exif\0\0" in data[:EXIF_WITHIN] and _orientation(data) != 1):
        return None
    reduced = {"min_height": shortest, "min_width": shortest} if shortest and min(height, width) >= 2 * shortest else {}
    try:
        return simplejpeg.decode_jpeg(data, "RGB", **reduced)
    except ValueError as error:
        if HARMLESS in str(error):
            return simplejpeg.decode_jpeg(data, "RGB", strict=False, **reduced)
        raise BadSample("corrupt image", str(error)) from None


def _orientation(data: bytes) -> int:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # the pixels of an image with a damaged EXIF block can be good
        return 1


def _bound(height: int, width: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise BadSample("too many pixels", f"{width} x {height}, at most {max_pixels:,}")


def _image(stream: BinaryIO, max_pixels: int) -> Image.Image:
    """Opens an image without decoding it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large images and damaged EXIF
            image = Image.open(stream, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise BadSample("too many pixels", str(error)) from None
    except Exception as error:  # plugins raise SyntaxError, struct.error and others
        # "cannot identify image file <_io.BytesIO object at 0x...>" is no information and differs every time.
        raise BadSample("not an image", "" if isinstance(error, UnidentifiedImageError) else str(error)[:200]) from None
    _bound(image.height, image.width, max_pixels)
    return image


def _open(data: bytes, max_pixels: int, shortest: int | None) -> Image.Image:
    image = _image(io.BytesIO(data), max_pixels)
    if simplejpeg is None and shortest:
        image.draft(None, (shortest, shortest))  # of a JPEG alone, to no less than this size
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.load()
            with contextlib.suppress(Exception):  # with a damaged EXIF block the image is not rotated
                image = ImageOps.exif_transpose(image)
            return _to_rgb(image)
    except Exception as error:
        raise BadSample("corrupt image", str(error)[:200]) from None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_sixteen_bits(np.asarray(image))).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        paper = Image.new("RGB", image.size, WHITE)
        paper.paste(image, mask=image.getchannel("A"))
        return paper
    return image.convert("RGB")


def _sixteen_bits(values: np.ndarray) -> np.ndarray:
    """Converts grey of more than 8 bits to uint8; integers span 0..65535, floats 0..1."""
    unit = values / 65535 if values.dtype.kind in "iu" else np.nan_to_num(values)
    return (unit.clip(0, 1) * 255).round().astype(np.uint8)
