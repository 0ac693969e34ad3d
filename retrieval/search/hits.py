"""Hits: the photos that were found, where they are, and how their scores came about."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from indexes.catalogue import Photo
from indexes.index import Index
from retrieval.fusion.attention import FusedQuery
from retrieval.photos.files import real_path
from retrieval.ranking import relevance
from retrieval.ranking.methods import Candidate


@dataclass(frozen=True)
class Hit:
    """A photo that was found.

    score: the cosine of query and photo, which the order need not follow (see
    `retrieval.ranking.methods`); relevance: the probability that the photo matches the query, 0 to
    1, None where that is not known (see `retrieval.ranking.relevance`); match: the same by
    `retrieval.ranking.matching`, where hits were re-ranked by it; path: where it is; copies: other
    places with the same content; photo: what is known of it; why: how the score came about.
    """

    rank: int
    score: float
    path: Path
    copies: tuple[Path, ...]
    photo: Photo
    relevance: float | None = None
    why: "Why | None" = None
    match: float | None = None


@dataclass(frozen=True)
class Why:
    """How a score came about. photo: the weight α of what is seen in the photo, the rest is that of
    what is said of it; None where nothing is said. terms: each term's part of the score, in the
    order of the query; together: what belongs to no term alone. All parts sum to the score."""

    photo: float | None
    terms: tuple[float, ...]
    together: float


def cut(hits: Sequence[Hit], level: relevance.Level) -> list[Hit]:
    """The hits that a level shows; those whose relevance is not known all stay."""
    lowest = relevance.LEVELS[level]
    return [hit for hit in hits if hit.relevance is None or hit.relevance >= lowest]


def build_hits(
    index: Index,
    found: Sequence[Candidate],
    fused: FusedQuery | None = None,
    known: Mapping[int, float] = MappingProxyType({}),
    seen: bool = False,
) -> list[Hit]:
    """What was found, with where it is.

    fused: the query, where the scores are its cosines; known: relevances by photo id; seen: the
    scores are to what is seen alone.
    """
    roots = {root.id: root.path for root in index.roots()}
    ids = [hit.photo for hit in found]
    photos = index.catalogue.photos(ids)
    shares = {} if seen else index.catalogue.photo_weights(ids)
    why: dict[int, Why] = {}
    if fused is not None and ids:
        rows_of = index.catalogue.image_embeddings if seen else index.catalogue.search_embeddings
        rows = rows_of(ids, index.model.dim)
        parts, together = rows @ fused.parts.T, rows @ fused.together
        for i, terms, rest in zip(ids, parts.tolist(), together.tolist(), strict=True):
            why[i] = Why(shares.get(i), tuple(terms), rest)
    hits: list[Hit] = []
    for one in found:
        if one.photo not in photos:
            continue  # forgotten by another process since the search
        photo, places = photos[one.photo]
        paths = [
            roots[root_id] / path
            for root_id, path in places
            if root_id in roots and real_path(roots[root_id], path) is not None
        ]
        # A folder may be away while a copy of the photo is not. (exists: an error is a no)
        paths.sort(key=lambda path: not os.path.exists(path))  # noqa: PTH110
        if paths:
            rank = len(hits) + 1
            hit = Hit(rank, one.cosine, paths[0], tuple(paths[1:]), photo)
            p, reason = known.get(one.photo), why.get(one.photo)
            hits.append(replace(hit, relevance=p, why=reason, match=one.match))
    return hits
