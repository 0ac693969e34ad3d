"""Lexical scores: what full-text search is asked, and how its scores join those of the vectors.

Full-text search finds what embeddings miss (names, numbers, rare things), embeddings find what
nobody wrote down. This handles text and scores only; the full-text table is in the catalogue.
"""

from collections.abc import Sequence

import numpy as np

from indexes.arrays import Floats
from indexes.words import terms

# Chosen on flickr8k's val, one caption stored and four asked (benchmarks/ranking_trials.py). The
# captions are in the vectors, too, so full-text search adds little, except for words that hardly
# any photo has: names, numbers, rare things, which a model knows little about.
LEXICAL_WEIGHT, RARE_LEXICAL_WEIGHT = 0.05, 0.4
RARE_PHOTOS, RARE_FRACTION = 10, 0.01
# Here words decide, and the vectors order photos with the same words. Most models know English
# alone, and give any text of another script much the same embedding. And a single word that hardly
# any photo has is mostly a name: what has it is what was asked for.
DECIDING_WEIGHT = 0.8
RECIPROCAL_CONSTANT = 60

_EPSILON = 1e-6
_MOST_WORDS = 64  # of a query
# Words that say nothing about a photo: with them every caption would match.
STOP_WORDS = frozenset(
    "a an and are as at be by for from has have he her his in into is it its near next of on or "
    "she some that the their them there they this to up two was were while who with".split()
) - {"two"}


def match_expression(texts: Sequence[str], all_words: bool = False) -> str:
    """What a user typed as an FTS5 expression: any of its words, or all. None is taken as syntax.

    Returns '' if no word is left to look for.
    """
    words = [word for text in texts for word in terms(text)]
    content_words = [word for word in words if word.strip('"') not in STOP_WORDS]
    chosen = dict.fromkeys((content_words or words)[:_MOST_WORDS])
    return (" AND " if all_words else " OR ").join(chosen)


def in_captions(expression: str) -> str:
    """An FTS5 expression that is to match captions alone, not names."""
    return f"captions : ({expression})"


def is_other_script(texts: Sequence[str]) -> bool:
    """Whether at least half of the words are not in Latin letters; emoji are words, too."""
    words = [word for text in texts for word in terms(text)]
    return 2 * sum(not word.isascii() for word in words) >= max(len(words), 1)


def is_one_word(expression: str) -> bool:
    """Whether an expression of `match_expression` has a single word."""
    return bool(expression) and " AND " not in expression and " OR " not in expression


def lexical_weight(
    matches: int, photos: int, other_script: bool = False, one_word: bool = False
) -> float:
    """The weight of full-text search if `matches` of `photos` have every word of the query.

    other_script, one_word: whether the query is one, as `is_other_script` and `is_one_word` say.
    """
    rare = 0 < matches <= rare_limit(photos)
    if other_script or (one_word and rare):
        return DECIDING_WEIGHT
    return RARE_LEXICAL_WEIGHT if rare else LEXICAL_WEIGHT


def rare_limit(photos: int) -> int:
    """The most photos, of so many, that may have words which still count as rare."""
    return int(max(RARE_PHOTOS, RARE_FRACTION * photos))


def convex_combination(
    scores: Floats,
    bm25: Floats,
    zero: float | Floats,
    typical: float | Floats,
    weight: float | Floats = LEXICAL_WEIGHT,
) -> Floats:
    """(1 - weight) · scores + weight · bm25, each scaled to 0 to 1 first: float32 [..., n].

    scores: float32 [..., n], of the photos in question; bm25: float32 [..., n], 0 for photos that
    full-text search did not find; zero: a score that means nothing, such as the mean over random
    photos; typical: how far above zero a photo that fits typically is. The best BM25 becomes 1. The
    best score becomes 1, too, if it is above a typical one. If it is not, as for a name that only
    full-text search can know, BM25 decides.
    Bruch et al., An Analysis of Fusion Functions for Hybrid Retrieval, TOIS 2023.
    """
    scale = score_scale(scores, zero, typical)
    best = np.maximum(bm25.max(-1, keepdims=True), _EPSILON)
    result: Floats = (1 - weight) * (scores - zero) / scale + weight * bm25 / best
    return result


def score_scale(scores: Floats, zero: float | Floats, typical: float | Floats) -> Floats:
    """How far above `zero` a score becomes 1 in `convex_combination`, float32 [..., 1]."""
    result: Floats = np.maximum(scores.max(-1, keepdims=True) - zero, np.maximum(typical, _EPSILON))
    return result


def reciprocal_rank_fusion(scores: Floats, bm25: Floats) -> Floats:
    """Σ 1 / (60 + rank) over both orders; shapes as for `convex_combination`.

    Used only for comparison in the benchmarks.
    Cormack et al., Reciprocal Rank Fusion outperforms Condorcet, SIGIR 2009.
    """
    by_words = np.where(bm25 > 0, 1 / (RECIPROCAL_CONSTANT + _ranks(bm25)), 0)
    return (1 / (RECIPROCAL_CONSTANT + _ranks(scores)) + by_words).astype(np.float32)


def _ranks(scores: Floats) -> Floats:
    """Each score's rank in its row, from 1."""
    order = np.argsort(-scores, axis=-1, kind="stable")
    return np.argsort(order, axis=-1).astype(np.float32) + 1
