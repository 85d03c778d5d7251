"""Finds the size of the images of a data source whose user has not given it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pixelflow.data.decode import size_of_file
from pixelflow.data.records import BadSample
from pixelflow.errors import UserError

LOOKED_AT = 1000
"""Number of evenly spaced images whose headers are read."""

SHOWN = 3
"""Number of sizes that a message names."""


def common_size(sizes: Sequence[tuple[int, int]], looked_at: int) -> int:
    """Returns the side of images that are all square and of one size.

    Args:
        sizes: Height and width of each image that can be read.
        looked_at: Number of images that were looked at, those that cannot be read included.

    Raises:
        UserError: No image can be read, or the images are not square or differ in size.

    Examples:
        >>> common_size([(32, 32), (32, 32)], looked_at=3)
        32
    """
    if not sizes:
        raise UserError(f"image_size is not given, and none of the {looked_at:,} images looked at can be read")
    counts = Counter(sizes)
    (height, width), _ = counts.most_common(1)[0]
    if len(counts) == 1 and height == width:
        return height
    named = ", ".join(f"{count:,} of {wide} x {high}" for (high, wide), count in counts.most_common(SHOWN))
    short = [min(size) for size in sizes]
    raise UserError(
        f"image_size is not given, and the images are not square and of one size: of {len(sizes):,} images "
        f"{named}{' and others' if len(counts) > SHOWN else ''} pixels, short sides from {min(short)} to {max(short)}; "
        "give the number of pixels to which they are cropped"
    )


def size_of_files(folder: Path, files: Sequence[str], *, max_pixels: int) -> int:
    """Returns the common size of evenly spaced image files; see `common_size`. Files that cannot be read are left out.

    Args:
        folder: Their folder.
        files: Paths relative to it.
        max_pixels: Images with more pixels are left out.

    Raises:
        UserError: See `common_size`; or there are no files.
    """
    if not files:
        raise UserError(f"image_size is not given, and {folder} holds no images")
    some = np.linspace(0, len(files), min(len(files), LOOKED_AT), endpoint=False).astype(int).tolist()
    sizes = []
    for number in some:
        try:
            sizes.append(size_of_file(folder / files[number], max_pixels=max_pixels))
        except BadSample:
            continue
    return common_size(sizes, len(some))
