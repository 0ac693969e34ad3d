"""The first hits of a query in words, ordered anew by how well each photo and the words match.

Matching (`retrieval.ranking.matching`) adds to what the ranking ordered them by, so that all the
rest of it, hubs and full-text search, keeps its say. Hits after the first stay where they are.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from indexes.arrays import Floats
from indexes.biases import Biases
from indexes.index import Index
from retrieval.errors import QueryError
from retrieval.query import Query
from retrieval.ranking.matching import Matching, load_matching
from retrieval.ranking.methods import Candidate

Rerank = Literal["none", "match"]

FIRST = 50
"""How many hits are ordered anew."""


def matching_for(index: Index, query: Query, rerank: str) -> Matching | None:
    """What re-ranks the hits of a query, None for nothing; raises QueryError where it cannot be
    done, or there is no such way to re-rank."""
    if rerank == "none":
        return None
    if rerank != "match":
        raise QueryError(f"There is no re-ranking {rerank!r}. Choose 'match' or 'none'.")
    if not all(term.kind == "text" for term in query.terms if term.wanted):
        raise QueryError(
            "Only queries in words are re-ranked by matching: leave --rerank out, or the example "
            "photo."
        )
    found = load_matching(index.model.fingerprint, index.model.dim)
    if found is None:
        raise QueryError(
            f"No matching was trained for the model of this index, {index.model.name}. Train one "
            f"with `retrieval train-fusion DATASET --model {index.model.name}`, or leave --rerank "
            "out."
        )
    return found


def rerank(
    index: Index, matching: Matching, text: Floats, bias: Biases, found: Sequence[Candidate]
) -> list[Candidate]:
    """The same photos, the first of them in a new order, all with their probability.

    text: the query, float32 [dim], of length one; bias: what `nnn` takes off each photo's cosine.
    """
    if not found:
        return []
    ids = [hit.photo for hit in found]
    added = matching.added(index.catalogue.search_embeddings(ids, index.model.dim), text)
    cosines = np.array([hit.cosine for hit in found], np.float32)
    match = matching.probability(cosines - bias.of(np.array(ids, np.int64)) + added)
    known = [
        replace(hit, score=hit.score + more, match=p)
        for hit, more, p in zip(found, added.tolist(), match.tolist(), strict=True)
    ]
    return sorted(known[:FIRST], key=lambda hit: -hit.score) + known[FIRST:]
