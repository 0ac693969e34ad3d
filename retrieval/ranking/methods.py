"""Ranking methods: ways to order photos for a query that do better than the plain cosine.

A method is a few pure functions of embeddings: a bias for each photo, measured by a bank of
unrelated queries (`hubness`); a text put into several sentences; a query moved towards its first
hits. Full-text search is in `lexical` and `hybrid`. docs/ranking.md says when to use which.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from indexes.arrays import Floats
from retrieval.errors import QueryError
from retrieval.fusion.attention import normalise
from retrieval.ranking.hubness import hubs, inverted_softmax_bias, nnn_bias

EXPANSION_HITS, EXPANSION_POWER, EXPANSION_STRENGTH = 3, 3.0, 0.1
TEMPLATES = ("{}", "a photo of {}", "a picture of {}")


@dataclass(frozen=True)
class Ranking:
    """One way to order photos. The defaults are those of `plain`.

    summary: what it does, and its paper. bias: computes what is subtracted from each photo's
    cosine, [n], from the photos [n, dim] and a bank [b, dim]. dynamic: subtract it only if the
    first hit is a hub. templates: sentences that a text is put into; their embeddings are averaged.
    expansion: how many first hits the query is moved towards. lexical: whether full-text search is
    combined with the vectors.
    """

    name: str
    summary: str
    bias: Callable[[Floats, Floats], Floats] | None = None
    dynamic: bool = False
    templates: tuple[str, ...] = ()
    expansion: int = 0
    lexical: bool = False

    @property
    def changes_query(self) -> bool:
        """Whether it searches for something else than the words as they are.

        Relevance is not known then, since it was fitted for the words alone.
        """
        return bool(self.templates or self.expansion)


@dataclass(frozen=True)
class Candidate:
    """A photo that was found.

    photo: its id; cosine: to the query; score: what it is ordered by, in the units of a cosine;
    match: the probability that it matches the words, if it was re-ranked by matching.
    """

    photo: int
    cosine: float
    score: float
    match: float | None = None


def expand(query: Floats, hits: Floats, strength: float = EXPANSION_STRENGTH) -> Floats:
    """Move a query towards its first hits, each weighted by a power of its cosine (αQE).

    query: float32 [dim]; hits: float32 [n, dim]; both of length one. Returns float32 [dim], of
    length one.
    Radenović et al., Fine-tuning CNN Image Retrieval with No Human Annotation, 2018.
    """
    weights = np.maximum(hits @ query, 0) ** np.float32(EXPANSION_POWER)
    total = weights.sum()
    if not total > 0:
        return query
    return normalise(query + strength * (weights / total) @ hits)


RANKINGS: Mapping[str, Ranking] = {
    ranking.name: ranking
    for ranking in (
        Ranking("plain", "by the cosine of query and photo"),
        Ranking("nnn", "by the cosine less a bias against hubs (NNN, 2024)", nnn_bias),
        Ranking(
            "qbnorm",
            "by the inverted softmax if the first hit is a hub (QB-Norm, 2022)",
            inverted_softmax_bias,
            dynamic=True,
        ),
        Ranking(
            "templates",
            "texts put into several sentences, their embeddings averaged (CLIP, 2021)",
            templates=TEMPLATES,
        ),
        Ranking(
            "expansion",
            "the query moved towards its first hits (αQE, 2018)",
            expansion=EXPANSION_HITS,
        ),
        Ranking(
            "hybrid",
            "nnn combined with full-text search of captions and names",
            nnn_bias,
            lexical=True,
        ),
    )
}
NAMES = ("auto", *RANKINGS)


def ranking(name: str, words: bool = False) -> Ranking:
    """The ranking of this name; raises QueryError if there is none.

    words: whether photos have captions or names of places: `auto` is `hybrid` then, else `nnn`.
    """
    if name == "auto":
        name = "hybrid" if words else "nnn"
    if name not in RANKINGS:
        raise QueryError(f"There is no ranking {name!r}. Choose one of {', '.join(NAMES)}.")
    return RANKINGS[name]


def transform(
    ranking: Ranking, photos: Floats, queries: Floats, bank: Floats
) -> tuple[Floats, Floats]:
    """Photos and queries as rows whose inner products are the ranking's scores.

    photos: float32 [n, dim]; queries: float32 [m, dim]; bank: float32 [b, dim]; all unit rows.
    Returns float32 [n, dim + 1] and [m, dim + 1]: the bias is one more dimension, so any
    inner-product index can search it. Templates and full-text search do not work on embeddings:
    see `templated` and `retrieval.ranking.lexical`.
    """
    if ranking.expansion:
        queries = np.stack(
            [expand(q, photos[_first(photos @ q, ranking.expansion)]) for q in queries]
        )
    bias = np.zeros(len(photos), np.float32)
    use = np.ones(len(queries), np.float32)
    if ranking.bias is not None:
        bias = ranking.bias(photos, bank)
    if ranking.dynamic:
        hub = hubs(photos, bank)
        for start in range(0, len(queries), 256):
            part = slice(start, start + 256)
            use[part] = hub[(queries[part] @ photos.T).argmax(1)]
    return np.column_stack([photos, -bias]), np.column_stack([queries, use])


def templated(ranking: Ranking, texts: list[str], encode: Callable[[list[str]], Floats]) -> Floats:
    """Embeddings of texts, float32 [n, dim], each the normalised mean over the templates.

    Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2021.
    """
    if not ranking.templates or not texts:
        return encode(texts)
    rows = encode([t.replace("{}", text) for t in ranking.templates for text in texts])
    return normalise(rows.reshape(len(ranking.templates), len(texts), -1).mean(0))


def _first(scores: Floats, k: int) -> npt.NDArray[np.intp]:
    """The positions of the k highest scores, best first."""
    return np.argsort(-scores, kind="stable")[:k]
