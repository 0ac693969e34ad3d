"""Retrieval metrics: recall@k as CLIP papers count it, MRR, mAP, nDCG and the median rank.

An item is right for a query if both have the same owner, the photo that they belong to. Every
metric follows from the ranks of the right items. Ties count against the model: a wrong item with
the same score comes first. Confidence intervals are in `bootstrap`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from indexes.arrays import Doubles, Floats, Ints

Scores = Callable[[slice], Floats]

_BLOCK = 1 << 22  # scores in memory at once
_NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Ranks:
    """The ranks of the right items of each query, from 1.

    ranks: int64 [queries, most], ascending, padded with the largest integer for queries with fewer
    than `most` right items; owners: int64 [queries], the photo that each query belongs to.
    """

    ranks: Ints
    owners: Ints

    @cached_property
    def values(self) -> dict[str, Doubles]:
        """Every metric of METRICS for each query, float64 [queries]."""
        return {name: metric(self.ranks) for name, metric in METRICS.items()}


# Ranks -----------------------------------------------------------------------------------------


def rank(scores: Scores, query_owners: Ints, gallery_owners: Ints) -> Ranks:
    """The ranks of the right items of each query.

    scores: returns float32 [block, gallery] for a slice of the queries. Needs the memory of a few
    blocks of 4 million scores. Raises ValueError if a query has no right item or a score is not a
    number.
    """
    query_owners, gallery_owners = np.asarray(query_owners), np.asarray(gallery_owners)
    order = np.argsort(gallery_owners, kind="stable")
    first = np.searchsorted(gallery_owners, query_owners, "left", order)
    count = np.searchsorted(gallery_owners, query_owners, "right", order) - first
    if not count.all():
        raise ValueError("a query has no right item")
    places = np.arange(count.max(initial=0))
    ranks = np.full((len(query_owners), len(places)), _NEVER)
    step = max(1, _BLOCK // max(1, len(gallery_owners)))
    for start in range(0, len(query_owners), step):
        part = slice(start, start + step)
        block = scores(part)
        if np.isnan(block.min(initial=0)):
            raise ValueError("a score is not a number")
        there = places < count[part, None]  # [block, most]
        right = order[np.where(there, first[part, None] + places, first[part, None])]
        found = np.where(there, np.take_along_axis(block, right, 1), np.float32(np.nan))
        found = -np.sort(-found, axis=1)  # best first, padding last
        for place in places:
            here = there[:, place]
            bar = found[here, place, None]
            better = _count_from(block if here.all() else block[here], bar)
            right_too = (found[here] >= bar).sum(1)
            ranks[part][here, place] = better - right_too + place + 1
    return Ranks(ranks, query_owners)


def _count_from(block: Floats, bar: Floats) -> Ints:
    """How many scores of each row reach its bar, float32 [rows, 1]; int64 [rows]."""
    reached = block >= bar
    return np.fromiter(map(np.count_nonzero, reached), np.int64, len(reached))


def inner_products(queries: Floats, gallery: Floats) -> Scores:
    """Scores by inner product, identical for equal rows of the gallery.

    A matrix product may round equal rows differently, depending on their position. The second of
    two equal photos could then score above the first, and the tie would be missed.
    """
    whole = np.ascontiguousarray(gallery, np.float32)
    as_bytes = whole.view(np.dtype((np.void, whole.itemsize * whole.shape[1])))[:, 0]
    _, first, twins = np.unique(as_bytes, return_index=True, return_inverse=True)
    if len(first) == len(whole):
        return lambda part: queries[part] @ whole.T
    same_as = first[twins]
    return lambda part: (queries[part] @ whole.T)[:, same_as]


# Metrics of one query --------------------------------------------------------------------------


def recall(k: int) -> Callable[[Ints], Doubles]:
    """100 where at least one right item is among the first k, else 0."""
    return lambda ranks: np.where(ranks[:, 0] <= k, 100.0, 0.0)


def reciprocal_rank(ranks: Ints) -> Doubles:
    """100 / the first right item's rank."""
    return 100.0 / ranks[:, 0]


def first_rank(ranks: Ints) -> Doubles:
    """The first right item's rank."""
    return ranks[:, 0].astype(np.float64)


def average_precision(k: int) -> Callable[[Ints], Doubles]:
    """100 × the mean over all right items of the precision at each, 0 for those beyond rank k.

    As trec_eval's map_cut: divided by the number of right items, even if it exceeds k.
    """

    def measure(ranks: Ints) -> Doubles:
        precision = np.arange(1, ranks.shape[1] + 1) / ranks
        found = np.where(ranks <= k, precision, 0.0).sum(1)
        result: Doubles = 100.0 * found / (ranks < _NEVER).sum(1)
        return result

    return measure


def discounted_gain(k: int) -> Callable[[Ints], Doubles]:
    """100 × nDCG@k of gains 0 and 1 (Järvelin and Kekäläinen, 2002)."""

    def measure(ranks: Ints) -> Doubles:
        gain = np.where(ranks <= k, 1.0 / np.log2(1.0 + ranks), 0.0).sum(1)
        best = np.cumsum(1.0 / np.log2(np.arange(2, k + 2)))
        right = np.minimum((ranks < _NEVER).sum(1), k)
        result: Doubles = 100.0 * gain / best[right - 1]
        return result

    return measure


METRICS: Mapping[str, Callable[[Ints], Doubles]] = {
    "R@1": recall(1),
    "R@5": recall(5),
    "R@10": recall(10),
    "MedR": first_rank,
    "MRR": reciprocal_rank,
    "mAP@10": average_precision(10),
    "nDCG@10": discounted_gain(10),
}
