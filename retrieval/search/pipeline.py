"""The search journey: query → encoder → fusion → candidates → re-ranking → relevance → hits."""

from collections.abc import Callable
from dataclasses import replace

from indexes.index import Index
from retrieval.encoders.base import Encoder
from retrieval.fusion.attention import FusedQuery
from retrieval.query import Query, Term
from retrieval.search.calibrate import calibrate
from retrieval.search.candidates import expand, find_candidates, read_bias, rerank
from retrieval.search.encode_query import encode, indexed_photo
from retrieval.search.hits import Hit, build_hits, filter_by_relevance
from retrieval.search.options import SearchOptions
from retrieval.search.state import start


def search(
    index: Index, query: Query, options: SearchOptions, encoder: Callable[[], Encoder]
) -> list[Hit]:
    """The photos that fit a query best, best first.

    encoder: gives the encoder; it is called only if a term needs one. Raises QueryError, ModelError
    (the encoder is not that of the index) or PhotoError (an example is not a photo).
    """
    state = start(index, query, options, encoder)
    state = encode(state)
    state = expand(state)
    state = read_bias(state)
    state = find_candidates(state)
    state = rerank(state)
    state = calibrate(state)
    return filter_by_relevance(build_hits(state), options.relevance)


def similar(index: Index, photo: str, k: int, encoder: Callable[[], Encoder]) -> list[Hit]:
    """The `k` photos that look most like one; itself and its exact copies are left out."""
    state = start(index, Query((Term("photo", photo),)), SearchOptions(k), encoder)
    known = indexed_photo(index, photo)
    if known is None:
        vector = encode(state).vector
    else:
        vector = index.catalogue.embeddings.image(known, index.model.dim)
    state = replace(state, fused=FusedQuery.of_row(vector), vector=vector, excluded=known)
    return build_hits(find_candidates(state))
