"""From the bytes of an image file to upright RGB pixels.

JPEGs go through libjpeg-turbo (simplejpeg), reduced while decoding where the crop needs at most half of the size;
whatever is unusual - CMYK, 16 bit, palettes, transparency, rotation by EXIF, other formats - goes through Pillow. The
size is read from the header and bounded before any pixel is decoded.
"""

from __future__ import annotations

import contextlib
import io
import warnings

import numpy as np
import simplejpeg
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from pixelflow.data.records import BadSample

JPEG = b"\xff\xd8\xff"
EXIF_WITHIN = 4096
"""Bytes in which the EXIF header of a JPEG begins, if it has one (it follows the JFIF header)."""
HARMLESS = "extraneous bytes before marker 0xd9"
"""libjpeg-turbo's warning that leaves every pixel intact: something between the last row and the end marker."""
WHITE = (255, 255, 255)


def decode(data: bytes, *, max_pixels: int, shortest: int | None = None) -> np.ndarray:
    """(H, W, 3) uint8.

    max_pixels: of the stored image, the bound of the memory that decoding takes. shortest: length that the short side
    must keep; a JPEG of at least twice that is decoded at an eighth to a half of its size (between a half and the whole
    libjpeg-turbo has no vector code, and it costs more than it saves). None decodes in full.
    Raises BadSample.
    """
    if not data:
        raise BadSample("empty file")
    if data.startswith(JPEG):
        pixels = _decode_jpeg(data, max_pixels, shortest)
        if pixels is not None:
            return pixels
    return np.array(_open(data, max_pixels))  # a copy: torch wants it writable


def size_of(data: bytes, *, max_pixels: int) -> tuple[int, int]:
    """(height, width) from the header, as stored. Raises BadSample."""
    try:
        if data.startswith(JPEG):
            return simplejpeg.decode_jpeg_header(data, strict=False)[:2]
    except (ValueError, KeyError):
        pass
    with _image(data, max_pixels) as image:
        return image.height, image.width


def _decode_jpeg(data: bytes, max_pixels: int, shortest: int | None) -> np.ndarray | None:
    """None if it is a case for Pillow."""
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
        with Image.open(io.BytesIO(data)) as image:
            return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a damaged EXIF block says nothing about the pixels
        return 1


def _bound(height: int, width: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise BadSample("too many pixels", f"{width} x {height}, at most {max_pixels:,}")


def _image(data: bytes, max_pixels: int) -> Image.Image:
    """Opened, not decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large images and damaged EXIF
            image = Image.open(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise BadSample("too many pixels", str(error)) from None
    except Exception as error:  # plugins raise SyntaxError, struct.error and others
        # "cannot identify image file <_io.BytesIO object at 0x...>" tells nothing, and differs every time.
        raise BadSample("not an image", "" if isinstance(error, UnidentifiedImageError) else str(error)[:200]) from None
    _bound(image.height, image.width, max_pixels)
    return image


def _open(data: bytes, max_pixels: int) -> Image.Image:
    image = _image(data, max_pixels)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.load()
            with contextlib.suppress(Exception):  # a damaged EXIF block: the pixels stand as they are
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
    """Grey of more than 8 bits as uint8; integers span 0..65535, floats 0..1."""
    unit = values / 65535 if values.dtype.kind in "iu" else np.nan_to_num(values)
    return (unit.clip(0, 1) * 255).round().astype(np.uint8)
