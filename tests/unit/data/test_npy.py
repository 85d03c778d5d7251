"""NumPy files from elsewhere: plain arrays as numpy.load reads them, and nothing else."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixelflow.data.npy import read_npy


def saved(array: np.ndarray, **options: bool) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def headed(header: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float16).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array(5),
        np.zeros((0, 3)),
    ],
)
def test_arrays_are_read_as_numpy_reads_them(array: np.ndarray) -> None:
    found = read_npy(saved(array))
    assert found.dtype == array.dtype and np.array_equal(found, array)


class Canary:
    def __reduce__(self) -> tuple:
        return (pytest.fail, ("a pickle was read",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (saved(np.array([Canary()], dtype=object), allow_pickle=True), "holds objects"),
        (headed("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,)}\n"), "0 bytes of values"),
        (headed("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}\n"), "shape is"),
        (headed("-" * 9000 + "1\n"), "damaged|header"),
        (headed("__import__('os').system('touch ran')\n"), "."),
        (saved(np.array(["a"])), "holds <U1, not numbers"),
        (saved(np.arange(3))[:-1], "23 bytes of values"),
        (b"PK\x03\x04", "magic"),
        (b"", "magic|EOF"),
    ],
)  # fmt: skip
def test_other_files_are_refused(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_npy(content)


@given(data=st.data())
def test_a_changed_file_is_read_or_refused(data: st.DataObject) -> None:
    content = bytearray(saved(np.arange(4, dtype=np.float32)))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ValueError):
        assert read_npy(bytes(content)).nbytes <= len(content)
