"""The setting of an approximate kind: the least that finds 99 of a hundred of the exact first ten.

It is found on the vectors themselves with queries like those of users; other queries measure what
it then finds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from indexes.arrays import Floats
from indexes.vectors.approximate import ApproximateRows
from indexes.vectors.rows import Bias, Rows

HITS = 10
TARGET = 0.99
# Asked of the queries that choose the setting: with a few hundred, a recall is off by about this.
_MARGIN = 0.003
_BLOCK_ROWS = 1 << 16


@dataclass(frozen=True)
class Tuned:
    """A setting. recall: of queries that did not choose it, how many of these there were."""

    breadth: int
    recall: float
    queries: int


def tune(
    rows: ApproximateRows, bias: Bias | None, queries: Floats, breadths: Sequence[int]
) -> Tuned:
    """Find the breadth for rows, with and without the bias that their engine holds.

    queries: float32 [m, dim], m ≥ 2; every other one chooses, the rest measure. breadths: from fast
    to thorough; the last is taken if none is enough.
    """
    choosing, measuring = queries[::2], queries[1::2]
    biases = [None] if bias is None else [bias, None]
    enough = [_thresholds(rows, b, choosing) for b in biases]
    for breadth in breadths:
        tried = replace(rows, breadth=breadth)
        found = [_recall(tried, b, choosing, e) for b, e in zip(biases, enough, strict=True)]
        if min(found) >= TARGET + _MARGIN:
            break
    measured = [_recall(tried, b, measuring, _thresholds(rows, b, measuring)) for b in biases]
    return Tuned(breadth, min(measured), len(measuring))


def _thresholds(rows: Rows, bias: Bias | None, queries: Floats) -> Floats:
    """The score of each query's exact tenth hit, float32 [m]; the last one's if there are fewer."""
    best = np.empty((len(queries), 0), np.float32)
    for start in range(0, len(rows), _BLOCK_ROWS):
        where = slice(start, start + _BLOCK_ROWS)
        scores = queries @ np.asarray(rows.rows[where], np.float32).T
        if bias is not None:
            scores -= bias.values[where]
        best = np.concatenate([best, scores], axis=1)
        best = np.partition(best, -min(HITS, best.shape[1]), axis=1)[:, -HITS:]
    lowest: Floats = best.min(1)
    return lowest


def _recall(rows: Rows, bias: Bias | None, queries: Floats, enough: Floats) -> float:
    """The share of the exact first ten that is found; a hit counts if it scores as high."""
    hits = 0
    for query, threshold in zip(queries, enough, strict=True):
        positions, scores = rows.nearest(query, HITS, bias=bias)
        if bias is not None:
            scores = scores - bias.values[positions]
        hits += int((scores >= threshold - 1e-6).sum())
    return min(1.0, hits / (len(queries) * min(HITS, len(rows))))
