"""The exact answers to queries over made rows, which approximate searches are compared with.

Computed from the rows themselves in float32, not by anything that is measured.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.made_index import FOLDERS, MadeRows
from indexes.arrays import Bools, Floats, Ints

K = 10
_DEPTH = 5 * K  # room for rows that score as high as the K-th
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Answers:
    """The best rows of each query: ids, int64 [q, depth], and scores, float32 [q, depth], best
    first. With fewer rows than that, the last ids are 0 and their scores -inf."""

    ids: Ints
    scores: Floats

    def __getitem__(self, queries: slice) -> "Answers":
        return Answers(self.ids[queries], self.scores[queries])

    def recall(self, found: Sequence[Ints]) -> float:
        """The share of the first K of each query that was found, in percent.

        found: the ids found for all queries, or for the first of them. A row counts if it scores
        as high as the exact K-th.
        """
        hits = wanted = 0
        for ids, scores, some in zip(self.ids, self.scores, found, strict=False):
            right = ids[(scores >= scores[K - 1] - _ROUNDING) & (ids > 0)]
            most = min(K, int((ids > 0).sum()))
            hits += min(most, len(np.intersect1d(right, some[:K])))
            wanted += most
        return 100 * hits / max(wanted, 1)


@dataclass(frozen=True)
class Exact:
    """plain: by the cosine; biased: by the cosine less the bias of the default ranking; filtered:
    the same among the photos of a folder, by the share that it holds."""

    plain: Answers
    biased: Answers
    filtered: Mapping[float, Answers]

    def __getitem__(self, queries: slice) -> "Exact":
        filtered = {share: answers[queries] for share, answers in self.filtered.items()}
        return Exact(self.plain[queries], self.biased[queries], filtered)


def exact_answers(
    rows: MadeRows, queries: Floats, bias: Callable[[Floats], Floats] | None
) -> Exact:
    """The exact answers to queries, float32 [q, dim]. bias: of rows, float32 [n, dim]."""
    similar = {share: rows.is_similar(share) for share in FOLDERS}
    plain, biased = _Best(len(queries)), _Best(len(queries))
    filtered = {share: _Best(len(queries)) for share in FOLDERS}
    for ids, some, near in rows.blocks():
        scores = queries @ some.T
        plain.add(ids, scores)
        if bias is not None:
            scores = scores - bias(some)
        biased.add(ids, scores)
        for share, best in filtered.items():
            inside: Bools = similar[share][near]
            best.add(ids[inside], scores[:, inside])
    return Exact(
        plain.answers(),
        biased.answers(),
        {share: best.answers() for share, best in filtered.items()},
    )


class _Best:
    """The best rows so far of each query."""

    def __init__(self, queries: int) -> None:
        self._ids = np.zeros((queries, _DEPTH), np.int64)
        self._scores = np.full((queries, _DEPTH), -np.inf, np.float32)

    def add(self, ids: Ints, scores: Floats) -> None:
        """More rows: ids [m], scores [q, m]."""
        if scores.shape[1] > _DEPTH:
            best = np.argpartition(scores, -_DEPTH, axis=1)[:, -_DEPTH:]
            scores, found = np.take_along_axis(scores, best, 1), ids[best]
        else:
            found = np.broadcast_to(ids, scores.shape)
        scores = np.concatenate([self._scores, scores], axis=1)
        found = np.concatenate([self._ids, found], axis=1)
        best = np.argpartition(scores, -_DEPTH, axis=1)[:, -_DEPTH:]
        self._scores = np.take_along_axis(scores, best, 1)
        self._ids = np.take_along_axis(found, best, 1)

    def answers(self) -> Answers:
        order = np.argsort(-self._scores, axis=1, kind="stable")
        return Answers(
            np.take_along_axis(self._ids, order, 1), np.take_along_axis(self._scores, order, 1)
        )
