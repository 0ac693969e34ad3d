"""Approximate search: FAISS names candidates among many rows, and these are scored exactly.

A bias against hubs is one more dimension of what FAISS searches (the row v and its bias b become
[v, -b], the query q becomes [q, 1], or [q, 0] for a search without the bias), so the candidates are
those of the biased order: Chowdhury et al., Nearest Neighbor Normalization, EMNLP 2024. What FAISS
cannot do well is answered exactly: few allowed rows, very many hits, or another bias.
"""

from dataclasses import dataclass, field
from math import log2
from typing import Protocol

import numpy as np

from indexes.arrays import Array, Floats, Ints, ascending
from indexes.vectors.rows import EVERYTHING, Bias, Rows, Selection

# FAISS's code for 8-bit rows is many times faster if their length is a multiple of 16.
_MULTIPLE = 16
_MOST_HITS = 2_500  # for more, exact search is the faster one, too
_FEWEST_CANDIDATES = 40
_MOST_BITS = 8  # filters whose bitmaps are kept
# Up to this share of allowed rows, and this many, exact search over them is as fast and misses
# nothing (`python -m benchmarks.search_filters` measures it).
EXACT_SHARE, EXACT_ROWS = 0.02, 20_000
# A graph is walked near the query: of a folder whose photos are alike and elsewhere, it loses a
# quarter of the hits at a tenth of the rows, however long the walk.
GRAPH_EXACT_SHARE = 0.5


class Engine(Protocol):
    """What FAISS built over rows with their bias as one more dimension."""

    def candidates(
        self, query: Floats, count: int, breadth: int, bits: Array | None
    ) -> Ints | None:
        """About the `count` best rows for a query, int64 [m], as positions in any order.

        query: float32 [padded dim], from `augmented`; breadth: how much is looked at; bits: uint8,
        a bit for each row that may be found, the lowest first, the same array for the same rows;
        None for all. Returns None if it cannot search.
        """
        ...


@dataclass(frozen=True)
class ApproximateRows(Rows):
    """Rows that are searched by an engine.

    bias: the name of what is in its extra dimension, '' for nothing; breadth: as much as a search
    for ten hits has to look at; candidates: how many are scored exactly for each hit; is_graph:
    whether the engine walks from row to row; known_bits: bitmaps of the last selections.
    """

    engine: Engine
    bias: str
    breadth: int
    candidates: int = 4
    is_graph: bool = False
    known_bits: dict[tuple[int, int], tuple[Selection, Array]] = field(
        default_factory=dict, compare=False, repr=False
    )

    def nearest(
        self, query: Floats, k: int, selection: Selection = EVERYTHING, bias: Bias | None = None
    ) -> tuple[Ints, Floats]:
        """As `Rows.nearest`, from candidates only, and without rows beyond the best k."""
        other_bias = bias is not None and bias.name != self.bias
        allowed = len(self) if selection.allowed is None else len(selection.allowed)
        if other_bias or self.searches_exactly(k, allowed):
            return super().nearest(query, k, selection, bias)
        positions = self.engine.candidates(
            augmented(query, biased=bias is not None),
            max(self.candidates * k, _FEWEST_CANDIDATES),
            self.breadth_for(k, allowed),
            self._bits(selection),
        )
        if positions is None:
            return super().nearest(query, k, selection, bias)
        positions = ascending(positions[(positions >= 0) & (positions < len(self))])
        scores = self.scores_at(positions, query)
        if selection.lowest is not None:
            enough = scores >= selection.lowest
            positions, scores = positions[enough], scores[enough]
        ordered_by = scores if bias is None else scores - bias.values[positions]
        best = np.argsort(-ordered_by, kind="stable")[:k]
        return positions[best], scores[best]

    def searches_exactly(self, k: int, allowed: int) -> bool:
        """Whether exact search is the better one for k hits among so many allowed rows."""
        most = min(EXACT_SHARE * len(self), EXACT_ROWS)
        if self.is_graph:
            most = GRAPH_EXACT_SHARE * len(self)
        return k > _MOST_HITS or allowed <= most

    def breadth_for(self, k: int, allowed: int) -> int:
        """More for more hits; in a graph also for a filter, among whose rows they lie farther
        apart. Chosen with `python -m benchmarks.search_filters`.
        """
        more_hits = 1 + log2(max(k, 10) / 10) / 6
        fewer_rows = 4 * len(self) / max(allowed, 1) - 3 if self.is_graph else 1
        return int(np.ceil(self.breadth * more_hits * fewer_rows))

    def _bits(self, selection: Selection) -> Array | None:
        excluded = selection.excluded
        if selection.allowed is None and (excluded is None or not len(excluded)):
            return None
        # Queries come with the same arrays while the filter and the index stay as they are.
        key = id(selection.allowed), id(excluded)
        if key not in self.known_bits:
            if len(self.known_bits) >= _MOST_BITS:
                self.known_bits.pop(next(iter(self.known_bits)))
            bits = np.packbits(self.chosen(selection), bitorder="little")
            self.known_bits[key] = selection, bits  # the selection keeps its arrays, and their ids
        return self.known_bits[key][1]


def padded_dim(dim: int) -> int:
    """The length of augmented vectors: those of `dim` numbers, a bias, and zeros."""
    return -(-(dim + 1) // _MULTIPLE) * _MULTIPLE


def augmented(query: Floats, biased: bool) -> Floats:
    """A query, float32 [dim], as an engine takes it, float32 [padded dim]."""
    row = np.zeros(padded_dim(len(query)), np.float32)
    row[: len(query)] = query
    row[len(query)] = biased
    return row


def augmented_rows(rows: Rows, where: slice | Ints, bias: Floats | None) -> Floats:
    """Some of the rows as an engine takes them, float32 [m, padded dim]. bias: float32 [n]."""
    some = rows.rows[where]
    result = np.zeros((len(some), padded_dim(rows.dim)), np.float32)
    result[:, : rows.dim] = some
    if bias is not None:
        result[:, rows.dim] = -bias[where]
    return result
