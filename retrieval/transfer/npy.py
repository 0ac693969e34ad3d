"""Embeddings in .npy files: headers are checked against the size of the file, rows come in blocks.

Arrays of Python objects are never loaded. `retrieval.transfer.tables` tells what a row stands for.
"""

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from indexes.arrays import Array, Floats
from indexes.catalogue import MAX_DIM
from retrieval.errors import DataSetError
from retrieval.photos.files import printable

_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
LARGEST_VECTOR = 8 * MAX_DIM + 20_000
"""The most bytes of a .npy with one embedding, its header included."""


@dataclass(frozen=True)
class NpyHeader:
    """What a .npy file says of its array, which fits the size of the file.

    fortran: whether columns are stored one after the other; offset: of the numbers, in bytes.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    fortran: bool
    offset: int


@dataclass(frozen=True)
class NpyFile:
    """A file of embeddings, [rows, dim]."""

    path: Path
    header: NpyHeader

    @property
    def rows(self) -> int:
        return self.header.shape[0]

    @property
    def dim(self) -> int:
        return self.header.shape[1]

    def blocks(self, size: int) -> Iterator[Floats]:
        """The rows as they are, `size` at a time: float32 [n, dim].

        A number too large for float32 becomes infinite. Raises DataSetError if the file was
        shortened meanwhile.
        """
        dtype, offset = self.header.dtype, self.header.offset
        mapped: Array | None = None
        if self.header.fortran and self.rows:
            mapped = np.memmap(self.path, dtype, "r", offset, self.header.shape, "F")
        with self.path.open("rb") as file, np.errstate(over="ignore", invalid="ignore"):
            file.seek(offset)
            for start in range(0, self.rows, size):
                count = min(size, self.rows - start)
                if mapped is not None:
                    yield np.array(mapped[start : start + count], np.float32, order="C")
                    continue
                data = file.read(count * self.dim * dtype.itemsize)
                if len(data) != count * self.dim * dtype.itemsize:
                    raise _error(self.path, "it was shortened while it was read")
                yield np.frombuffer(data, dtype).reshape(count, self.dim).astype(np.float32)


def open_npy(path: Path) -> NpyFile:
    """A file of embeddings, one a row; raises DataSetError if it is anything else."""
    try:
        if not path.is_file():
            raise ValueError("it is not a file")
        with path.open("rb") as file:
            header = read_header(file, path.stat().st_size)
        if len(header.shape) != 2:
            raise ValueError(f"its shape is {header.shape}, not (rows, dimension)")
        if not 0 < header.shape[1] <= MAX_DIM:
            raise ValueError(f"its rows have {header.shape[1]:,} numbers, not 1 to {MAX_DIM:,}")
    except ValueError as error:
        raise _error(path, str(error)) from None
    return NpyFile(path, header)


def read_header(file: BinaryIO, size: int) -> NpyHeader:
    """The header of a file of `size` bytes; raises ValueError, saying what is wrong."""
    try:
        version = np.lib.format.read_magic(file)
        shape, fortran, dtype = _READERS[version](file)
    except Exception:  # numpy parses the header as Python and passes on whatever that raises
        raise ValueError("it has no header of a .npy file that can be read") from None
    if dtype.hasobject:
        raise ValueError("it holds Python objects (a pickle), which are never loaded")
    if dtype.kind != "f" or dtype.itemsize not in (2, 4, 8):
        raise ValueError(f"its numbers are {dtype}, not float16, float32 or float64")
    if not all(isinstance(side, int) and side >= 0 for side in shape):
        raise ValueError(f"its shape is {shape}")
    offset, needed = file.tell(), math.prod(shape) * dtype.itemsize
    if size != offset + needed:
        raise ValueError(
            f"its header says {needed:,} bytes of numbers and the file has {size - offset:,}: it "
            "is incomplete or damaged"
        )
    return NpyHeader(shape, dtype, fortran and len(shape) > 1, offset)


def vector_from_bytes(data: bytes) -> Floats:
    """The one embedding in a .npy, [dim] or [1, dim], as float32 [dim]; raises ValueError."""
    file = io.BytesIO(data)
    header = read_header(file, len(data))
    if math.prod(header.shape) != max(header.shape, default=0) or not header.shape:
        raise ValueError(f"its shape is {header.shape}, not that of one embedding")
    with np.errstate(over="ignore", invalid="ignore"):
        return np.frombuffer(data, header.dtype, offset=header.offset).astype(np.float32)


def _error(path: Path, why: str) -> DataSetError:
    return DataSetError(
        f"{printable(path)} cannot be used as embeddings: {why}. Write it again with numpy.save."
    )
