"""The search journey: query → encoder → fusion → candidates → re-ranking → relevance → hits.

The query is encoded first. All the rest is answered from one snapshot of the index, whatever other
processes change meanwhile.
"""

from collections.abc import Callable
from dataclasses import replace

from indexes.index import Index
from retrieval.encoders.base import Encoder
from retrieval.fusion.attention import FusedQuery
from retrieval.query import Query, Term
from retrieval.ranking.methods import Candidate
from retrieval.search.calibrate import calibrate
from retrieval.search.candidates import expand, find_candidates, read_bias, rerank
from retrieval.search.encode_query import encode, indexed_photo
from retrieval.search.hits import (
    Explanation,
    Hit,
    build_hits,
    explanations,
    filter_by_relevance,
)
from retrieval.search.options import SearchOptions
from retrieval.search.state import Search, on_snapshot, start


def search(
    index: Index, query: Query, options: SearchOptions, encoder: Callable[[], Encoder]
) -> list[Hit]:
    """The photos that fit a query best, best first.

    encoder: gives the encoder; it is called only if a term needs one. Raises QueryError, ModelError
    (the encoder is not that of the index) or PhotoError (an example is not a photo).
    """
    # Before the snapshot is held, for it may take long: models are loaded here.
    state = encode(start(index, query, options, encoder))

    def answer() -> list[Hit]:
        return filter_by_relevance(build_hits(_rank(state)), options.relevance)

    return index.read(answer)


def candidates(
    index: Index, query: Query, options: SearchOptions, encoder: Callable[[], Encoder]
) -> Search:
    """As `search`, but the search itself with its candidates, whatever their relevance.

    For who shows hits page by page: `build_hits` makes them of a part of the candidates.
    """
    state = encode(start(index, query, options, encoder))
    return index.read(lambda: _rank(state))


def explain(
    index: Index,
    query: Query,
    options: SearchOptions,
    encoder: Callable[[], Encoder],
    photo: int,
) -> Explanation | None:
    """How the score of one photo is computed, by its id; None if the ranking expands the query."""
    state = encode(start(index, query, options, encoder))
    asked = replace(state, candidates=(Candidate(photo, 0.0, 0.0),))
    return index.read(lambda: explanations(asked).get(photo))


def _rank(state: Search) -> Search:
    """A query that is encoded with its candidates and their relevance, all from one snapshot."""
    state = on_snapshot(state)
    state = expand(state)
    state = read_bias(state)
    state = find_candidates(state)
    state = rerank(state)
    return calibrate(state)


def similar(index: Index, photo: str, k: int, encoder: Callable[[], Encoder]) -> list[Hit]:
    """The `k` photos that look most like one; itself and its exact copies are left out."""
    state = start(index, Query((Term("photo", photo),)), SearchOptions(k), encoder)
    encoded = encode(state).vector  # of an unknown photo; of a known one its embedding is taken

    def answer() -> list[Hit]:
        known = indexed_photo(index, photo)
        vector = encoded
        if known is not None:
            vector = index.catalogue.embeddings.image(known, index.model.dim)
        found = replace(state, fused=FusedQuery.of_row(vector), vector=vector, excluded=known)
        return build_hits(find_candidates(found))

    return index.read(answer)
