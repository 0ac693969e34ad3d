"""The search journey: query → encoder → fusion → index → ranking → hits.

Reads an index, never changes it.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from indexes.arrays import Floats
from indexes.biases import Biases
from indexes.catalogue import Filter
from indexes.index import Index
from retrieval.encoders.base import Encoder
from retrieval.errors import QueryError
from retrieval.fusion.attention import FusedQuery
from retrieval.query import Query, Term
from retrieval.ranking import hybrid, methods, relevance, reranking
from retrieval.ranking.hub_bias import bias_for
from retrieval.ranking.hybrid import CANDIDATES
from retrieval.ranking.methods import Candidate
from retrieval.ranking.reranking import Rerank
from retrieval.search.encode_query import encode_query, indexed_photo
from retrieval.search.hits import Hit, build_hits


def search(
    index: Index,
    query: Query,
    k: int,
    encoder: Callable[[], Encoder],
    ranking: str = "auto",
    rerank: Rerank = "none",
) -> list[Hit]:
    """The `k` photos that fit a query best, best first.

    encoder: gives the encoder, called only if a term needs it. ranking: a name of
    `retrieval.ranking.methods`; queries by example photos are ranked plainly whatever it is.
    rerank: 'match' orders the first hits anew, see `retrieval.ranking.reranking`.
    Raises QueryError, ModelError (not the index's model) or PhotoError (an example that is no
    photo).
    """
    _check_k(k)
    matching = reranking.matching_for(index, query, rerank)
    chosen = methods.ranking(ranking, index.catalogue.has_captions())
    if any(term.kind == "photo" and term.wanted for term in query.terms):
        chosen = methods.RANKINGS["plain"]  # the bank is of texts, whose cosines are lower
    fused = encode_query(index, query.terms, encoder, chosen)
    vector = fused.vector
    within = _filter(index, query)
    if chosen.expansion:
        first = index.search(vector, chosen.expansion, within)
        rows = index.catalogue.search_embeddings([i for i, _ in first], index.model.dim)
        vector = methods.expand(vector, rows) if len(rows) else vector
    bias = bias_for(index, chosen, encoder, vector, needed=ranking != "auto")
    if not any(term.kind == "text" for term in query.terms):
        return _like(index, fused, within, k, query.min_score)
    count = k if matching is None else max(k, reranking.FIRST)
    count = max(count, CANDIDATES) if chosen.words else count
    nearest = index.search(vector, count, within, bias, query.min_score)
    by_words = hybrid.LexicalHits({}, 0.0)
    if chosen.words:
        by_words = hybrid.lexical_hits(index, query, within, needed=ranking != "auto")
        found = hybrid.join(index, query, vector, bias, nearest, by_words)
    else:
        found = _ranked(nearest, bias)
    if matching is not None:
        hubs = bias_for(index, methods.RANKINGS["nnn"], encoder, vector, needed=True, own=False)
        assert hubs is not None
        found = reranking.rerank(index, matching, vector, hubs, found)
    found = found[:k]
    if chosen.templates or chosen.expansion:  # relevance is known for the words alone
        return build_hits(index, found, None if chosen.expansion else fused)
    known = _relevances(index, query, vector, within, found, encoder)
    # Nor is it known for a photo that was found by what is said of it.
    known = {i: p for i, p in known.items() if i not in by_words.scores}
    return build_hits(index, found, fused, known)


def _ranked(found: Sequence[tuple[int, float]], bias: Biases | None) -> list[Candidate]:
    """What a search by vectors found, (photo id, cosine) each, ordered by cosine less bias."""
    less = None if bias is None else bias.of(np.array([i for i, _ in found], np.int64))
    off = [0.0] * len(found) if less is None else less.tolist()
    return [Candidate(i, score, score - b) for (i, score), b in zip(found, off, strict=True)]


def _relevances(
    index: Index,
    query: Query,
    vector: Floats,
    chosen: Filter,
    found: Sequence[Candidate],
    encoder: Callable[[], Encoder],
) -> dict[int, float]:
    """The relevance of what was found, by photo id: of photos without captions, where it is known
    for such a query and model."""
    text = relevance.calibrated_text(query)
    calibration = relevance.load_calibration(index.model.fingerprint) if text and found else None
    if text is None or calibration is None:
        return {}
    said = index.catalogue.photo_weights([hit.photo for hit in found])
    found = [hit for hit in found if hit.photo not in said]
    nnn = methods.RANKINGS["nnn"]
    bias = bias_for(index, nnn, encoder, vector, needed=False, own=False) if found else None
    if bias is None:
        return {}
    ids = [hit.photo for hit in found]
    scores = np.array([hit.cosine for hit in found]) - bias.of(np.array(ids, np.int64))
    around = index.gallery_statistics(vector, chosen)
    around = replace(around, mean=around.mean - float(bias.values.mean()))
    return dict(zip(ids, relevance.relevances(calibration, scores, around, text), strict=True))


def similar(index: Index, photo: str, k: int, encoder: Callable[[], Encoder]) -> list[Hit]:
    """The `k` photos most like one, which is itself left out with its exact copies."""
    _check_k(k)
    itself = indexed_photo(index, photo)
    if itself is None:
        vector = encode_query(index, (Term("photo", photo),), encoder).vector
    else:
        vector = index.catalogue.image_embedding(itself, index.model.dim)
    return _like(index, FusedQuery.one(vector), Filter(), k, None, itself)


def _like(
    index: Index,
    query: FusedQuery,
    within: Filter,
    k: int,
    lowest: float | None,
    itself: int | None = None,
) -> list[Hit]:
    """The photos that look most like a query of photos alone, by the cosines of what is seen.

    What is said of a photo has a say in whether it is among those that are looked at, but photos
    that are alike are alike whatever is said of them. itself: one to leave out.
    """
    found = index.search(query.vector, max(k + 1, CANDIDATES), within)
    ids = np.array([i for i, _ in found if i != itself], np.int64)
    rows = index.catalogue.image_embeddings(ids.tolist(), index.model.dim)
    scores = rows @ query.vector
    order = np.lexsort((ids, -scores))[:k]
    kept = [(int(ids[i]), float(scores[i])) for i in order]
    near = [(i, score) for i, score in kept if lowest is None or score >= lowest]
    return build_hits(index, _ranked(near, None), query, seen=True)


def _check_k(k: int) -> None:
    if k < 1:
        raise QueryError(f"k is {k}; ask for at least one photo, as in `-k 10`.")


def _filter(index: Index, query: Query) -> Filter:
    folders = tuple(_folder(index, folder) for folder in query.within)
    return Filter(folders, query.after, query.before)


def _folder(index: Index, folder: Path) -> tuple[int, str]:
    """(root id, path in it) of a folder given from here, or as the index has it."""
    located = index.locate(folder)
    places = [(located[0].id, located[1])] if located else []
    if not folder.is_absolute():
        places += [(root.id, folder.as_posix()) for root in index.roots()]
    for place in places:
        if index.catalogue.knows(*place):
            return place
    raise QueryError(
        f"{folder} is not a part of this index, or has no photos in it. `retrieval info` lists the "
        "indexed folders."
    )
