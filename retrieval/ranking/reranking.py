"""Re-ranking: the first hits of a query in words, ordered by how well photo and words match.

Matching (`retrieval.ranking.matching`) adds to the score of the ranking, so hubs and full-text
search still count. Hits beyond the first ones keep their places.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

import numpy as np

from indexes.arrays import Floats
from indexes.biases import Biases
from indexes.index import Index
from retrieval.errors import QueryError
from retrieval.query import Query
from retrieval.ranking.matching import Matching, load_matching
from retrieval.ranking.methods import Candidate

Rerank = Literal["none", "match"]
RERANKINGS: tuple[Rerank, ...] = get_args(Rerank)

RERANK_DEPTH = 50
"""How many hits are re-ranked."""


def matching_for(index: Index, query: Query, rerank: Rerank) -> Matching | None:
    """The matching that re-ranks the hits of a query; None for no re-ranking.

    Raises QueryError for a query with example photos, or a model that no matching was trained for.
    """
    if rerank == "none":
        return None
    if not all(term.kind == "text" for term in query.terms if term.wanted):
        raise QueryError(
            "Only queries in words are re-ranked by matching. Leave out --rerank or the example "
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
    """The same photos, the first of them in a new order, each with its probability.

    text: the query, float32 [dim], of length one; bias: what `nnn` subtracts from each cosine.
    """
    if not found:
        return []
    ids = [candidate.photo for candidate in found]
    residuals = matching.residual(index.catalogue.embeddings.searchable(ids, index.model.dim), text)
    cosines = np.array([candidate.cosine for candidate in found], np.float32)
    probabilities = matching.probability(cosines - bias.of(np.array(ids, np.int64)) + residuals)
    scored = [
        replace(candidate, score=candidate.score + residual, match=p)
        for candidate, residual, p in zip(
            found, residuals.tolist(), probabilities.tolist(), strict=True
        )
    ]
    first = sorted(scored[:RERANK_DEPTH], key=lambda candidate: -candidate.score)
    return first + scored[RERANK_DEPTH:]
