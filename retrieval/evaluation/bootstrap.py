"""Bootstrap confidence intervals of measures, and of differences between two runs.

The bootstrap resamples photos, each with all its queries, since the captions of one photo are not
independent of each other. The measures themselves are in `metrics`.
"""

from dataclasses import dataclass

import numpy as np

from indexes.arrays import Doubles, Ints
from retrieval.evaluation.metrics import METRICS, Ranks

DRAWS = 1000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Measured:
    """A measure and its bootstrap interval, in percent (the median rank is a rank)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """How much a second run is above a first, with its interval and a two-sided p-value."""

    value: float
    low: float
    high: float
    p: float


# All queries together --------------------------------------------------------------------------


def summarise(ranks: Ranks, draws: int = DRAWS, seed: int = 0) -> dict[str, Measured]:
    """The mean of every measure (the median of ranks), each with a 95% interval.

    The interval is from `draws` resamples of the photos, each with all its queries; the gallery
    is not resampled.
    """
    samples = _resampled(ranks, draws, seed)
    tails = _tails(np.stack(list(samples.values())))
    return {
        name: Measured(_overall(name, ranks), float(low), float(high))
        for name, low, high in zip(samples, *tails, strict=True)
    }


def compare(
    first: Ranks, second: Ranks, draws: int = DRAWS, seed: int = 0
) -> dict[str, Difference]:
    """How much `second` is above `first` over the same queries, by a paired bootstrap.

    p: twice the smaller of two shares of resamples, those where the difference is not above 0 and
    those where it is not below 0. Raises ValueError if the queries are not the same.
    """
    if not np.array_equal(first.owners, second.owners):
        raise ValueError("the two runs are not over the same queries")
    before, after = _resampled(first, draws, seed), _resampled(second, draws, seed)
    differences = {}
    for name in METRICS:
        samples = after[name] - before[name]
        low, high = _tails(samples)
        p = min(1.0, 2 * min(float((samples <= 0).mean()), float((samples >= 0).mean())))
        value = _overall(name, second) - _overall(name, first)
        differences[name] = Difference(value, float(low), float(high), max(p, 1 / draws))
    return differences


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
    samples = {
        name: (times @ np.bincount(group, values)) / queries
        for name, values in ranks.values.items()
        if name != "MedR"
    }
    samples["MedR"] = _medians(ranks.ranks[:, 0], group, times)
    return {name: samples[name] for name in METRICS}


def _times_drawn(photos: int, draws: int, seed: int) -> Doubles:
    """How often each photo is drawn in each resample, float64 [draws, photos]."""
    random = np.random.default_rng(seed)
    times = np.empty((draws, photos))
    for draw in times:
        draw[:] = np.bincount(random.integers(photos, size=photos), minlength=photos)
    return times


def _medians(first: Ints, group: Ints, times: Doubles) -> Doubles:
    """The median first rank if query i counts times[draw, group[i]] times, float64 [draws]."""
    steps, level = np.unique(first, return_inverse=True)
    medians = np.empty(len(times))
    for i, draw in enumerate(times):
        below = np.cumsum(np.bincount(level, draw[group], len(steps)))
        middle = np.array([below[-1] // 2, (below[-1] - 1) // 2])  # the same for odd counts
        medians[i] = steps[np.searchsorted(below, middle, "right")].mean()
    return medians
