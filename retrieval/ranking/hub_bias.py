"""The bias of a ranking for every photo of an index, computed once and kept beside it.

Indexing prepares it, so that searches need not.
"""

from collections.abc import Callable

import numpy as np

from indexes.arrays import Floats
from indexes.biases import Biases
from indexes.index import Index
from retrieval.encoders.base import Encoder
from retrieval.ranking import methods
from retrieval.ranking.methods import Ranking
from retrieval.ranking.query_bank import bank, bank_version, load_bank

_OWN_CAPTIONS = 10_000  # at most, in the bank that hubs are known by


class _NoBankError(Exception):
    """The bank's embeddings are not at hand, and it would take long to make them."""


def bias_for(
    index: Index,
    ranking: Ranking,
    encoder: Callable[[], Encoder],
    query: Floats,
    needed: bool,
    own: bool = True,
) -> Biases | None:
    """What a ranking takes off each photo's cosine for this query; None for nothing.

    Indexing has prepared it, see `prepare_ranking`. Where it has not (an index from elsewhere, made
    by a model that never ran here) and the ranking was not asked for by name, nothing is taken off.
    own: whether the captions of the index join the bank of queries that hubs are known by.
    """
    measure = ranking.bias
    if measure is None:
        return None
    own = own and index.catalogue.has_captions()

    def rows() -> Floats:
        kept = load_bank(index.model.fingerprint, index.model.dim)
        if kept is None and not needed:
            raise _NoBankError
        generic = bank(encoder()) if kept is None else kept
        if not own:
            return generic
        return np.concatenate(
            [generic, index.catalogue.caption_embeddings(index.model.dim, _OWN_CAPTIONS)]
        )

    if ranking.dynamic:
        (nearest,) = index.search(query, 1) or ((0, 0.0),)
        if nearest[0] not in index.nearest_ids(rows()):
            return None
    name = f"{measure.__name__.replace('_', '-')}-{bank_version()}" + ("-own" if own else "")
    try:
        return index.biases(name, lambda photos: measure(photos, rows()))
    except _NoBankError:
        return None


def prepare_ranking(index: Index, encoder: Encoder) -> None:
    """Compute what `auto` and relevance need of every photo now, so that searches need not."""
    for own in (False, True):
        ranking = methods.RANKINGS["nnn"]
        bias_for(index, ranking, lambda: encoder, np.empty(0, np.float32), needed=True, own=own)
