"""How well rankings fit what is right: recall@k as CLIP papers count it, and its companions.

A query's items are right if they have the query's owner: a caption and a photo fit if both belong
to that photo. All that is measured follows from the ranks of the right items, and ties count
against the model: an item of the same score that is wrong comes first. Intervals are bootstrapped
over photos, since the captions of one photo are not independent of each other.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Scores = Callable[[slice], Floats]

_BLOCK = 1 << 22  # scores held at once
_NEVER = np.iinfo(np.int64).max
DRAWS = 1000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Ranks:
    """Where the right items of each query are, counted from 1.

    ranks: int64 [queries, most], ascending, the largest integer where a query has fewer than
    `most` right items; owners: int64 [queries], the photo that each query belongs to.
    """

    ranks: Ints
    owners: Ints

    @cached_property
    def values(self) -> dict[str, Doubles]:
        """Every measure of METRICS for each query, float64 [queries]."""
        return {name: metric(self.ranks) for name, metric in METRICS.items()}


@dataclass(frozen=True)
class Measured:
    """A measure and its bootstrap interval; all in percent but for the median rank."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """How much a second run is above a first, its interval, and a two-sided p-value."""

    value: float
    low: float
    high: float
    p: float


# Ranks -----------------------------------------------------------------------------------------


def rank(scores: Scores, query_owners: Ints, gallery_owners: Ints) -> Ranks:
    """The ranks of the right items of each query.

    scores: gives float32 [block, gallery] for a slice of the queries. Memory is that of a few
    blocks of 4 million scores. Raises ValueError where a query has no right item, or a score is
    not a number.
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
        found = -np.sort(-found, axis=1)  # best first; what is not there last
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
    """Scores by inner product, the same for equal rows of the gallery.

    Matrix products round a row's sum by its place in the matrix, so without this care the second
    of two equal photos could come out ahead of the first, and a tie would not be seen as one.
    """
    whole = np.ascontiguousarray(gallery, np.float32)
    as_bytes = whole.view(np.dtype((np.void, whole.itemsize * whole.shape[1])))[:, 0]
    _, first, twins = np.unique(as_bytes, return_index=True, return_inverse=True)
    if len(first) == len(whole):
        return lambda part: queries[part] @ whole.T
    same_as = first[twins]
    return lambda part: (queries[part] @ whole.T)[:, same_as]


# Measures of one query -------------------------------------------------------------------------


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
    """100 × the mean over all right items of the precision at each, 0 for one beyond rank k.

    As trec_eval's map_cut: divided by the number of right items, even if that is above k.
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


# All queries together --------------------------------------------------------------------------


def summarise(ranks: Ranks, draws: int = DRAWS, seed: int = 0) -> dict[str, Measured]:
    """The mean of every measure (the median of ranks), each with a 95% interval.

    The interval is from `draws` resamples of the photos, each with all its queries; the gallery
    stays as it is.
    """
    found = _resampled(ranks, draws, seed)
    tails = _tails(np.stack(list(found.values())))
    return {
        name: Measured(_overall(name, ranks), float(low), float(high))
        for name, low, high in zip(found, *tails, strict=True)
    }


def compare(
    first: Ranks, second: Ranks, draws: int = DRAWS, seed: int = 0
) -> dict[str, Difference]:
    """How much `second` is above `first` over the same queries, by a paired bootstrap.

    p: twice the smaller share of resamples in which the difference is not above, or not below 0.
    Raises ValueError where the queries are not the same.
    """
    if not np.array_equal(first.owners, second.owners):
        raise ValueError("the two runs are not over the same queries")
    before, after = _resampled(first, draws, seed), _resampled(second, draws, seed)
    found = {}
    for name in METRICS:
        steps = after[name] - before[name]
        low, high = _tails(steps)
        p = min(1.0, 2 * min(float((steps <= 0).mean()), float((steps >= 0).mean())))
        value = _overall(name, second) - _overall(name, first)
        found[name] = Difference(value, float(low), float(high), max(p, 1 / draws))
    return found


def _overall(name: str, ranks: Ranks) -> float:
    values = ranks.values[name]
    return float(np.median(values) if name == "MedR" else values.mean())


def _tails(samples: Doubles) -> tuple[Doubles, Doubles]:
    low, high = np.quantile(samples, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=-1)
    return low, high


def _resampled(ranks: Ranks, draws: int, seed: int) -> dict[str, Doubles]:
    """Every measure in each resample of the photos, float64 [draws]."""
    photos, group = np.unique(ranks.owners, return_inverse=True)
    sizes = np.bincount(group).astype(np.float64)
    times = _times_drawn(len(photos), draws, seed)  # [draws, photos]
    queries = times @ sizes
    found = {
        name: (times @ np.bincount(group, values)) / queries
        for name, values in ranks.values.items()
        if name != "MedR"
    }
    found["MedR"] = _medians(ranks.ranks[:, 0], group, times)
    return {name: found[name] for name in METRICS}


def _times_drawn(photos: int, draws: int, seed: int) -> Doubles:
    """How often each photo is drawn when as many are drawn as there are, [draws, photos]."""
    random = np.random.default_rng(seed)
    times = np.empty((draws, photos))
    for draw in times:
        draw[:] = np.bincount(random.integers(photos, size=photos), minlength=photos)
    return times


def _medians(first: Ints, group: Ints, times: Doubles) -> Doubles:
    """The median first rank where query i counts times[draw, group[i]] times, [draws]."""
    steps, level = np.unique(first, return_inverse=True)
    medians = np.empty(len(times))
    for i, draw in enumerate(times):
        below = np.cumsum(np.bincount(level, draw[group], len(steps)))
        middle = np.array([below[-1] // 2, (below[-1] - 1) // 2])  # the same for odd counts
        medians[i] = steps[np.searchsorted(below, middle, "right")].mean()
    return medians
