"""How much of an unwanted word to subtract from a query 'A, but not B'.

    python -m benchmarks.unwanted DATASET [--split S] [--model mini]

A and B are any two words that occur together in the captions of enough photos. A photo shows A if
two of its captions have the word, and B if one has it. Printed are, in percent of the first ten
hits and averaged over all pairs: hits with A but not B, hits with B (lower is better), and hits
with A (how much of the query's meaning is left); and mean average precision for A but not B.
Searches use `retrieval.fusion.attention.UNWANTED_STRENGTH`.
"""

import argparse
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.objects import average_precision
from indexes.arrays import Bools
from retrieval.datasets.captioned import read_captioned
from retrieval.datasets.embedding_cache import drop_unreadable, open_embedding_cache
from retrieval.encoders.registry import load_encoder
from retrieval.fusion.attention import UNWANTED_STRENGTH, normalise, unwanted_parts

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)
_K = 10
_MIN_SHARE = 0.15  # of the photos of A that show B, too
_STOP_WORDS = frozenset(
    "the and with are his her its for from into over out through down their that who next near "
    "other another some two three one during while".split()
)


def pairs(captions: Sequence[Sequence[str]]) -> list[tuple[str, str, Bools, Bools]]:
    """Pairs of words: (A, B, photos of A, photos of B), with masks bool [photos]."""
    counts = [Counter(w for text in some for w in _words(text)) for some in captions]
    common = Counter(word for count in counts for word, times in count.items() if times > 1)
    words = [w for w, photos in common.items() if photos >= max(4, len(counts) // 50)]
    of = {w: np.array([count[w] > 1 for count in counts]) for w in words}
    any_of = {w: np.array([count[w] > 0 for count in counts]) for w in words}
    return [
        (a, b, of[a], any_of[b])
        for a in words
        for b in words
        if a != b
        and (both := int((of[a] & any_of[b]).sum()))
        >= max(3, len(counts) // 200, _MIN_SHARE * of[a].sum())
        and int(of[a].sum()) - both >= 5
    ]


def _words(text: str) -> set[str]:
    found = (w.removesuffix("s") if len(w) > 3 else w for w in re.findall(r"[a-z]+", text.lower()))
    return {w for w in found if len(w) > 2 and w not in _STOP_WORDS}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--split", default="all")
    parser.add_argument("--model", default="mini")
    chosen = parser.parse_args()
    encoder = load_encoder(chosen.model)
    whole = read_captioned(chosen.dataset, chosen.split)
    with open_embedding_cache(encoder, lambda *_: None) as cache:
        photos, unreadable = cache.photos(whole.photos)
        used = drop_unreadable(whole, unreadable, False, print)
        queries = pairs([photo.captions for photo in used.photos])
        words = sorted({word for pair in queries for word in pair[:2]})
        rows = dict(zip(words, cache.texts(words).rows, strict=True))
    print(
        f"{len(queries)} pairs of {len(words)} words, {len(used.photos):,} photos, {encoder.name}"
    )
    print("strength   A, not B         B         A       mAP")
    for strength in STRENGTHS:
        results = []
        for a, b, has_a, has_b in queries:
            unwanted = unwanted_parts(rows[a], rows[b][None], [strength / UNWANTED_STRENGTH])[0]
            scores = photos.rows @ normalise(rows[a] - unwanted)
            first = np.argsort(-scores, kind="stable")[:_K]
            relevant = has_a & ~has_b
            shares = [float(100 * mask[first].mean()) for mask in (relevant, has_b, has_a)]
            results.append([*shares, average_precision(scores, relevant)])
        print(f"{strength:<8g}" + "".join(f"{value:>11.1f}" for value in np.mean(results, axis=0)))


if __name__ == "__main__":
    main()
