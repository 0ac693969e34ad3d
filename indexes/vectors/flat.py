"""Search over several parts of the vectors together, each searched in its own way.

The parts of an index are the rows that are stored, exact or approximate, and the rows that are
newer. Whatever found a row, its score is the exact inner product.
"""

from collections.abc import Sequence

import numpy as np

from indexes.arrays import Floats, Ints
from indexes.vectors.rows import EVERYTHING, Bias, Rows, Selection

_BLOCK_ROWS = 4096
MEAN_SAMPLE = 2000
"""How many rows stand for all in their mean."""


def search(
    parts: Sequence[Rows],
    query: Floats,
    k: int,
    selections: Sequence[Selection] | None = None,
    biases: Sequence[Bias] | None = None,
) -> tuple[Ints, Floats]:
    """The `k` rows of highest inner product with `query` less their bias, best first.

    query: float32 [dim]; selections, biases: one for each part. Returns ids, int64 [m], and inner
    products, float32 [m], with m ≤ k. Equal rows get equal scores, and equal scores come in order
    of id. (A GPU gives no more than k rows of a part: of equal rows that compete for the last
    places it chooses any.)
    """
    selections = [EVERYTHING] * len(parts) if selections is None else selections
    of_parts: Sequence[Bias | None] = [None] * len(parts) if biases is None else biases
    found = [
        part.nearest(query, k, selection, bias)
        for part, selection, bias in zip(parts, selections, of_parts, strict=True)
    ]
    positions = [at for at, _ in found]
    ids = np.concatenate(
        [np.empty(0, np.int64), *(p.ids[at] for p, at in zip(parts, positions, strict=True))]
    )
    scores = np.concatenate([np.empty(0, np.float32), *(some for _, some in found)])
    _level_equal_rows(parts, positions, scores)
    ordered_by = scores
    if biases is not None and len(scores):
        values = [bias.values[at] for bias, at in zip(biases, positions, strict=True)]
        ordered_by = scores - np.concatenate(values)
    order = np.lexsort((ids, -ordered_by))[:k]
    return ids[order], scores[order]


def _level_equal_rows(parts: Sequence[Rows], positions: Sequence[Ints], scores: Floats) -> None:
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
        row = parts[part_of[i]].at(row_of[i])
        alike.setdefault(row.tobytes(), []).append(i)
    for equal in alike.values():
        scores[equal] = scores[equal].max()


def sample_rows(parts: Sequence[Rows], dim: int, most: int) -> Floats:
    """About `most` of the rows, evenly spaced, or all if there are fewer: float32 [n, dim]."""
    step = -(-max(sum(map(len, parts)), 1) // most)
    some = [part.rows[::step].astype(np.float32, copy=False) for part in parts]
    return np.concatenate([np.empty((0, dim), np.float32), *some])


def mean_row(parts: Sequence[Rows], dim: int, most: int) -> Floats:
    """The mean of the rows, float32 [dim]; of about `most`, evenly spaced, if there are more.

    Zeros if there are none.
    """
    rows = sample_rows(parts, dim, most)
    mean: Floats = rows.sum(0) / np.float32(max(len(rows), 1))
    return mean


def nearest_ids(parts: Sequence[Rows], queries: Floats) -> set[int]:
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
