"""The vectors: exact inner-product search over unit float32 rows, stored as a FAISS index.

The file is a cache of the searchable embeddings in the catalogue, memory-mapped for a search. Ids
only ever grow and an embedding never changes under its id: a file stays right while photos are
added, and newer ones are a second part. What a vector means is decided elsewhere.

One query against all rows is a product of a matrix and a vector, which numpy computes on FAISS's
file as fast as FAISS does. Importing FAISS, with the CUDA libraries that it brings, takes longer
than the rest of a search; only writing the file needs it.
"""

import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from indexes.arrays import Floats, Ints
from indexes.atomic_write import atomic_write
from indexes.lazy_imports import load_faiss
from indexes.regular_files import open_regular

# An IndexIDMap over an IndexFlatIP, as FAISS writes it: "IxMp", a 33-byte header, "IxFI", the same
# header, the count of floats, the floats, the count of ids, the ids.
_HEADER = struct.Struct("<4siqqqBi")
_OVERHEAD = 2 * _HEADER.size + 16
_BLOCK_ROWS = 4096
_BLOCK_IDS = 1 << 20


@dataclass(frozen=True)
class Part:
    """Some of the rows: ids, int64 [n]; rows: float32 [n, dim], in memory or memory-mapped.

    Rows mapped from a file may lie at an address that is not a multiple of four.
    """

    ids: Ints
    rows: Floats

    def __len__(self) -> int:
        return len(self.ids)

    def blocks(self) -> Iterator[tuple[slice, Floats]]:
        """The rows as aligned blocks, each with its place.

        Blocks copied from a file are small enough for the processor's cache, and overwritten by the
        next one.
        """
        if self.rows.flags.aligned:
            yield slice(0, len(self)), self.rows
            return
        dim = self.rows.shape[1]
        unaligned = self.rows.view(np.uint8)  # numpy copies bytes faster than unaligned numbers
        buffer = np.empty((min(len(self), _BLOCK_ROWS), dim), np.float32)
        for start in range(0, len(self), _BLOCK_ROWS):
            where = slice(start, min(start + _BLOCK_ROWS, len(self)))
            block = buffer[: where.stop - start]
            block.view(np.uint8)[:] = unaligned[where]
            yield where, block

    def scores(self, query: Floats) -> Floats:
        """The inner products with a query, float32 [n]; -inf for a row that holds NaN."""
        found = np.empty(len(self), np.float32)
        for where, block in self.blocks():
            np.matmul(block, query, out=found[where])
        return np.nan_to_num(found, copy=False, nan=-np.inf)

    def nearest(
        self, query: Floats, k: int, allowed: Ints | None, excluded: Ints | None
    ) -> tuple[Ints, Floats]:
        """The best k rows for `search`, and those that rounding alone may place after them.

        Returns positions of rows, int64 [m], in any order, and scores, float32 [m].
        """
        scores = self.scores(query)
        keep = scores > -np.inf
        if allowed is not None:
            keep &= np.isin(self.ids, allowed, assume_unique=True)
        elif excluded is not None and excluded.size:
            keep &= np.isin(self.ids, excluded, assume_unique=True, invert=True)
        if np.count_nonzero(keep) > k:
            last = np.partition(np.where(keep, scores, np.float32(-np.inf)), -k)[-k]
            keep &= scores >= last - _rounding(query)
        positions = np.flatnonzero(keep)
        return positions, scores[positions]


def _rounding(query: Floats) -> np.float32:
    """How far two scores of equal unit rows can differ, as each is rounded in its own order."""
    return np.float32(len(query) * np.finfo(np.float32).eps * np.linalg.norm(query))


def save(part: Part, path: Path) -> None:
    """Write rows as a FAISS index, `IndexIDMap` over `IndexFlatIP`; raises OSError or RuntimeError.

    Does nothing if FAISS cannot write to a file of this name.
    """
    if not _is_utf8(path):
        return
    faiss = load_faiss()
    index = faiss.IndexIDMap(faiss.IndexFlatIP(part.rows.shape[1]))
    index.add_with_ids(np.ascontiguousarray(part.rows), np.ascontiguousarray(part.ids))
    with atomic_write(path) as temporary:
        faiss.write_index(index, str(temporary))


def load(path: Path, dim: int, most_bytes: int | None = None) -> Part | None:
    """Memory-map the rows in `path`; None if there is no usable file.

    The file is checked against the exact layout of the only kind of index that `save` writes; its
    ids have to ascend. A file of more than `most_bytes` is not used.
    """
    try:
        with open_regular(path) as file:
            outer = file.read(_HEADER.size)
            inner = file.read(_HEADER.size)
            floats = file.read(8)
            size = os.fstat(file.fileno()).st_size
            count = _layout_count(outer, inner, floats, size, dim)
            if count is None or (most_bytes is not None and size > most_bytes):
                return None
            file.seek(size - 8 * count - 8)
            if struct.unpack("<Q", file.read(8))[0] != count:
                return None
            ids = _read_ids(file, count)
            if ids is None:
                return None
            if count == 0:
                return Part(ids, np.empty((0, dim), np.float32))
            rows = np.memmap(file, "<f4", "r", 2 * _HEADER.size + 8, (count, dim))
    except (OSError, ValueError):
        return None
    return Part(ids, rows)


