"""Embeddings of a captioned set, in the form that fusion is trained and measured on.

Embeddings come from the embedding cache; composed queries from `composed_queries`. How captions are
swapped or removed is decided in `fusion_cases`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from indexes.arrays import Floats, Ints
from retrieval.datasets.captioned import CaptionedSet
from retrieval.datasets.embedding_cache import EmbeddingCache, drop_unreadable
from retrieval.errors import DataSetError
from retrieval.evaluation.composed_queries import composed_queries


@dataclass(frozen=True)
class CaptionedEmbeddings:
    """Embeddings of photos, float32 [n, dim], and of all their captions, float32 [m, dim], photo
    after photo. The captions of photo i are captions[offsets[i] : offsets[i + 1]]; offsets:
    int64 [n + 1]."""

    images: Floats
    captions: Floats
    offsets: Ints

    @classmethod
    def from_owners(
        cls, images: Floats, captions: Floats, owners: Sequence[int]
    ) -> "CaptionedEmbeddings":
        """The photos with two captions or more: one is stored, the others are queries.

        owners: for each caption, the position of its photo in `images`. Raises DataSetError if
        fewer than two photos have two captions.
        """
        count = np.bincount(np.asarray(owners, np.int64), minlength=len(images))
        enough = count >= 2
        if enough.sum() < 2:
            raise DataSetError(
                "Fusion needs photos with two captions or more: one is stored with the photo, the "
                "others are the queries. This data set has fewer than two such photos. Choose "
                "another data set."
            )
        used = enough[np.asarray(owners, np.int64)]
        return cls(images[enough], captions[used], np.cumsum([0, *count[enough]]).astype(np.int64))


@dataclass(frozen=True)
class ComposedEmbeddings:
    """Composed queries: positions of examples and targets among the images, int64 [n] each, and
    the embeddings of the texts, float32 [n, dim]."""

    examples: Ints
    targets: Ints
    texts: Floats


@dataclass(frozen=True)
class FusionData:
    """A captioned set as a fusion is trained or measured on it."""

    captioned: CaptionedEmbeddings
    images: Floats
    """All photos, including those with a single caption; `composed` refers to them, float32
    [n, dim]."""
    composed: ComposedEmbeddings


def embed_fusion_data(
    captioned: CaptionedSet,
    cache: EmbeddingCache,
    seed: int,
    draws: int,
    skip_bad: bool,
    log: Callable[[str], None],
) -> FusionData:
    """Embed a captioned set and its composed queries; draws: queries for each example photo.

    Raises DataSetError.
    """
    images, embeddings, readable = embed_captioned(captioned, cache, skip_bad, log)
    return FusionData(embeddings, images, embed_composed(readable, cache, seed, draws))


def embed_captioned(
    captioned: CaptionedSet, cache: EmbeddingCache, skip_bad: bool, log: Callable[[str], None]
) -> tuple[Floats, CaptionedEmbeddings, CaptionedSet]:
    """Embed photos and captions. Raises DataSetError for unreadable photos, unless `skip_bad`.

    Returns the embeddings of all photos, float32 [n, dim]; those of the photos with two captions or
    more, with their captions; and the set without the photos that cannot be read.
    """
    photos, unreadable = cache.photos(captioned.photos)
    readable = drop_unreadable(captioned, unreadable, skip_bad, log)
    captions = cache.texts(readable.captions)
    embeddings = CaptionedEmbeddings.from_owners(photos.rows, captions.rows, readable.owners)
    return photos.rows, embeddings, readable


def embed_composed(
    captioned: CaptionedSet, cache: EmbeddingCache, seed: int, draws: int
) -> ComposedEmbeddings:
    """Make the composed queries of a captioned set and embed their texts.

    Raises DataSetError if there are none.
    """
    queries = composed_queries([photo.captions for photo in captioned.photos], seed, draws)
    if not queries.texts:
        raise DataSetError(
            f"{captioned.name} gives no composed query: the captions of its photos share no words. "
            "Choose another data set."
        )
    return ComposedEmbeddings(queries.examples, queries.targets, cache.texts(queries.texts).rows)
