"""Hybrid search: the photos nearest to a query and those found by words, in one order.

Both are read from an index; how their scores are joined is in `retrieval.ranking.lexical`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from indexes.arrays import Floats
from indexes.biases import Biases
from indexes.catalogue import Filter
from indexes.index import Index
from retrieval.errors import QueryError
from retrieval.query import Query
from retrieval.ranking import lexical
from retrieval.ranking.hubness import NNN_STRENGTH
from retrieval.ranking.methods import Candidate

CANDIDATES = 200  # of the nearest photos, and of those found by words, that are joined
_CANDIDATES_BEFORE_FILTER = 10_000
_NO_WORDS = (
    "There is no full-text search here: the index was made by an older version (run `retrieval "
    "index` once), or the SQLite of this Python was built without FTS5. Leave --ranking out."
)


@dataclass(frozen=True)
class LexicalHits:
    """The photos that full-text search finds, by id, with their BM25, and how much say it has."""

    scores: Mapping[int, float]
    share: float


def lexical_hits(index: Index, query: Query, within: Filter, needed: bool) -> LexicalHits:
    """What full-text search finds.

    needed: whether to raise QueryError where there is no full-text search.
    """
    if needed and not index.catalogue.has_full_text_table():
        raise QueryError(_NO_WORDS)
    texts = [term.value for term in query.terms if term.wanted and term.kind == "text"]
    most = CANDIDATES if within == Filter() else _CANDIDATES_BEFORE_FILTER
    found = dict(index.catalogue.search_text(lexical.match_expression(texts), most))
    photos = index.present()
    expression = lexical.match_expression(texts, every=True)
    every = index.catalogue.search_text(expression, lexical.few(photos) + 1)
    return LexicalHits(
        {i: found[i] for i in index.filter_ids(list(found), within)[:CANDIDATES]},
        lexical.share(len(every), photos),
    )


def join(
    index: Index,
    query: Query,
    vector: Floats,
    bias: Biases | None,
    nearest: Sequence[tuple[int, float]],
    by_words: LexicalHits,
) -> list[Candidate]:
    """The nearest photos and those that words find, in one order."""
    cosines = dict(nearest)
    others = [i for i in by_words.scores if i not in cosines]
    cosines.update(zip(others, index.cosines(vector, others).tolist(), strict=True))
    if query.min_score is not None:
        cosines = {i: score for i, score in cosines.items() if score >= query.min_score}
    if not cosines:
        return []
    ids = np.array(list(cosines), np.int64)
    scores = np.array(list(cosines.values()), np.float32)
    zero, usual = index.mean_cosine(vector), 0.0
    if bias is not None:
        mean = float(bias.values.mean())  # what the queries of the bank that fit a photo best give
        usual = mean / NNN_STRENGTH - zero
        scores, zero = scores - bias.of(ids), zero - mean
    said = np.array([by_words.scores.get(i, 0.0) for i in cosines], np.float32)
    fused = lexical.convex(scores, said, zero, usual, by_words.share)
    unit = float(lexical.reach(scores, zero, usual)[0]) / (1 - by_words.share)
    return [
        Candidate(int(ids[i]), cosines[int(ids[i])], unit * float(fused[i]))
        for i in np.lexsort((ids, -fused))
    ]
