"""The quality of probabilities: calibration error, Brier score, AUC and the reliability diagram.

Nothing here knows of searches or of captions; `relevance` applies it to the hits of trials.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from indexes.arrays import Array, Doubles, Ints

BINS = 10


@dataclass(frozen=True)
class Reliability:
    """Probabilities compared with outcomes, in bins of equal width over 0 to 1.

    ece: expected calibration error, Σ_bins share · |mean probability − share of matches| (Naeini
    et al., 2015); low, high: its bootstrap 95% interval over queries; brier: mean (p − y)²;
    probabilities, matches, count: for each bin the mean probability, the share of matches, and the
    number of hits.
    """

    hits: int
    queries: int
    ece: float
    low: float
    high: float
    brier: float
    mean_probability: float
    mean_match: float
    probabilities: tuple[float, ...]
    matches: tuple[float, ...]
    count: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values, by the names that `benchmark relevance --json` has always had."""
        names = {"probabilities": "promised", "matches": "came"}
        return {names.get(name, name): value for name, value in vars(self).items()}


def reliability(probability: Doubles, match: Doubles, query: Ints, seed: int = 0) -> Reliability:
    """Compare probabilities with outcomes, float64 [m] in 0..1; query: int64 [m], of each hit.

    Estimated outcomes may be probabilities themselves. The bootstrap resamples whole queries (1,000
    times), since the hits of one query are not independent. Raises ValueError for no hits.
    """
    if not len(probability):
        raise ValueError("there are no hits to measure")
    which = np.minimum((probability * BINS).astype(np.int64), BINS - 1)
    _, number = np.unique(query, return_inverse=True)
    queries = int(number.max()) + 1
    table = np.zeros((queries, 3, BINS))  # sums by query: count, probabilities, matches
    for layer, values in enumerate((np.ones_like(probability), probability, match)):
        np.add.at(table[:, layer], (number, which), values)
    random = np.random.default_rng(seed)
    flat, even = table.reshape(queries, -1), np.full(queries, 1 / queries)
    draws = [_ece((random.multinomial(queries, even) @ flat).reshape(3, BINS)) for _ in range(1000)]
    low, high = np.percentile(draws, (2.5, 97.5))
    count, probabilities, matches = table.sum(0)
    full = np.maximum(count, 1)
    return Reliability(
        hits=len(probability),
        queries=queries,
        ece=_ece(table.sum(0)),
        low=float(low),
        high=float(high),
        brier=float(np.mean((probability - match) ** 2)),
        mean_probability=float(probability.mean()),
        mean_match=float(match.mean()),
        probabilities=tuple((probabilities / full).tolist()),
        matches=tuple((matches / full).tolist()),
        count=tuple(count.astype(int).tolist()),
    )


def _ece(sums: Array) -> float:
    """From the hits, the expected matches and the matches in each bin, sums: [3, bins]."""
    return float(np.abs(sums[1] - sums[2]).sum() / sums[0].sum())


def auc(value: Doubles, positive: Doubles) -> float:
    """How often a positive has the higher value than a negative, ties half.

    positive: 0..1, the share of each element that is positive (estimated outcomes are weights).
    Returns nan without positives or without negatives.
    """
    order = np.argsort(value, kind="stable")
    value, positive = value[order], positive[order].astype(np.float64)
    _, group = np.unique(value, return_inverse=True)
    negatives = np.bincount(group, 1 - positive)
    positives = np.bincount(group, positive)
    below = np.cumsum(negatives) - negatives / 2
    total = positives.sum() * negatives.sum()
    return float((positives * below).sum() / total) if total else float("nan")


def draw_diagram(file: Path, named: dict[str, Reliability]) -> None:
    """Write the reliability diagrams side by side, as PNG, SVG or PDF by the file's suffix."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(named), 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(2, len(named), squeeze=False, height_ratios=(4, 1), sharex=True)
    for column, (name, measured) in enumerate(named.items()):
        upper, lower = grid[:, column]
        full = [i for i, count in enumerate(measured.count) if count]
        upper.plot((0, 1), (0, 1), "--", color="0.6", linewidth=1)
        upper.plot(
            [measured.probabilities[i] for i in full],
            [measured.matches[i] for i in full],
            "o-",
            color="C0",
        )
        upper.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", title=name)
        upper.set_ylabel("share that matches")
        upper.text(
            0.05,
            0.93,
            f"ECE {measured.ece:.3f} [{measured.low:.3f}, {measured.high:.3f}]",
            va="top",
        )
        lower.bar(np.arange(BINS) / BINS, measured.count, 1 / BINS, align="edge", edgecolor="white")
        lower.set(yscale="log", xlabel="relevance", ylabel="hits")
    figure.savefig(file, dpi=120)