def _read_ids(file: BinaryIO, count: int) -> Ints | None:
    """The ids, int64 [count]; None at the first that does not ascend: a hole is read no further."""
    blocks, last = [np.empty(0, np.int64)], 0
    for start in range(0, count, _BLOCK_IDS):
        block = np.frombuffer(file.read(8 * min(_BLOCK_IDS, count - start)), "<i8")
        if not (np.diff(block, prepend=last) > 0).all():
            return None
        blocks.append(block)
        last = int(block[-1])
    ids = np.concatenate(blocks)
    return ids if len(ids) == count else None


def _is_utf8(path: Path) -> bool:
    """Whether FAISS can open this path: it takes UTF-8 only."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _layout_count(outer: bytes, inner: bytes, floats: bytes, size: int, dim: int) -> int | None:
    """The number of rows; None unless the size of the file and all headers agree on it."""
    if len(outer) < _HEADER.size or len(inner) < _HEADER.size or len(floats) < 8:
        return None
    tag, width, count, *_rest, metric = _HEADER.unpack(outer)
    inner_tag, inner_width, inner_count, *_rest, inner_metric = _HEADER.unpack(inner)
    (scalars,) = struct.unpack("<Q", floats)
    agrees = (
        (tag, inner_tag) == (b"IxMp", b"IxFI")
        and width == inner_width == dim
        and count == inner_count >= 0
        and metric == inner_metric == 0  # faiss.METRIC_INNER_PRODUCT
        and scalars == count * dim
        and size == _OVERHEAD + count * (4 * dim + 8)
    )
    return int(count) if agrees else None


def mean_row(parts: Sequence[Part], dim: int, most: int) -> Floats:
    """The mean of the rows, float32 [dim]; of about `most`, evenly spaced, if there are more.

    Zeros if there are none.
    """
    step = -(-max(sum(map(len, parts)), 1) // most)
    rows = np.concatenate([np.empty((0, dim), np.float32), *(part.rows[::step] for part in parts)])
    mean: Floats = rows.sum(0) / np.float32(max(len(rows), 1))
    return mean


def search(
    parts: Sequence[Part],
    query: Floats,
    k: int,
    allowed: Ints | None = None,
    excluded: Ints | None = None,
) -> tuple[Ints, Floats]:
    """The `k` rows of highest inner product with `query`, best first, over all `parts` together.

    query: float32 [dim]; allowed: the only ids that may be found, None for all; excluded: ids that
    may not.
    Returns ids, int64 [m], and scores, float32 [m], with m ≤ k. Equal rows get equal scores, and
    equal scores come in order of id. (A GPU gives no more than k rows of a part: of equal rows that
    compete for the last places it chooses any.)
    """
    found = [part.nearest(query, k, allowed, excluded) for part in parts]
    ids = np.concatenate(
        [np.empty(0, np.int64), *(p.ids[at] for p, (at, _) in zip(parts, found, strict=True))]
    )
    scores = np.concatenate([np.empty(0, np.float32), *(some for _, some in found)])
    _level_equal_rows(parts, [at for at, _ in found], scores)
    order = np.lexsort((ids, -scores))[:k]
    return ids[order], scores[order]


def _level_equal_rows(parts: Sequence[Part], positions: Sequence[Ints], scores: Floats) -> None:
    """Give equal rows the same score, the highest that any of them got.

    BLAS adds up a row in an order that depends on its place in the matrix, which changes the last
    bits. positions: rows of each part, with `scores`, float32 [m], of all of them.
    """
    firsts = [part.rows[some, 0] for part, some in zip(parts, positions, strict=True)]
    _, group, sizes = np.unique(
        np.concatenate([np.empty(0, np.float32), *firsts]), return_inverse=True, return_counts=True
    )
    candidates = np.flatnonzero(sizes[group] > 1)  # few: different rows rarely begin alike
    if not candidates.size:
        return
    part_of = np.repeat(np.arange(len(parts)), [len(some) for some in positions])
    row_of = np.concatenate(positions)
    alike: dict[bytes, list[int]] = {}
    for i in candidates.tolist():
        row = parts[part_of[i]].rows[row_of[i]]
        alike.setdefault(row.tobytes(), []).append(i)
    for equal in alike.values():
        scores[equal] = scores[equal].max()


def nearest_ids(parts: Sequence[Part], queries: Floats) -> set[int]:
    """The ids of the rows that are the nearest to one of `queries`, float32 [m, dim]."""
    best = np.full(len(queries), -np.inf, np.float32)
    found = np.full(len(queries), -1, np.int64)
    for part in parts:
        for where, block in part.blocks():
            for start in range(0, len(block), _BLOCK_ROWS):
                scores = block[start : start + _BLOCK_ROWS] @ queries.T
                highest = scores.argmax(0)
                score = scores[highest, np.arange(len(queries))]
                nearer = score > best
                best[nearer] = score[nearer]
                found[nearer] = part.ids[where][start + highest[nearer]]
    return {int(i) for i in found if i >= 0}
