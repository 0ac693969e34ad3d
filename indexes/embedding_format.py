"""How an embedding is stored in a row of the catalogue: float16, with a checksum.

Half precision takes half the space and leaves recall as it is (docs/benchmarks.md). What is read is
scaled to length one again. The checksum covers the table and the photo as well as the numbers: a
row that was changed, swapped or copied elsewhere does not match. Up to format 3 embeddings were
float32 without a checksum. What the tables are for is known in `indexes.embeddings`.
"""

import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from indexes.arrays import Array, Floats
from indexes.rows import RowError

FIRST_WITH_CHECKSUMS = 4
"""The first format of the catalogue that stores embeddings this way."""
TABLES = ("embeddings", "said", "fused")
"""The tables that hold embeddings: of images, of captions, and of both fused."""
_KEY = struct.Struct("<Bq")  # number of the table, id of the photo
_MOST_OFF = 0.01  # from a length of one; rounding to float16 changes it by less than 0.001


def stored(table: str, ids: Iterable[int], rows: Floats) -> Iterator[tuple[int, bytes, int]]:
    """(photo id, vector, checksum) of embeddings, float32 [n, dim], as columns of `table`."""
    vectors = map(np.ndarray.tobytes, rows.astype("<f2"))
    for photo_id, vector in zip(ids, vectors, strict=True):
        yield photo_id, vector, checksum(table, photo_id, vector)


def checksum(table: str, photo_id: int, vector: bytes) -> int:
    """CRC-32 of the table, the photo and the vector: an integer from 0 to 2^32 - 1."""
    return zlib.crc32(vector, zlib.crc32(_KEY.pack(TABLES.index(table), photo_id)))


def verify(rows: Iterable[tuple[str, int, Any, Any]]) -> None:
    """Raise RowError unless every (table, photo id, vector, checksum) agrees with itself."""
    for table, photo_id, vector, known in rows:
        if isinstance(vector, bytes) and checksum(table, photo_id, vector) != known:
            raise RowError(f"{table}: the vector of photo {photo_id} does not match its checksum")


def dtype_of(catalogue_format: int) -> np.dtype[Any]:
    """The type of the numbers in a stored vector."""
    return np.dtype("<f2" if catalogue_format >= FIRST_WITH_CHECKSUMS else "<f4")


def embeddings_of(vectors: Sequence[Any], dim: int, catalogue_format: int) -> Floats:
    """Stored vectors as float32 [n, dim] of length one; raises RowError if they are damaged."""
    dtype = dtype_of(catalogue_format)
    if any(not isinstance(v, bytes) or len(v) != dtype.itemsize * dim for v in vectors):
        raise RowError("an embedding has the wrong size")
    rows = np.frombuffer(b"".join(vectors), dtype).reshape(-1, dim).astype(np.float32)
    lengths = _lengths(rows)
    if not _are_one(lengths).all():
        raise RowError("an embedding is not of length one")
    if catalogue_format >= FIRST_WITH_CHECKSUMS:
        rows /= lengths[:, None]
    return rows


def are_of_length_one(rows: Floats) -> Array:
    """Which rows, float32 [n, dim], are of length one but for rounding: bool [n]."""
    return _are_one(_lengths(rows))


def _lengths(rows: Floats) -> Floats:
    with np.errstate(over="ignore", invalid="ignore"):  # of damaged rows
        lengths: Floats = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    return lengths


def _are_one(lengths: Floats) -> Array:
    near: Array = np.abs(lengths - 1) <= _MOST_OFF  # NaN is not
    return near
