"""Full-text search beside the vectors: how the two orders become one.

Words find what embeddings miss (names, numbers, rare things), embeddings what nobody wrote down.
Only scores are handled here; the text lies in the catalogue's full-text table.
"""

import re
from collections.abc import Sequence

import numpy as np

from indexes.arrays import Floats

# Chosen on flickr8k's val, one caption stored and four asked (benchmarks/ranking_trials.py). The
# captions are in the vectors, too, so words have little to add, but for those that hardly any photo
# has: names, numbers, rare things, of which a model knows little.
WORDS_SHARE, RARE_SHARE = 0.05, 0.4
RARE_PHOTOS, RARE_SHARE_OF_PHOTOS = 10, 0.01
RECIPROCAL_CONSTANT = 60

_TINY = 1e-6
_LONGEST_QUERY = 64  # words
_WORD = re.compile(r"\w+")
# Words that say nothing about a photo: they would only make every caption a hit.
STOP_WORDS = frozenset(
    "a an and are as at be by for from has have he her his in into is it its near next of on or "
    "she some that the their them there they this to up two was were while who with".split()
) - {"two"}


def match_expression(texts: Sequence[str], every: bool = False) -> str:
    """What a user typed as an FTS5 expression: any of its words, or all, none taken as syntax.

    Returns '' where no word is left to look for.
    """
    words = [word for text in texts for word in _WORD.findall(text)]
    telling = [word for word in words if word.lower() not in STOP_WORDS]
    chosen = dict.fromkeys((telling or words)[:_LONGEST_QUERY])
    return (" AND " if every else " OR ").join(f'"{word}"' for word in chosen)


def share(found: int, photos: int) -> float:
    """How much say full-text search has where `found` of `photos` have every word of the query."""
    return RARE_SHARE if 0 < found <= few(photos) else WORDS_SHARE


def few(photos: int) -> int:
    """How many of so many photos are hardly any."""
    return int(max(RARE_PHOTOS, RARE_SHARE_OF_PHOTOS * photos))


def convex(
    scores: Floats,
    words: Floats,
    zero: float | Floats,
    usual: float | Floats,
    share: float | Floats = WORDS_SHARE,
) -> Floats:
    """(1 - share) · scores + share · words, each brought to the scale 0 to 1 first.

    scores: float32 [..., n], of the photos in question; words: float32 [..., n], their BM25, above
    0 where full-text search found one and else 0; zero: a score that says nothing, such as the
    mean over photos taken at random; usual: how far above zero a photo that fits usually is. The
    best BM25 becomes 1, and so does the best score if it is above what is usual: where no photo is,
    as for a name that only words can know, words decide.
    Bruch et al., An Analysis of Fusion Functions for Hybrid Retrieval, TOIS 2023.
    """
    best = reach(scores, zero, usual)
    most = np.maximum(words.max(-1, keepdims=True), _TINY)
    result: Floats = (1 - share) * (scores - zero) / best + share * words / most
    return result


def reach(scores: Floats, zero: float | Floats, usual: float | Floats) -> Floats:
    """How far above `zero` a score has to be to become 1 in `convex`, float32 [..., 1]."""
    result: Floats = np.maximum(scores.max(-1, keepdims=True) - zero, np.maximum(usual, _TINY))
    return result


def reciprocal_rank_fusion(scores: Floats, words: Floats) -> Floats:
    """Σ 1 / (60 + rank) over the two orders; shapes as for `convex`. Here only to be compared with.

    Cormack et al., Reciprocal Rank Fusion outperforms Condorcet, SIGIR 2009.
    """
    by_words = np.where(words > 0, 1 / (RECIPROCAL_CONSTANT + _ranks(words)), 0)
    return (1 / (RECIPROCAL_CONSTANT + _ranks(scores)) + by_words).astype(np.float32)


def _ranks(scores: Floats) -> Floats:
    """Each score's rank in its row, from 1."""
    order = np.argsort(-scores, axis=-1, kind="stable")
    return np.argsort(order, axis=-1).astype(np.float32) + 1
