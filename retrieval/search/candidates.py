"""The candidates of a search: the photos that may become hits, in the order of the ranking."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from indexes.biases import Biases
from retrieval.ranking import hybrid, methods, reranking
from retrieval.ranking.hub_bias import HubBias, generic_bias, is_generic, ranking_bias
from retrieval.ranking.methods import Candidate
from retrieval.search.state import Search


def expand(search: Search) -> Search:
    """Move the query towards its first hits, if the ranking does that."""
    if not search.ranking.expansion:
        return search
    index, vector = search.index, search.vector
    first = index.search(vector, search.ranking.expansion, search.filter)
    rows = index.catalogue.embeddings.searchable([i for i, _ in first], index.model.dim)
    return replace(search, vector=methods.expand(vector, rows) if len(rows) else vector)


def read_bias(search: Search) -> Search:
    """The biases against hubs that ranking and matching need.

    Relevance needs the generic one, too; `calibrate` reads it if it is not here.
    """
    index = search.index
    # A ranking that was asked for by name is worth encoding the bank of queries; `auto` is not.
    bank_encoder = search.encoder if search.named_ranking else None
    ranking = ranking_bias(index, search.ranking, search.vector, bank_encoder)
    generic = ranking if is_generic(index, search.ranking) else None
    if generic is None and search.matching is not None:
        generic = generic_bias(index, search.encoder)
    return replace(search, bias=HubBias(ranking, generic))


def find_candidates(search: Search) -> Search:
    """The candidates: `k` or, if they are to be re-ranked, as many as re-ranking looks at."""
    if search.by_appearance:
        return replace(search, candidates=tuple(_by_appearance(search)))
    index, query, bias = search.index, search.query, search.bias.ranking
    most = search.options.k
    if search.matching is not None:
        most = max(most, reranking.RERANK_DEPTH)
    count = max(most, hybrid.CANDIDATES) if search.ranking.lexical else most
    nearest = index.search(search.vector, count, search.filter, bias, query.min_score)
    if not search.ranking.lexical:
        return replace(search, candidates=tuple(_ranked(nearest, bias)))
    found = hybrid.lexical_hits(index, query, search.filter, search.named_ranking)
    combined = hybrid.combine(index, search.vector, bias, nearest, found, most, query.min_score)
    return replace(search, candidates=tuple(combined), lexical_scores=found.scores)


def rerank(search: Search) -> Search:
    """The first `k` candidates, re-ranked by matching if that was asked for."""
    candidates = list(search.candidates)
    if search.matching is not None:
        assert search.bias.generic is not None
        candidates = reranking.rerank(
            search.index, search.matching, search.vector, search.bias.generic, candidates
        )
    return replace(search, candidates=tuple(candidates[: search.options.k]))


def _ranked(found: Sequence[tuple[int, float]], bias: Biases | None) -> list[Candidate]:
    """What a search by vectors found, (photo id, cosine) each, ordered by cosine less bias."""
    subtracted = [0.0] * len(found)
    if bias is not None:
        subtracted = bias.of(np.array([i for i, _ in found], np.int64)).tolist()
    return [Candidate(i, score, score - b) for (i, score), b in zip(found, subtracted, strict=True)]


def _by_appearance(search: Search) -> list[Candidate]:
    """The photos that look most like a query of photos alone, by their image embeddings.

    Captions influence which photos are looked at, but not their scores: photos that look alike are
    alike whatever their captions say.
    """
    index, k, lowest = search.index, search.options.k, search.query.min_score
    found = index.search(search.vector, max(k + 1, hybrid.CANDIDATES), search.filter)
    ids = np.array([i for i, _ in found if i != search.excluded], np.int64)
    rows = index.catalogue.embeddings.images(ids.tolist(), index.model.dim)
    scores = rows @ search.vector
    order = np.lexsort((ids, -scores))[:k]
    nearest = [(int(ids[i]), float(scores[i])) for i in order]
    return _ranked([(i, s) for i, s in nearest if lowest is None or s >= lowest], None)
