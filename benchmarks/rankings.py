"""The rankings that a benchmark can compare, by name.

A ranking gets all that a search could know, and answers with the scores of any of the queries
against the whole gallery.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from indexes.errors import QueryError
from retrieval.encoders import Encoder
from retrieval.evaluation import Scores, inner_products

Floats = npt.NDArray[np.float32]


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


Ranking = Callable[[Task], Scores]


def plain(task: Task) -> Scores:
    """The cosine of query and item."""
    return inner_products(task.queries, task.gallery)


RANKINGS: Mapping[str, Ranking] = {"plain": plain}


def find(name: str) -> Ranking:
    """The ranking of a name; raises QueryError, listing the names there are."""
    if name not in RANKINGS:
        raise QueryError(f"There is no ranking '{name}'. Choose from: {', '.join(RANKINGS)}.")
    return RANKINGS[name]
