"""How well matching separates true pairs from near misses, and what re-ranking with it gains.

This is a part of `benchmarks.fusion`, with the same photos, alone and fused with their captions.
They are searched with `nnn`, and the first hits are re-ranked. A near miss is a text with one of
the ten nearest photos that it does not describe.
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
_QUERIES = 256  # scored at a time
_Z_95 = 1.959964  # standard deviations of a normal distribution on either side of 95%


@dataclass(frozen=True)
class MatchingResult:
    """One case.

    auc: how often a true pair scores higher than a near miss, 0 to 1, by the cosine, by the ranking
    (the cosine minus the photo's bias) and by matching; above: how much the AUC of matching is
    above that of the cosine; without, reranked, gain: recall without re-ranking, with it, and their
    difference.
    """

    auc: Mapping[str, Measured]
    above: Measured
    without: Mapping[str, Measured]
    reranked: Mapping[str, Measured]
    gain: Mapping[str, Difference]


def measure(
    matching: Matching, bank: Floats, captioned: CaptionedEmbeddings, seeds: Sequence[int]
) -> dict[str, MatchingResult]:
    """Each case over all seeds together; intervals are over photos.

    bank: the queries that show which photos are hubs, float32 [b, dim].
    """
    results = {}
    for name in ("photo_only", *CASES):
        blocks = []
        for seed in seeds:
            case = make_case("clean" if name == "photo_only" else name, captioned, seed)
            photos = case.images if name == "photo_only" else case.attention(matching.fusion)
            blocks += list(_blocks(matching, photos, bank, case.queries, case.owners))
        results[name] = _summarise_blocks(blocks)
    return results


@dataclass(frozen=True)
class _Block:
    """Some queries.

    pairs: scores by name, float32 [n, 1 + NEAR_MISSES], those of the true pairs first; ranks,
    reranked: ranks of the true photos, int64 [n]; owners: the true photos, int64 [n].
    """

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
        texts, targets = queries[start : start + _QUERIES], owners[start : start + _QUERIES, None]

        def score_change(candidates: Ints, texts: Floats = texts) -> Floats:
            """What matching adds to the scores of pairs: float32 [n, candidates]."""
            flat = np.repeat(texts, candidates.shape[1], 0)
            return matching.residual(photos[candidates.ravel()], flat).reshape(candidates.shape)

        cosines = texts @ photos.T
        scores = cosines - bias
        others = cosines.copy()
        np.put_along_axis(others, targets, -np.inf, 1)
        near = np.argpartition(-others, misses - 1, axis=1)[:, :misses]
        paired = np.concatenate([targets, near], 1)
        ranking_scores = np.take_along_axis(scores, paired, 1)
        pairs = {
            "cosine": np.take_along_axis(cosines, paired, 1),
            "ranking": ranking_scores,
            "match": ranking_scores + score_change(paired),
        }
        true = np.take_along_axis(scores, targets, 1)
        # Ties count against the true photo, as in `retrieval.evaluation.metrics`.
        ranks = (scores >= true).sum(1)
        top = np.argpartition(-scores, first - 1, axis=1)[:, :first]
        new_scores = np.take_along_axis(scores, top, 1) + score_change(top)
        position = (top == targets).argmax(1)[:, None]
        new_ranks = (new_scores >= np.take_along_axis(new_scores, position, 1)).sum(1)
        in_top = (top == targets).any(1)
        yield _Block(pairs, ranks, np.where(in_top, new_ranks, ranks), targets[:, 0])


def _summarise_blocks(blocks: Sequence[_Block]) -> MatchingResult:
    owners = np.concatenate([block.owners for block in blocks])
    pairs = {
        name: np.concatenate([block.pairs[name] for block in blocks]) for name in blocks[0].pairs
    }
    values = {name: auc(rows[:, 0], rows[:, 1:], owners) for name, rows in pairs.items()}
    before, after = (
        Ranks(np.concatenate([getattr(block, which) for block in blocks])[:, None], owners)
        for which in ("ranks", "reranked")
    )
    (cosine, cosine_parts), (match, match_parts) = values["cosine"], values["match"]
    return MatchingResult(
        {name: _interval(value, parts) for name, (value, parts) in values.items()},
        _interval(match - cosine, match_parts - cosine_parts),
        summarise(before),
        summarise(after),
        compare(before, after),
    )


def auc(true: Floats, wrong: Floats, owners: Ints) -> tuple[float, Doubles]:
    """How often a true pair scores higher than a wrong one, ties half, and each photo's part in it.

    true: float32 [n]; wrong: float32 [n, m], for the same texts; owners: int64 [n]. The parts,
    float64 [photos], sum to zero, and the root of their sum of squares is the standard error.
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
    """For each value the share of the others that are below it; equal ones count half."""
    others = np.sort(others)
    ends = np.searchsorted(others, values, "left") + np.searchsorted(others, values, "right")
    result: Doubles = ends / (2 * len(others))
    return result


def _interval(value: float, parts: Doubles) -> Measured:
    half = _Z_95 * float(np.sqrt((parts**2).sum()))
    return Measured(value, value - half, value + half)


# As text --------------------------------------------------------------------------------------


def as_json(found: Mapping[str, MatchingResult]) -> dict[str, Any]:
    """Plain values: AUC from 0 to 1, recall in percent, each with a 95% interval."""
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


def as_lines(found: Mapping[str, MatchingResult]) -> list[str]:
    """A table for the terminal."""
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
