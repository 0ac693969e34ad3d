"""The vectors: exact inner-product search with FAISS over unit float32 rows.

The file is a cache of the catalogue's embeddings, memory-mapped when searched. Photo ids only ever
grow and an embedding never changes under its id, so a file stays right while rows are appended: the
searcher adds what is newer as a second part. Nothing here decides what a vector means.
"""

import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from indexes.native import load_faiss

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]

# An IndexIDMap over an IndexFlatIP, as FAISS writes it: "IxMp", a 33-byte header, "IxFI", the same
# header, the count of floats, the floats, the count of ids, the ids.
_HEADER = struct.Struct("<4siqqqBi")
_OVERHEAD = 2 * _HEADER.size + 16


def build(ids: Ids, rows: Floats) -> Any:
    """An exact inner-product FAISS index of `rows`, float32 [n, dim], under `ids`, int64 [n]."""
    faiss = load_faiss()
    index = faiss.IndexIDMap(faiss.IndexFlatIP(rows.shape[1]))
    index.add_with_ids(np.ascontiguousarray(rows, np.float32), np.ascontiguousarray(ids, np.int64))
    return index


def save(index: Any, path: Path) -> None:
    """Write an index to a temporary name beside `path`, then rename it."""
    if not _nameable(path):
        return
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        load_faiss().write_index(index, str(temporary))
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())  # a name must never reach the disk before its content
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path, dim: int) -> Any | None:
    """Memory-map the index in `path`; None where there is none that can be used.

    The file is checked against the exact layout of the one kind of index that `save` writes before
    FAISS reads it, since FAISS's readers trust what a file says of itself.
    """
    if not _nameable(path):
        return None
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
    except OSError:
        return None
    faiss = load_faiss()
    try:
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError:
        return None
    return index if index.ntotal == count and index.d == dim else None


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


def stored_ids(index: Any) -> Ids:
    """The ids in an index, int64 [n], in storage order."""
    ids: Ids = load_faiss().vector_to_array(index.id_map)
    return ids


def average(parts: Sequence[Any], dim: int, most: int) -> Floats:
    """The mean of the rows, float32 [dim]; of about `most`, evenly spaced, where there are more.

    Zeros where there are none.
    """
    faiss = load_faiss()
    total = sum(part.ntotal for part in parts)
    some = [np.empty((0, dim), np.float32)]
    for part in parts:
        if part.ntotal:
            flat = faiss.downcast_index(part.index)
            rows = faiss.rev_swig_ptr(flat.get_xb(), part.ntotal * dim).reshape(-1, dim)
            some.append(rows[:: -(-total // most)])
    mean: Floats = np.concatenate(some).sum(0) / np.float32(max(sum(map(len, some)), 1))
    return mean


def search(
    parts: Sequence[Any],
    query: Floats,
    k: int,
    allowed: Ids | None = None,
    refused: Ids | None = None,
) -> tuple[Ids, Floats]:
    """The `k` rows of highest inner product with `query`, best first, over all `parts` together.

    query: float32 [dim]; allowed: the only ids that may be found, None for all; refused: ids that
    may not be found.
    Returns ids, int64 [m], and scores, float32 [m], with m ≤ k. Equal scores come in order of id.
    """
    faiss = load_faiss()
    parameters = None
    if allowed is not None:
        parameters = faiss.SearchParameters(sel=faiss.IDSelectorBatch(allowed))
    elif refused is not None and refused.size:
        unwanted = faiss.IDSelectorBatch(refused)
        parameters = faiss.SearchParameters(sel=faiss.IDSelectorNot(unwanted))
    found_ids, found_scores = [], []
    for part in parts:
        if part.ntotal:
            scores, ids = part.search(query[None, :], min(k, part.ntotal), params=parameters)
            keep = ids[0] >= 0
            found_ids.append(ids[0][keep])
            found_scores.append(scores[0][keep])
    if not found_ids:
        return np.empty(0, np.int64), np.empty(0, np.float32)
    ids, scores = np.concatenate(found_ids), np.concatenate(found_scores)
    order = np.lexsort((ids, -scores))[:k]
    return ids[order], scores[order]


def first_hits(parts: Sequence[Any], queries: Floats) -> set[int]:
    """The ids of the rows that are the nearest to one of `queries`, float32 [m, dim]."""
    best = np.full(len(queries), -np.inf, np.float32)
    found = np.full(len(queries), -1, np.int64)
    for part in parts:
        if part.ntotal:
            scores, ids = part.search(queries, 1)
            nearer = scores[:, 0] > best
            best[nearer], found[nearer] = scores[nearer, 0], ids[nearer, 0]
    return {int(i) for i in found if i >= 0}
