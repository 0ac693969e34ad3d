"""Hits: the photos that were found, where they are, and how their scores were computed."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from indexes.photos import Photo
from retrieval.photos.files import real_path
from retrieval.ranking.relevance import LEVELS, Level
from retrieval.search.state import Search


@dataclass(frozen=True)
class Explanation:
    """How a score was computed.

    photo_weight: the weight α of the photo itself, the rest is that of its captions; None without
    captions. terms: the part of each term in the score, in the order of the query; joint: what
    belongs to no term alone. All parts sum to the score.
    """

    photo_weight: float | None
    terms: tuple[float, ...]
    joint: float


@dataclass(frozen=True)
class Hit:
    """A photo that was found.

    rank: from 1; score: the cosine of query and photo, which the order need not follow (see
    `retrieval.ranking.methods`); path: where the photo is; copies: other files with the same
    content; photo: what is known about it; relevance: the probability that the photo matches the
    query, 0 to 1, None if unknown (see `retrieval.ranking.relevance`); explanation: how the score
    was computed; match: the probability by `retrieval.ranking.matching`, for re-ranked hits.
    """

    rank: int
    score: float
    path: Path
    copies: tuple[Path, ...]
    photo: Photo
    relevance: float | None = None
    explanation: Explanation | None = None
    match: float | None = None


def filter_by_relevance(hits: Sequence[Hit], level: Level) -> list[Hit]:
    """The hits that a level shows: those above its lowest relevance, or of unknown relevance."""
    lowest = LEVELS[level]
    return [hit for hit in hits if hit.relevance is None or hit.relevance >= lowest]


def build_hits(search: Search) -> list[Hit]:
    """The candidates of a search as hits."""
    index = search.index
    roots = {root.id: root.path for root in index.roots()}
    photos = index.catalogue.photos.get([found.photo for found in search.candidates])
    explained = explanations(search)
    hits: list[Hit] = []
    for found in search.candidates:
        if found.photo not in photos:
            continue  # removed by another process since the search
        photo, places = photos[found.photo]
        paths = paths_of(roots, places)
        if paths:
            hits.append(
                Hit(
                    len(hits) + 1,
                    found.cosine,
                    paths[0],
                    tuple(paths[1:]),
                    photo,
                    search.relevance.get(found.photo),
                    explained.get(found.photo),
                    found.match,
                )
            )
    return hits


def paths_of(roots: Mapping[int, Path], places: Iterable[tuple[int, str]]) -> list[Path]:
    """Where a photo is, from its (root id, path) places: those that are there now come first.

    Places that a link leads out of their root are left out.
    """
    paths = [
        roots[root_id] / path
        for root_id, path in places
        if root_id in roots and real_path(roots[root_id], path) is not None
    ]
    # A folder may be away while a copy of the photo is not. (os.path: an error is a no)
    paths.sort(key=lambda path: not os.path.exists(path))  # noqa: PTH110
    return paths


def explanations(search: Search) -> dict[int, Explanation]:
    """How each candidate's score was computed, by photo id; none for an expanded query."""
    ids = [found.photo for found in search.candidates]
    if search.ranking.expansion or not ids:
        return {}
    catalogue, dim = search.index.catalogue, search.index.model.dim
    if search.by_appearance:
        rows, weights = catalogue.embeddings.images(ids, dim), {}
    else:
        rows, weights = (
            catalogue.embeddings.searchable(ids, dim),
            catalogue.embeddings.photo_weights(ids),
        )
    parts, joint = rows @ search.fused.parts.T, rows @ search.fused.joint
    return {
        i: Explanation(weights.get(i), tuple(terms), rest)
        for i, terms, rest in zip(ids, parts.tolist(), joint.tolist(), strict=True)
    }
