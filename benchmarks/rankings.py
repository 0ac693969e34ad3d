"""The rankings that `retrieval benchmark recall` compares, by name.

A ranking returns queries and gallery as rows whose inner products are its scores. Any index for
inner products can then search them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from indexes.arrays import Floats
from retrieval.encoders.base import Encoder
from retrieval.errors import QueryError
from retrieval.ranking import methods
from retrieval.ranking.query_bank import bank_embeddings


@dataclass(frozen=True)
class Task:
    """What a ranking is given. Embeddings are float32 [n, dim], unit rows.

    direction: 'text_to_image' or 'image_to_text'; texts: the captions, whose embeddings are the
    queries or the gallery; encoder: None for `plain`, which needs none; encode: texts to
    embeddings, through the embedding cache.
    """

    direction: str
    queries: Floats
    gallery: Floats
    texts: Sequence[str]
    encoder: Encoder | None
    encode: Callable[[Sequence[str]], Floats]


Ranking = Callable[[Task], tuple[Floats, Floats]]
"""From a task to the rows of queries and gallery, float32 [m, d] and [n, d]."""


def plain(task: Task) -> tuple[Floats, Floats]:
    """By the cosine between query and item."""
    return task.queries, task.gallery


def _text_ranking(ranking: methods.Ranking) -> Ranking:
    """A ranking of `retrieval search`. Like there, it applies to text queries only."""

    def rows(task: Task) -> tuple[Floats, Floats]:
        if task.direction != "text_to_image":
            return plain(task)
        queries = task.queries
        if ranking.templates:
            queries = methods.templated(ranking, list(task.texts), task.encode)
        generic = queries[:0]
        if ranking.bias:
            assert task.encoder is not None
            generic = bank_embeddings(task.encoder)
        gallery, queries = methods.transform(ranking, task.gallery, queries, generic)
        return queries, gallery

    return rows


# `hybrid` needs captions stored with the photos: benchmarks.ranking_trials measures it.
RANKINGS: Mapping[str, Ranking] = {
    "plain": plain,
    "auto": _text_ranking(methods.ranking("auto")),
    **{
        name: _text_ranking(ranking)
        for name, ranking in methods.RANKINGS.items()
        if name != "plain" and not ranking.lexical
    },
}


def find(name: str) -> Ranking:
    """The ranking with this name. Raises QueryError, with all names, if there is none."""
    if name not in RANKINGS:
        raise QueryError(f"There is no ranking '{name}'. Choose from: {', '.join(RANKINGS)}.")
    return RANKINGS[name]
