"""Arrays in files of numpy's format, which an index folder from anywhere may hold.

An array is opened only as what it has to be: its type, its shape and the size of its file are
checked before anything is allocated or mapped, and links are not followed.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from indexes.arrays import Array
from indexes.regular_files import open_regular

_MOST_HEADER = 1000  # characters; those of numpy have about 80


def write_array(path: Path, array: Array) -> None:
    """Write an array; raises OSError."""
    with path.open("xb") as file:
        np.save(file, array, allow_pickle=False)


def create_array(path: Path, dtype: npt.DTypeLike, shape: Sequence[int]) -> np.memmap:
    """A new array on disk, to be filled; raises OSError. Its content is not yet synced."""
    return np.lib.format.open_memmap(path, "w+", np.dtype(dtype), tuple(shape))


def map_array(path: Path, dtypes: Sequence[npt.DTypeLike], shape: Sequence[int | None]) -> Array:
    """Map an array of one of these types and of this shape (None: any length), to be read.

    Raises OSError or ValueError if the file holds anything else.
    """
    with open_regular(path) as file:
        found, dtype, offset = _header(file)
        fits = len(found) == len(shape) and all(
            want is None or want == have for want, have in zip(shape, found, strict=True)
        )
        if not fits or dtype not in [np.dtype(d) for d in dtypes]:
            raise ValueError(f"{path} holds {dtype} {found}")
        size = offset + int(np.prod(found, dtype=object)) * dtype.itemsize
        if os.fstat(file.fileno()).st_size != size:
            raise ValueError(f"{path} has not the size of its array")
        if 0 in found:
            return np.empty(found, dtype)
        # A plain array over it: each slice of a memmap costs as much as some searches.
        return np.asarray(np.memmap(file, dtype, "r", offset, found))


def read_array(path: Path, dtype: npt.DTypeLike, shape: Sequence[int | None]) -> Array:
    """The same, read into memory: an aligned array of its own."""
    return np.array(map_array(path, [dtype], shape))


def _header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype, int]:
    """The shape, type and offset of an array that can be mapped."""
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("not an array of numpy's format 1.0")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file, _MOST_HEADER)
    if fortran or dtype.hasobject or any(n < 0 for n in shape):
        raise ValueError("not a plain array")
    return shape, dtype, file.tell()
