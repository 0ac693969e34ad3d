"""The vectors: exact inner-product search over unit float32 rows, kept as a FAISS index on disk.

The file is a cache of the catalogue's embeddings, memory-mapped when searched. Photo ids only ever
grow and an embedding never changes under its id, so a file stays right while rows are appended: the
searcher adds what is newer as a second part. Nothing here decides what a vector means.

One query against all rows is a product of a matrix and a vector, which numpy computes on FAISS's
file as fast as FAISS does; importing FAISS and the CUDA libraries that it brings takes longer than
the rest of a search, so only what writes the file does.
"""

import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from indexes.arrays import Floats, Ints
from indexes.lazy_imports import load_faiss

# An IndexIDMap over an IndexFlatIP, as FAISS writes it: "IxMp", a 33-byte header, "IxFI", the same
# header, the count of floats, the floats, the count of ids, the ids.
_HEADER = struct.Struct("<4siqqqBi")
_OVERHEAD = 2 * _HEADER.size + 16
_ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Part:
    """Some of the rows: ids, int64 [n]; rows: float32 [n, dim], in memory or mapped.

    What is mapped from a file need not lie where numbers of four bytes should.
    """

    ids: Ints
    rows: Floats

    def __len__(self) -> int:
        return len(self.ids)

    def blocks(self) -> Iterator[tuple[slice, Floats]]:
        """The rows in pieces that stay in a processor's cache, and where each is."""
        if self.rows.flags.aligned:
            yield slice(0, len(self)), self.rows
            return
        dim = self.rows.shape[1]
        held = self.rows.view(np.uint8)  # bytes are copied faster than numbers out of place
        buffer = np.empty((min(len(self), _ROWS_AT_ONCE), dim), np.float32)
        for start in range(0, len(self), _ROWS_AT_ONCE):
            where = slice(start, min(start + _ROWS_AT_ONCE, len(self)))
            block = buffer[: where.stop - start]
            block.view(np.uint8)[:] = held[where]
            yield where, block

    def scores(self, query: Floats) -> Floats:
        """The inner products with a query, float32 [n]; never a NaN, whatever the file holds."""
        found = np.empty(len(self), np.float32)
        for where, block in self.blocks():
            np.matmul(block, query, out=found[where])
        return np.nan_to_num(found, copy=False, nan=-np.inf)

    def nearest(
        self, query: Floats, k: int, allowed: Ints | None, excluded_ids: Ints | None
    ) -> tuple[Ints, Floats]:
        """As `search`, of these rows alone: the best k, and what equals the last, in any order."""
        scores = self.scores(query)
        keep = scores > -np.inf
        if allowed is not None:
            keep &= np.isin(self.ids, allowed, assume_unique=True)
        elif excluded_ids is not None and excluded_ids.size:
            keep &= np.isin(self.ids, excluded_ids, assume_unique=True, invert=True)
        if np.count_nonzero(keep) > k:
            last = np.partition(np.where(keep, scores, np.float32(-np.inf)), -k)[-k]
            keep &= scores >= last
        return self.ids[keep], scores[keep]


def save(part: Part, path: Path) -> None:
    """Write rows as a FAISS index, `IndexIDMap` over `IndexFlatIP`, to a temporary name beside
    `path`, then rename it."""
    if not _nameable(path):
        return
    faiss = load_faiss()
    index = faiss.IndexIDMap(faiss.IndexFlatIP(part.rows.shape[1]))
    index.add_with_ids(np.ascontiguousarray(part.rows), np.ascontiguousarray(part.ids))
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        faiss.write_index(index, str(temporary))
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())  # a name must never reach the disk before its content
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path, dim: int) -> Part | None:
    """Memory-map the rows in `path`; None where there is no file that can be used.

    It is checked against the exact layout of the one kind of index that `save` writes.
    """
    try:
        with path.open("rb") as file:
            outer = file.read(_HEADER.size)
            inner = file.read(_HEADER.size)
            floats = file.read(8)
            size = os.fstat(file.fileno()).st_size
            count = _layout_count(outer, inner, floats, size, dim)
            if count is None:
                return None
            file.seek(size - 8 * count - 8)
            if struct.unpack("<Q", file.read(8))[0] != count:
                return None
            ids = np.frombuffer(file.read(8 * count), "<i8")
            if count == 0:
                return Part(ids, np.empty((0, dim), np.float32))
            rows = np.memmap(file, "<f4", "r", 2 * _HEADER.size + 8, (count, dim))
    except (OSError, ValueError):
        return None
    return Part(ids, rows) if len(ids) == count else None


def _nameable(path: Path) -> bool:
    """Whether FAISS can be told this name: it takes UTF-8 only. Elsewhere there is no cache."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _layout_count(outer: bytes, inner: bytes, floats: bytes, size: int, dim: int) -> int | None:
    """How many rows the headers promise; None unless file size and every header agree."""
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


def average(parts: Sequence[Part], dim: int, most: int) -> Floats:
    """The mean of the rows, float32 [dim]; of about `most`, evenly spaced, where there are more.

    Zeros where there are none.
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
    excluded_ids: Ints | None = None,
) -> tuple[Ints, Floats]:
    """The `k` rows of highest inner product with `query`, best first, over all `parts` together.

    query: float32 [dim]; allowed: the only ids that may be found, None for all; excluded_ids: those
    that may not.
    Returns ids, int64 [m], and scores, float32 [m], with m ≤ k. Equal scores come in order of id.
    """
    found = [part.nearest(query, k, allowed, excluded_ids) for part in parts]
    ids = np.concatenate([np.empty(0, np.int64), *(some for some, _ in found)])
    scores = np.concatenate([np.empty(0, np.float32), *(some for _, some in found)])
    order = np.lexsort((ids, -scores))[:k]
    return ids[order], scores[order]


def nearest_ids(parts: Sequence[Part], queries: Floats) -> set[int]:
    """The ids of the rows that are the nearest to one of `queries`, float32 [m, dim]."""
    best = np.full(len(queries), -np.inf, np.float32)
    found = np.full(len(queries), -1, np.int64)
    for part in parts:
        for where, block in part.blocks():
            for some in range(0, len(block), _ROWS_AT_ONCE):
                scores = block[some : some + _ROWS_AT_ONCE] @ queries.T
                highest = scores.argmax(0)
                score = scores[highest, np.arange(len(queries))]
                nearer = score > best
                best[nearer] = score[nearer]
                found[nearer] = part.ids[where][some + highest[nearer]]
    return {int(i) for i in found if i >= 0}
