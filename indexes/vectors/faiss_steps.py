"""What the kinds that FAISS builds have in common: learning and filling an index, and one search.

What an index is made of, and how it lies on disk, each kind knows itself.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from indexes.arrays import Array, Floats, Ints
from indexes.lazy_imports import load_faiss
from indexes.vectors.approximate import augmented_rows
from indexes.vectors.rows import Rows

_BLOCK = 1 << 14  # rows added at a time

Progress = Callable[[int, int], None]


def train(index: Any, rows: Rows, bias: Floats | None, sample: int, seed: int) -> None:
    """Let FAISS's index learn from a random sample of the rows. bias: float32 [n]."""
    random = np.random.default_rng(seed)
    chosen = random.choice(len(rows), min(len(rows), sample), replace=False)
    index.train(augmented_rows(rows, np.sort(chosen), bias))


def add(
    index: Any, rows: Rows, bias: Floats | None, progress: Progress, chosen: Ints | None = None
) -> None:
    """Add rows to FAISS's index. bias: float32 [n]; chosen: positions, int64 [m], None for all.

    progress: called with how many rows are done, and of how many.
    """
    count = len(rows) if chosen is None else len(chosen)
    for start in range(0, count, _BLOCK):
        part = slice(start, min(start + _BLOCK, count))
        if chosen is None:
            index.add(augmented_rows(rows, part, bias))
        else:
            index.add_with_ids(augmented_rows(rows, chosen[part], bias), chosen[part])
        progress(part.stop, count)


def search(index: Any, query: Floats, count: int, parameters: Any, bits: Array | None) -> Ints:
    """The positions that FAISS's index finds, int64 [m], with m ≤ count; as `Engine.candidates`."""
    selector = None if bits is None else load_faiss().IDSelectorBitmap(bits)
    if selector is not None:
        parameters.sel = selector
    _, found = index.search(query[None], count, params=parameters)
    positions: Ints = found[0]
    return positions[positions >= 0]


def search_cells(
    index: Any, query: Floats, count: int, cells: Ints, scores: Floats, bits: Array
) -> Ints:
    """As `search`, of inverted lists, in these cells alone: int64 [c], the nearest first.

    scores: the inner products of their centroids with the query, float32 [c].
    """
    faiss = load_faiss()
    selector = faiss.IDSelectorBitmap(bits)
    parameters = faiss.SearchParametersIVF(nprobe=len(cells), sel=selector)
    query, cells = np.ascontiguousarray(query), np.ascontiguousarray(cells, np.int64)
    scores = np.ascontiguousarray(scores)
    found, positions = np.empty(count, np.float32), np.empty(count, np.int64)
    # The method of the same name in Python takes no parameters.
    index.search_preassigned_c(
        *(1, faiss.swig_ptr(query), count, faiss.swig_ptr(cells), faiss.swig_ptr(scores)),
        *(faiss.swig_ptr(found), faiss.swig_ptr(positions), False, parameters),
    )
    return positions[positions >= 0]
