"""What a search knows: the one value that its steps pass along.

`start` turns a query and its options into it; each later step returns it with more filled in.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from indexes.arrays import Floats
from indexes.index import Index
from indexes.photos import Filter
from retrieval.encoders.base import Encoder
from retrieval.errors import QueryError
from retrieval.fusion.attention import FusedQuery
from retrieval.query import Query
from retrieval.ranking import methods, relevance, reranking
from retrieval.ranking.hub_bias import HubBias
from retrieval.ranking.matching import Matching
from retrieval.ranking.methods import Candidate, Ranking
from retrieval.ranking.relevance import Calibration
from retrieval.search import places
from retrieval.search.locate import Place, find_places
from retrieval.search.options import SearchOptions

_NOTHING = FusedQuery.of_row(np.empty(0, np.float32))


@dataclass(frozen=True)
class Search:
    """A search, as far as it has come.

    From `start`: ranking, filter, matching (if it re-ranks) and calibration (if relevance is known
    for the query and the model). Then, step by step: fused, the query with its terms' parts;
    vector, float32 [dim], what is searched for, which is not `fused.vector` if the ranking expands
    the query; bias; candidates, best first; lexical_scores, BM25 by photo id; relevance,
    probabilities by photo id. excluded: the id of a photo that is left out.
    encoder: gives the encoder; it is called only if a term or the ranking needs one.
    """

    index: Index
    query: Query
    options: SearchOptions
    encoder: Callable[[], Encoder]
    ranking: Ranking
    filter: Filter
    matching: Matching | None = None
    calibration: Calibration | None = None
    fused: FusedQuery = _NOTHING
    vector: Floats = field(default_factory=lambda: _NOTHING.vector)
    bias: HubBias = field(default_factory=HubBias)
    candidates: tuple[Candidate, ...] = ()
    excluded: int | None = None
    lexical_scores: Mapping[int, float] = field(default_factory=dict)
    relevance: Mapping[int, float] = field(default_factory=dict)

    @property
    def by_appearance(self) -> bool:
        """Whether no term is a text: photos are then compared by their image embeddings alone."""
        return not any(term.kind == "text" for term in self.query.terms)

    @property
    def named_ranking(self) -> bool:
        """Whether the user asked for the ranking by its name."""
        return self.options.ranking != "auto"


def start(
    index: Index, query: Query, options: SearchOptions, encoder: Callable[[], Encoder]
) -> Search:
    """What is to be done; raises QueryError if it cannot be."""
    matching = reranking.matching_for(index, query, options.rerank)
    ranking = _ranking(index, query, options)
    calibration = None
    if relevance.calibrated_text(query) and not ranking.changes_query:
        calibration = relevance.load_calibration(index.model.fingerprint)
    chosen = _filter(index, query)
    return Search(index, query, options, encoder, ranking, chosen, matching, calibration)


def on_snapshot(search: Search) -> Search:
    """The search with what depends on the version of the index, as the snapshot has it."""
    index, query = search.index, search.query
    return replace(
        search, ranking=_ranking(index, query, search.options), filter=_filter(index, query)
    )


def _ranking(index: Index, query: Query, options: SearchOptions) -> Ranking:
    if any(term.kind == "photo" and term.wanted for term in query.terms):
        return methods.RANKINGS["plain"]  # biases are of texts, whose cosines are lower
    return methods.ranking(options.ranking, index.catalogue.has_words())


def _filter(index: Index, query: Query) -> Filter:
    folders = tuple(place for folder in query.within for place in _places(index, folder))
    near = None if query.near is None else (*places.point(query.near), query.near_km)
    place = () if query.place is None else places.names(query.place)
    chosen = Filter(folders, query.after, query.before, near, place, query.cameras, query.captioned)
    if place and not index.has_any(Filter(place=place)):
        raise QueryError(
            f"No photo of this index is known to be taken in {query.place!r}. Places have the "
            "English names of GeoNames, such as 'Vienna' or 'Austria'; those of older indexes are "
            "looked up by `retrieval index`."
        )
    return chosen


def _places(index: Index, folder: Path) -> list[Place]:
    """A folder of the index: from here, else from the indexed folder."""
    places = find_places(index, folder)
    if not places:
        raise QueryError(
            f"{folder} is not a part of this index, or has no photos in it. `retrieval info` lists "
            "the indexed folders."
        )
    return places
