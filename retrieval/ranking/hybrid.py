"""Hybrid search: the photos nearest to a query and those that full-text search finds, in one order.

Both are read from an index. How their scores are combined is in `retrieval.ranking.lexical`.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from indexes.arrays import Floats
from indexes.biases import Biases
from indexes.errors import FullTextError, IndexWarning
from indexes.index import Index
from indexes.photos import Filter
from retrieval.errors import QueryError
from retrieval.query import Query
from retrieval.ranking import lexical
from retrieval.ranking.hubness import NNN_STRENGTH
from retrieval.ranking.methods import Candidate

CANDIDATES = 200
"""How many of the nearest photos, and of those that full-text search finds, are combined."""
_CANDIDATES_BEFORE_FILTER = 10_000
_NO_FULL_TEXT = (
    "This index has no full-text search: it was made by an older version (run `retrieval index` "
    "once), or the SQLite of this Python was built without FTS5. Leave --ranking out."
)


@dataclass(frozen=True)
class LexicalHits:
    """What full-text search finds. scores: BM25 by photo id; weight: of BM25 in the order."""

    scores: Mapping[int, float]
    weight: float


def lexical_hits(index: Index, query: Query, chosen: Filter, required: bool) -> LexicalHits:
    """The photos whose captions or names have words of the query.

    required: whether to raise QueryError if the index has no full-text search, and FullTextError if
    it is damaged. Otherwise nothing is found then.
    """
    if required and not index.catalogue.full_text.available():
        raise QueryError(_NO_FULL_TEXT)
    try:
        return _lexical_hits(index, query, chosen)
    except FullTextError as error:
        if required:
            raise
        warnings.warn(str(error), IndexWarning, stacklevel=2)  # the vectors answer alone
        return LexicalHits({}, lexical.LEXICAL_WEIGHT)


def _lexical_hits(index: Index, query: Query, chosen: Filter) -> LexicalHits:
    texts = [term.value for term in query.terms if term.wanted and term.kind == "text"]
    most = CANDIDATES if chosen == Filter() else _CANDIDATES_BEFORE_FILTER
    found = dict(index.catalogue.full_text.search(lexical.match_expression(texts), most))
    photos = index.photo_count()
    all_words = lexical.match_expression(texts, all_words=True)
    matches = index.catalogue.full_text.count(all_words, lexical.rare_limit(photos) + 1)
    return LexicalHits(
        {i: found[i] for i in index.filter_ids(list(found), chosen)[:CANDIDATES]},
        lexical.lexical_weight(
            matches, photos, lexical.is_other_script(texts), lexical.is_one_word(all_words)
        ),
    )


def combine(
    index: Index,
    vector: Floats,
    bias: Biases | None,
    nearest: Sequence[tuple[int, float]],
    found: LexicalHits,
    most: int,
    min_score: float | None = None,
) -> list[Candidate]:
    """The nearest photos and those of full-text search in one order, the best `most`, best first.

    vector: the query, float32 [dim]; nearest: (photo id, cosine) each; min_score: the lowest
    cosine to keep.
    """
    cosines = dict(nearest)
    others = [i for i in found.scores if i not in cosines]
    cosines.update(zip(others, index.cosines(vector, others).tolist(), strict=True))
    lowest = -1e9 if min_score is None else min_score  # never -inf, which is no cosine
    cosines = {i: score for i, score in cosines.items() if score >= lowest}
    if not cosines:
        return []
    ids = np.array(list(cosines), np.int64)
    scores = np.array(list(cosines.values()), np.float32)
    zero, typical = index.mean_cosine(vector), 0.0
    if bias is not None:
        # A photo's bias is NNN_STRENGTH times the cosine of the bank's queries that fit it best.
        mean = bias.mean
        typical = mean / NNN_STRENGTH - zero
        scores, zero = scores - bias.of(ids), zero - mean
    bm25 = np.array([found.scores.get(i, 0.0) for i in cosines], np.float32)
    combined = lexical.convex_combination(scores, bm25, zero, typical, found.weight)
    # Back to the units of a cosine, which re-ranking adds to.
    unit = float(lexical.score_scale(scores, zero, typical)[0]) / (1 - found.weight)
    return [
        Candidate(int(ids[i]), cosines[int(ids[i])], unit * float(combined[i]))
        for i in np.lexsort((ids, -combined))[:most]
    ]
