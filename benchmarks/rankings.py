"""The rankings that a benchmark can compare, by name.

A ranking gets all that a search could know, and answers with rows whose inner products are its
scores, so that any inner-product index serves it.
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
    """What is to be ranked: embeddings are float32 [n, dim] unit rows.

    direction: 'text_to_image' or 'image_to_text'; queries, gallery: the embeddings in it; texts:
    the captions behind those that are texts; encode: texts to embeddings, kept between runs.
    """

    direction: str
    queries: Floats
    gallery: Floats
    texts: Sequence[str]
    encoder: Encoder
    encode: Callable[[Sequence[str]], Floats]


Ranking = Callable[[Task], tuple[Floats, Floats]]
"""From a task to queries and gallery, float32 [m, d] and [n, d]."""


def plain(task: Task) -> tuple[Floats, Floats]:
    """By the cosine of query and item."""
    return task.queries, task.gallery


def _searched(ranking: methods.Ranking) -> Ranking:
    """A ranking of `search`, as it is for queries in words; photos are ranked plainly there too."""

    def rows(task: Task) -> tuple[Floats, Floats]:
        if task.direction != "text_to_image":
            return plain(task)
        queries = task.queries
        if ranking.templates:
            queries = methods.templated(ranking, list(task.texts), task.encode)
        generic = bank_embeddings(task.encoder) if ranking.bias else queries[:0]
        gallery, queries = methods.transform(ranking, task.gallery, queries, generic)
        return queries, gallery

    return rows


# `hybrid` needs captions that are stored with the photos: benchmarks.ranking_trials measures it.
RANKINGS: Mapping[str, Ranking] = {
    "plain": plain,
    "auto": _searched(methods.ranking("auto")),
    **{
        name: _searched(ranking)
        for name, ranking in methods.RANKINGS.items()
        if name != "plain" and not ranking.lexical
    },
}


def find(name: str) -> Ranking:
    """The ranking of a name; raises QueryError, listing the names there are."""
    if name not in RANKINGS:
        raise QueryError(f"There is no ranking '{name}'. Choose from: {', '.join(RANKINGS)}.")
    return RANKINGS[name]
