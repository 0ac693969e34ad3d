"""The relevance of what a search found: from scores to probabilities, for photos without captions.

The model of relevance was fitted on photos without captions; see `retrieval.ranking.relevance`.
"""

from dataclasses import replace

import numpy as np

from retrieval.ranking import relevance
from retrieval.ranking.hub_bias import generic_bias
from retrieval.search.state import Search


def calibrate(search: Search) -> Search:
    """Fill in the relevance of the candidates, as far as it is known for query, model and photo."""
    text = relevance.calibrated_text(search.query)
    calibration = search.calibration
    if text is None or calibration is None:
        return search
    captioned = search.index.catalogue.embeddings.photo_weights(
        [hit.photo for hit in search.candidates]
    )
    found = [hit for hit in search.candidates if hit.photo not in captioned]
    if not found:
        return search
    bias = search.bias.generic
    if bias is None:
        bias = generic_bias(search.index, None)
    if bias is None:
        return search
    ids = [hit.photo for hit in found]
    scores = np.array([hit.cosine for hit in found]) - bias.of(np.array(ids, np.int64))
    gallery = search.index.gallery_statistics(search.vector, search.filter)
    gallery = replace(gallery, mean=gallery.mean - bias.mean)
    known = zip(ids, relevance.relevances(calibration, scores, gallery, text), strict=True)
    # Nor is it known for a photo that full-text search found, by its name or place.
    return replace(search, relevance={i: p for i, p in known if i not in search.lexical_scores})
