"""Rows: some of the vectors with the ids of their photos, and exact search over them.

One query against all rows is a product of a matrix and a vector, which numpy computes on the mapped
file as fast as FAISS does. Importing FAISS, with the CUDA libraries of its wheel, takes longer than
the rest of a search over a small index. Approximate kinds are subclasses: they look at fewer rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from indexes.arrays import Array, Bools, Floats, Ints

_BLOCK_ROWS = 4096
# Up to this share of many rows, reading single rows is faster than multiplying all of them.
_FEW, _MANY = 0.1, 20_000


@dataclass(frozen=True)
class Selection:
    """Which photos a search may find.

    allowed: their ids, int64 [n], ascending, None for all; excluded: ids that it may not find, in
    any order, besides; lowest: the lowest inner product (without the bias), None for any.
    """

    allowed: Ints | None = None
    excluded: Ints | None = None
    lowest: float | None = None


EVERYTHING = Selection()


@dataclass(frozen=True)
class Bias:
    """One number for each row, subtracted from its inner product when rows are ordered.

    name: of what it was computed from; values: float32 [n].
    """

    name: str
    values: Floats


@dataclass(frozen=True)
class Rows:
    """Some of the vectors. ids: int64 [n], ascending; rows: [n, dim], float32, or float16 if they
    are many, in memory or memory-mapped."""

    ids: Ints
    rows: Array

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def dim(self) -> int:
        return int(self.rows.shape[1])

    def at(self, positions: Ints) -> Floats:
        """The rows at these positions, float32 [m, dim]."""
        return self.rows[positions].astype(np.float32, copy=False)

    def positions(self, ids: Ints) -> Ints:
        """Where these ids are, int64 [m]; -1 for one that is not here."""
        if not len(self):
            return np.full(len(ids), -1, np.int64)
        places = np.searchsorted(self.ids, ids).clip(max=len(self) - 1)
        return np.where(self.ids[places] == ids, places, -1)

    def blocks(self) -> Iterator[tuple[slice, Floats]]:
        """The rows in order, as float32 blocks, each with its place."""
        step = len(self) if self.rows.dtype == np.float32 else _BLOCK_ROWS
        for start in range(0, len(self), max(step, 1)):
            where = slice(start, min(start + step, len(self)))
            yield where, np.asarray(self.rows[where], np.float32)

    def scores(self, query: Floats) -> Floats:
        """The inner products with a query, float32 [n]; -inf for a row that holds NaN."""
        found = np.empty(len(self), np.float32)
        with np.errstate(all="ignore"):  # a file may hold any number
            for where, block in self.blocks():
                np.matmul(block, query, out=found[where])
        return _without_nan(found)

    def scores_at(self, positions: Ints, query: Floats) -> Floats:
        """The inner products of the rows at these positions with a query, float32 [m]."""
        found = np.empty(len(positions), np.float32)
        with np.errstate(all="ignore"):
            for start in range(0, len(positions), _BLOCK_ROWS):
                where = slice(start, start + _BLOCK_ROWS)
                np.matmul(self.at(positions[where]), query, out=found[where])
        return _without_nan(found)

    def nearest(
        self, query: Floats, k: int, selection: Selection = EVERYTHING, bias: Bias | None = None
    ) -> tuple[Ints, Floats]:
        """The best k rows for a query, and those that rounding alone may place after them.

        Best is the highest inner product less the bias. Returns positions, int64 [m], in any order,
        and inner products, float32 [m].
        """
        allowed, many = selection.allowed, len(self) > _MANY
        if many and allowed is not None and len(allowed) <= _FEW * len(self):
            positions = self.positions(allowed)
            positions = positions[positions >= 0]
            scores = self.scores_at(positions, query)
            keep = np.ones(len(positions), np.bool_)
        else:
            positions, scores = None, self.scores(query)
            keep = self.chosen(selection)
        keep &= scores > -np.inf
        if selection.lowest is not None:
            keep &= scores >= selection.lowest
        values = (
            None if bias is None else bias.values if positions is None else (bias.values[positions])
        )
        best = _best(scores if values is None else scores - values, keep, k, _rounding(query))
        return best if positions is None else positions[best], scores[best]

    def chosen(self, selection: Selection) -> Bools:
        """Which rows a selection allows by their ids, bool [n]."""
        if selection.allowed is None:
            keep = np.ones(len(self), np.bool_)
        else:
            keep = np.zeros(len(self), np.bool_)
            positions = self.positions(selection.allowed)
            keep[positions[positions >= 0]] = True
        if selection.excluded is not None and len(selection.excluded):
            positions = self.positions(selection.excluded)
            keep[positions[positions >= 0]] = False
        return keep


def _best(scores: Floats, keep: Bools, k: int, rounding: np.float32) -> Ints:
    """The positions of the k highest scores among those to keep, and of those within rounding."""
    if np.count_nonzero(keep) > k:
        last = np.partition(np.where(keep, scores, np.float32(-np.inf)), -k)[-k]
        keep = keep & (scores >= last - rounding)
    return np.flatnonzero(keep)


def _rounding(query: Floats) -> np.float32:
    """How far two scores of equal unit rows can differ, as each is rounded in its own order."""
    return np.float32(len(query) * np.finfo(np.float32).eps * np.linalg.norm(query))


def _without_nan(scores: Floats) -> Floats:
    return np.nan_to_num(scores, copy=False, nan=-np.inf)
