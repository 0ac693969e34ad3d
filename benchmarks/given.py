"""What `recall` compares: the embeddings of a captioned set by one model, encoded or given.

Photos are encoded through the embedding cache; embeddings that another program made are taken as
they are, and only captions without an embedding are encoded.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from indexes.arrays import Floats
from retrieval.datasets.captioned import CaptionedSet
from retrieval.datasets.embedded import EmbeddedSet
from retrieval.datasets.embedding_cache import Progress, drop_unreadable, open_embedding_cache
from retrieval.encoders.base import Encoder, Log
from retrieval.encoders.registry import UNCHECKED, load_encoder
from retrieval.errors import ModelError
from retrieval.indexing.imported import check_agreement

_CHECKED = 16  # captions whose given embeddings are compared with those of the named model


@dataclass(frozen=True)
class Given:
    """A data set and its embeddings, float32 [n, dim] and [m, dim], unit rows.

    model, fingerprint: of what made them; encoder: None if nothing has to be encoded; encode: texts
    to embeddings; encoded: how many photos and captions were encoded in this run.
    """

    captioned: CaptionedSet
    photos: Floats
    texts: Floats
    model: str
    fingerprint: str
    encoder: Encoder | None
    encode: Callable[[Sequence[str]], Floats]
    encoded: tuple[int, int]


@contextmanager
def embeddings(
    dataset: CaptionedSet | EmbeddedSet,
    model: str,
    skip_bad: bool,
    rebuild: bool,
    needs_encoder: bool,
    log: Log,
    progress: Progress,
) -> Iterator[Given]:
    """The embeddings of a data set by a model.

    needs_encoder: whether a ranking encodes texts of its own. Raises RetrievalError.
    """
    if isinstance(dataset, EmbeddedSet):
        if model == "auto" and dataset.about is not None:
            model = dataset.about.model
        if dataset.texts is not None and not needs_encoder:
            yield _as_they_are(dataset, model)
            return
        if model == "auto":
            raise ModelError(
                f"{dataset.captioned.name} does not say which model made its embeddings, and texts "
                "have to be encoded. Name the model with --model ARCH:WEIGHTS."
            )
    encoder = load_encoder(model, log)
    with open_embedding_cache(encoder, progress, rebuild) as cache:

        def encode(texts: Sequence[str]) -> Floats:
            return cache.texts(texts).rows

        if isinstance(dataset, EmbeddedSet):
            used, photos, photos_encoded = dataset.captioned, dataset.photos, 0
            _check(dataset, encoder)
            rows, texts_encoded = dataset.texts, 0
        else:
            found, unreadable = cache.photos(dataset.photos)
            used = drop_unreadable(dataset, unreadable, skip_bad, log)
            photos, photos_encoded, rows = found.rows, found.encoded, None
        if rows is None:
            texts = cache.texts(used.captions)
            rows, texts_encoded = texts.rows, texts.encoded
        encoded = (photos_encoded, texts_encoded)
        yield Given(used, photos, rows, encoder.name, encoder.fingerprint, encoder, encode, encoded)


def _as_they_are(dataset: EmbeddedSet, model: str) -> Given:
    """Embeddings of photos and captions that need no model. model: its name, or auto for none."""
    assert dataset.texts is not None
    about = dataset.about
    known = about is not None and about.model == model
    fingerprint = about.fingerprint if about is not None and known else UNCHECKED
    name = "given embeddings" if model == "auto" else model

    def encode(texts: Sequence[str]) -> Floats:
        raise ModelError("Nothing can be encoded without a model. Name it with --model.")

    return Given(
        dataset.captioned, dataset.photos, dataset.texts, name, fingerprint, None, encode, (0, 0)
    )


def _check(dataset: EmbeddedSet, encoder: Encoder) -> None:
    """Raise ModelError if the embeddings are not those of the encoder, as far as can be seen."""
    dim = dataset.photos.shape[1]
    if dim != encoder.dim:
        raise ModelError(
            f"The embeddings of {dataset.captioned.name} have {dim} numbers and those of model "
            f"{encoder.name} {encoder.dim}. Name the model that made them with --model."
        )
    if dataset.texts is None:
        return
    captions = dataset.captioned.captions
    chosen = [i for i, caption in enumerate(captions) if caption][:_CHECKED]
    if chosen:
        again = encoder.encode_texts([captions[i] for i in chosen])
        check_agreement(encoder, (dataset.texts[chosen] * again).sum(1).tolist())
