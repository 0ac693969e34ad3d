"""The bias against hubs of every photo in an index, computed once and stored next to its vectors.

Indexing prepares it, so a search only reads it. What a bias is: `retrieval.ranking.hubness`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from indexes.arrays import Floats
from indexes.biases import Biases
from indexes.index import Index
from retrieval.encoders.base import Encoder
from retrieval.ranking import methods
from retrieval.ranking.methods import Ranking
from retrieval.ranking.query_bank import bank_embeddings, bank_version, load_bank

Measure = Callable[[Floats, Floats], Floats]
_MOST_CAPTIONS = 10_000  # of the index, in the bank that hubs are measured by


@dataclass(frozen=True)
class HubBias:
    """What is subtracted from the cosine of each photo, None for nothing.

    ranking: the bias that orders the hits. generic: that of `nnn` measured by the generic queries
    alone, without the captions of the index. Matching and relevance were fitted with this one.
    """

    ranking: Biases | None = None
    generic: Biases | None = None


class _BankMissingError(Exception):
    """The embeddings of the bank are not stored, and encoding it takes too long for this search."""


def ranking_bias(
    index: Index, ranking: Ranking, query: Floats, encoder: Callable[[], Encoder] | None
) -> Biases | None:
    """What a ranking subtracts from the cosine of each photo for this query; None for nothing.

    query: float32 [dim]. encoder: encodes the bank of queries if its embeddings are not stored.
    Without one nothing is subtracted then, as for an index from another machine made by a model
    that never ran here. Where photos have captions, these join the bank.
    """
    if ranking.bias is None:
        return None
    captions = index.catalogue.captions.any()
    try:
        if ranking.dynamic and not _nearest_is_hub(index, query, _bank(index, encoder, captions)):
            return None
        return _stored_bias(index, ranking.bias, encoder, captions)
    except _BankMissingError:
        return None


def generic_bias(index: Index, encoder: Callable[[], Encoder] | None) -> Biases | None:
    """The bias of `nnn` by the generic queries alone.

    encoder: as for `ranking_bias`; None is returned if the bank's embeddings are not stored and
    there is no encoder.
    """
    measure = methods.RANKINGS["nnn"].bias
    assert measure is not None
    try:
        return _stored_bias(index, measure, encoder, captions=False)
    except _BankMissingError:
        return None


def is_generic(index: Index, ranking: Ranking) -> bool:
    """Whether the bias of a ranking is the generic one in this index."""
    return ranking.bias is methods.RANKINGS["nnn"].bias and not index.catalogue.captions.any()


def prepare_ranking(index: Index, encoder: Encoder) -> None:
    """Compute what `auto` and relevance need of every photo now, so that searches need not."""
    generic_bias(index, lambda: encoder)
    ranking_bias(index, methods.RANKINGS["nnn"], np.empty(0, np.float32), encoder=lambda: encoder)


def vector_biases(
    index: Index, bank: Floats | None
) -> tuple[dict[str, Callable[[Floats], Floats]], str]:
    """The biases to write beside the vectors, by name, and the name of the default ranking's.

    bank: the embeddings of the generic queries, float32 [b, dim]; without it there are none.
    """
    measure = methods.RANKINGS["nnn"].bias
    if bank is None or measure is None:
        return {}, ""
    ordering = _name(measure, captions=False)
    biases: dict[str, Callable[[Floats], Floats]] = {ordering: partial(_measured, measure, bank)}
    if index.catalogue.captions.any():
        own = np.concatenate([bank, _captions(index)])
        ordering = _name(measure, captions=True)
        biases[ordering] = partial(_measured, measure, own)
    return biases, ordering


def _measured(measure: Measure, bank: Floats, photos: Floats) -> Floats:
    return measure(photos, bank)


def _stored_bias(
    index: Index,
    measure: Measure,
    encoder: Callable[[], Encoder] | None,
    captions: bool,
) -> Biases:
    return index.biases(
        _name(measure, captions), lambda photos: measure(photos, _bank(index, encoder, captions))
    )


def _name(measure: Measure, captions: bool) -> str:
    """The name of a file of biases, which changes with all that they depend on.

    captions: whether the captions of the index are in the bank.
    """
    return f"{measure.__name__.replace('_', '-')}-{bank_version()}" + ("-own" if captions else "")


def _nearest_is_hub(index: Index, query: Floats, bank: Floats) -> bool:
    """Whether the photo nearest to `query` is the nearest to a query of the bank, too."""
    nearest = index.search(query, 1)
    return bool(nearest) and nearest[0][0] in index.nearest_ids(bank)


def _bank(index: Index, encoder: Callable[[], Encoder] | None, captions: bool) -> Floats:
    """The embeddings of the bank, float32 [b, dim], unit rows."""
    generic = load_bank(index.model.fingerprint, index.model.dim)
    if generic is None:
        if encoder is None:
            raise _BankMissingError
        generic = bank_embeddings(encoder())
    if not captions:
        return generic
    return np.concatenate([generic, _captions(index)])


def _captions(index: Index) -> Floats:
    return index.catalogue.embeddings.captions(index.model.dim, _MOST_CAPTIONS)
