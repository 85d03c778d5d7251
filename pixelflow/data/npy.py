"""NumPy's file format, read so that a file from elsewhere runs nothing and takes no more memory than it has bytes."""

from __future__ import annotations

import io
import math
from typing import IO

import numpy as np


def npy_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Reads the header of an .npy file, and leaves the stream at its first value.

    Returns:
        The shape, whether the values are in Fortran order, and their type.

    Raises:
        ValueError: The header is damaged, or the array holds other values than numbers.
    """
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, fortran, dtype = read(stream)
    except Exception:  # numpy parses it as Python, and passes on the errors of the tokenizer and the parser
        raise ValueError("its header is damaged") from None
    if dtype.hasobject:
        raise ValueError("it holds objects, which would have to be unpickled")
    if dtype.kind not in "biufc":
        raise ValueError(f"it holds {dtype}, not numbers")
    if min(shape, default=0) < 0:
        raise ValueError(f"its shape is {shape}")
    return shape, fortran, dtype


def read_npy(content: bytes) -> np.ndarray:
    """Returns the array of an .npy file, read-only.

    numpy.load would reserve the memory that the header asks for before it looks for the values.

    Raises:
        ValueError: The content is not an array of numbers, or has another size than its header says.
    """
    stream = io.BytesIO(content)
    shape, fortran, dtype = npy_header(stream)
    values = content[stream.tell() :]
    if len(values) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"it has {len(values)} bytes of values, and not those of {shape} {dtype}")
    return np.frombuffer(values, dtype).reshape(shape, order="F" if fortran else "C")
