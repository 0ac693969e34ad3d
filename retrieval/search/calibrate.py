"""The relevance of what a search found: from scores to probabilities.

The model of relevance was fitted on photos without captions; measured on photos that are fused with
a caption, it is as right (docs/benchmarks.md). A photo whose captions have every word of the query
has at least `WORDS_MATCH`. One that has them only in its name or folder, which may be after
anything, has no relevance. See `retrieval.ranking.relevance`.
"""

from dataclasses import replace

import numpy as np

from indexes.errors import FullTextError
from retrieval.ranking import relevance
from retrieval.ranking.hub_bias import generic_bias
from retrieval.ranking.lexical import in_captions, match_expression
from retrieval.search.state import Search


def calibrate(search: Search) -> Search:
    """Fill in the relevance of the candidates, as far as it is known for query, model and photo."""
    text = relevance.calibrated_text(search.query)
    calibration = search.calibration
    if text is None or calibration is None or not search.candidates:
        return search
    bias = search.bias.generic
    if bias is None:
        bias = generic_bias(search.index, None)
    if bias is None:
        return search
    ids = [hit.photo for hit in search.candidates]
    scores = np.array([hit.cosine for hit in search.candidates])
    scores -= bias.of(np.array(ids, np.int64))
    gallery = search.index.gallery_statistics(search.vector, search.filter)
    gallery = replace(gallery, mean=gallery.mean - bias.mean)
    known = dict(zip(ids, relevance.relevances(calibration, scores, gallery, text), strict=True))
    in_texts, in_names = _with_all_words(search, text, ids)
    for photo in in_texts:
        known[photo] = max(known[photo], relevance.WORDS_MATCH)
    for photo in in_names - in_texts:
        del known[photo]
    return replace(search, relevance=known)


def _with_all_words(search: Search, text: str, ids: list[int]) -> tuple[set[int], set[int]]:
    """Those of the photos that have all words in captions, and in captions and names."""
    expression = match_expression([text], all_words=True)
    if not search.ranking.lexical or not expression:
        return set(), set()
    full_text = search.index.catalogue.full_text
    try:
        return (
            full_text.matching(in_captions(expression), ids),
            full_text.matching(expression, ids),
        )
    except FullTextError:  # which was said when the candidates were found
        return set(), set()
