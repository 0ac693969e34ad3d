"""What matching gains: telling true pairs from near misses, and re-ranking against without.

Photos alone and fused with their captions, as in `benchmarks.fusion`, of which this is a part;
searched with `nnn`, whose first hits are re-ranked. A near miss is a text with one of the ten
photos nearest to it that it does not belong to.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from indexes.arrays import Doubles, Floats, Ints
from retrieval.evaluation.bootstrap import Difference, Measured, compare, summarise
from retrieval.evaluation.fusion_cases import CASES, make_case
from retrieval.evaluation.fusion_data import CaptionedEmbeddings
from retrieval.evaluation.metrics import Ranks
from retrieval.ranking.hubness import nnn_bias
from retrieval.ranking.matching import Matching
from retrieval.ranking.reranking import RERANK_DEPTH

SHOWN = ("R@1", "R@5")
NEAR_MISSES = 10
_QUERIES = 256  # scored at once
_TAIL = 1.959964  # of a normal distribution, on either side of 95%


@dataclass(frozen=True)
class Matched:
    """One case. auc: how often a true pair scores higher than a near miss, 0 to 1, by the cosine,
    by the ranking (the cosine less the photo's bias) and by matching; above: how much that of
    matching is above the cosine's. without, reranked, gain: recall without re-ranking and with."""

    auc: Mapping[str, Measured]
    above: Measured
    without: Mapping[str, Measured]
    reranked: Mapping[str, Measured]
    gain: Mapping[str, Difference]


def measure(
    matching: Matching, bank: Floats, captioned: CaptionedEmbeddings, seeds: Sequence[int]
) -> dict[str, Matched]:
    """Each case over all seeds together; intervals are over photos.

    bank: the queries that hubs are known by, float32 [b, dim].
    """
    found = {}
    for name in ("photo_only", *CASES):
        blocks = []
        for seed in seeds:
            case = make_case("clean" if name == "photo_only" else name, captioned, seed)
            photos = case.images if name == "photo_only" else case.attention(matching.fusion)
            blocks += list(_blocks(matching, photos, bank, case.queries, case.owners))
        found[name] = _matched(blocks)
    return found


@dataclass(frozen=True)
class _Block:
    """Some queries. pairs: by the name of a score, float32 [n, 1 + NEAR_MISSES], the true pair's
    first; ranks, reranked: of the true photo, int64 [n]; owners: int64 [n]."""

    pairs: Mapping[str, Floats]
    ranks: Ints
    reranked: Ints
    owners: Ints


def _blocks(
    matching: Matching, photos: Floats, bank: Floats, queries: Floats, owners: Ints
) -> Iterator[_Block]:
    bias = nnn_bias(photos, bank)
    misses, first = min(NEAR_MISSES, len(photos) - 1), min(RERANK_DEPTH, len(photos))
    for start in range(0, len(queries), _QUERIES):
        texts, own = queries[start : start + _QUERIES], owners[start : start + _QUERIES, None]

        def added(places: Ints, texts: Floats = texts) -> Floats:
            flat = np.repeat(texts, places.shape[1], 0)
            return matching.residual(photos[places.ravel()], flat).reshape(places.shape)

        cosines = texts @ photos.T
        scores = cosines - bias
        wrong = cosines.copy()
        np.put_along_axis(wrong, own, -np.inf, 1)
        near = np.argpartition(-wrong, misses - 1, axis=1)[:, :misses]
        places = np.concatenate([own, near], 1)
        ranked = np.take_along_axis(scores, places, 1)
        pairs = {
            "cosine": np.take_along_axis(cosines, places, 1),
            "ranking": ranked,
            "match": ranked + added(places),
        }
        true = np.take_along_axis(scores, own, 1)
        ranks = (scores >= true).sum(1)  # ties count against, as in `retrieval.evaluation.metrics`
        top = np.argpartition(-scores, first - 1, axis=1)[:, :first]
        anew = np.take_along_axis(scores, top, 1) + added(top)
        itself = (top == own).argmax(1)[:, None]
        among = (anew >= np.take_along_axis(anew, itself, 1)).sum(1)
        inside = (top == own).any(1)
        yield _Block(pairs, ranks, np.where(inside, among, ranks), own[:, 0])


def _matched(blocks: Sequence[_Block]) -> Matched:
    owners = np.concatenate([block.owners for block in blocks])
    pairs = {
        name: np.concatenate([block.pairs[name] for block in blocks]) for name in blocks[0].pairs
    }
    values = {name: auc(rows[:, 0], rows[:, 1:], owners) for name, rows in pairs.items()}
    before, after = (
        Ranks(np.concatenate([getattr(block, which) for block in blocks])[:, None], owners)
        for which in ("ranks", "reranked")
    )
    (low, by_photo), (high, also_by_photo) = values["cosine"], values["match"]
    return Matched(
        {name: _around(value, parts) for name, (value, parts) in values.items()},
        _around(high - low, also_by_photo - by_photo),
        summarise(before),
        summarise(after),
        compare(before, after),
    )


def auc(true: Floats, wrong: Floats, owners: Ints) -> tuple[float, Doubles]:
    """How often a true pair scores higher than a wrong one, ties half, and each photo's part in it.

    true: float32 [n]; wrong: float32 [n, m], of the same texts; owners: int64 [n]. The parts,
    float64 [photos], sum to zero, and the root of the sum of their squares is the standard error.
    Obuchowski, Nonparametric analysis of clustered ROC curve data, Biometrics 1997.
    """
    above = _share_below(true, wrong.ravel())
    below = 1 - _share_below(wrong.ravel(), true).reshape(wrong.shape)
    value = float(above.mean())
    _, group = np.unique(owners, return_inverse=True)
    parts = np.bincount(group, above - value) / len(true)
    parts += np.bincount(group, (below - value).sum(1)) / wrong.size
    photos = len(parts)
    result: Doubles = parts * np.sqrt(photos / max(photos - 1, 1))
    return value, result


def _share_below(values: Floats, others: Floats) -> Doubles:
    """For each value the share of the others that are below it, equal ones counted half."""
    others = np.sort(others)
    ends = np.searchsorted(others, values, "left") + np.searchsorted(others, values, "right")
    result: Doubles = ends / (2 * len(others))
    return result


def _around(value: float, parts: Doubles) -> Measured:
    half = _TAIL * float(np.sqrt((parts**2).sum()))
    return Measured(value, value - half, value + half)


# As text --------------------------------------------------------------------------------------


def as_json(found: Mapping[str, Matched]) -> dict[str, Any]:
    """Plain values: AUC from 0 to 1, recall in percent, all with 95% intervals."""
    return {
        name: {
            "auc": {
                **{score: _plain(one, 4) for score, one in case.auc.items()},
                "above_cosine": _plain(case.above, 4),
            },
            "without": {m: _plain(case.without[m], 3) for m in SHOWN},
            "reranked": {m: _plain(case.reranked[m], 3) for m in SHOWN},
            "difference": {m: {**_plain(case.gain[m], 3), "p": case.gain[m].p} for m in SHOWN},
        }
        for name, case in found.items()
    }


def _plain(one: Measured | Difference, digits: int) -> dict[str, Any]:
    interval = [round(one.low, digits), round(one.high, digits)]
    return {"value": round(one.value, digits), "interval": interval}


def as_lines(found: Mapping[str, Matched]) -> list[str]:
    """Words and figures for a terminal."""
    lines = [
        f"{'matching':<14}{'AUC cosine':<12}{'ranking':<9}{'match':<7}{'above cosine':<25}"
        f"R@1, re-ranked above {'':<10}R@5, re-ranked above"
    ]
    for name, case in found.items():
        recall = "".join(
            f"{case.without[m].value:5.1f} {case.gain[m].value:+.2f} "
            f"[{case.gain[m].low:+.2f}, {case.gain[m].high:+.2f}]".ljust(32)
            for m in SHOWN
        )
        above = f"{case.above.value:+.3f} [{case.above.low:+.3f}, {case.above.high:+.3f}]"
        cosine, ranking, match = (f"{one.value:.3f}" for one in case.auc.values())
        lines.append(f"{name:<14}{cosine:<12}{ranking:<9}{match:<7}{above:<25}{recall}".rstrip())
    return lines
