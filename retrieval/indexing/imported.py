"""Whether a model made the embeddings that an index imported: a few texts or photos are encoded.

A name alone proves nothing, and another model's embeddings are as far from a query as any noise.
Importing itself is in `retrieval.transfer`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from indexes.arrays import Array, Floats
from indexes.index import Index
from indexes.regular_files import is_regular
from retrieval.encoders.base import Encoder
from retrieval.encoders.registry import UNCHECKED, check_weights
from retrieval.errors import ModelError, PhotoError, WeightsMissingError
from retrieval.photos.decode import load_photo
from retrieval.photos.files import real_path

_LOOKED_AT = 200  # photos that may be samples
_TEXTS, _PHOTOS = 16, 4  # samples
# The same model in other hands reaches 0.97 and more: half precision, another way to resize.
# Different models are near 0.
_LOWEST = 0.7


def confirm_model(index: Index, encoder: Callable[[], Encoder]) -> None:
    """Check the model of an index that was imported without it, and record its weights.

    The caller holds the lock. Nothing happens to other indexes, or while the weights are still
    missing. Raises ModelError.
    """
    if index.model.fingerprint != UNCHECKED:
        return
    try:
        loaded = encoder()
    except WeightsMissingError:
        return
    check_imported(index, loaded)
    index.set_fingerprint(loaded.fingerprint)


def check_imported(index: Index, encoder: Encoder) -> bool:
    """Raise ModelError if an encoder did not compute the embeddings of an index.

    Captions whose embeddings were imported are encoded, else photos that are at hand. Returns
    whether there were any.
    """
    check_weights(index.model, encoder)
    cosines = index.read(lambda: _texts(index, encoder)) or _photos(index, encoder)
    check_agreement(encoder, cosines)
    return bool(cosines)


def check_agreement(encoder: Encoder, cosines: Sequence[float]) -> None:
    """Raise ModelError if given embeddings are not those of an encoder.

    cosines: between them and those of the same samples by the encoder; nothing follows from none.
    """
    if cosines and float(np.median(cosines)) < _LOWEST:
        raise ModelError(
            f"The embeddings were not made by model {encoder.name}: encoded again, samples agree "
            f"to a cosine of {float(np.median(cosines)):.2f}. Name the model that made them with "
            "--model ARCH:WEIGHTS."
        )


def _texts(index: Index, encoder: Encoder) -> list[float]:
    """The cosines of caption embeddings and those of their captions, encoded now."""
    catalogue, dim = index.catalogue, index.model.dim
    ids = catalogue.photos.next_ids(0, _LOOKED_AT)
    if not ids:
        return []
    captions = catalogue.captions.of_photos(range(ids[0], ids[-1] + 1))
    rows = catalogue.embeddings.captions_of(ids, dim)
    chosen = [i for i in ids if i in rows and i in captions][:_TEXTS]
    return [_cosine(rows[i], encoder.encode_texts(captions[i]).mean(0)) for i in chosen]


def _photos(index: Index, encoder: Encoder) -> list[float]:
    """The cosines of image embeddings and those of their photos, encoded now."""
    catalogue, roots = index.catalogue, {root.id: root.path for root in index.roots()}
    photos = catalogue.photos.get(catalogue.photos.next_ids(0, _LOOKED_AT))
    cosines: list[float] = []
    for i, (_, places) in photos.items():
        pixels = _prepared(encoder, [(roots[r], path) for r, path in places if r in roots])
        if pixels is not None:
            row = catalogue.embeddings.image(i, index.model.dim)
            cosines.append(_cosine(row, encoder.encode_images([pixels])[0]))
        if len(cosines) == _PHOTOS:
            break
    return cosines


def _prepared(encoder: Encoder, places: Sequence[tuple[Path, str]]) -> Array | None:
    """The first of these files that can be decoded, prepared for the encoder."""
    for root, path in places:
        file = real_path(root, path)
        if file is not None and is_regular(file):
            try:
                return encoder.prepare(load_photo(file, encoder.image_size))
            except PhotoError:
                continue
    return None


def _cosine(row: Floats, other: Floats) -> float:
    return float(row @ other / max(float(np.linalg.norm(other)), 1e-9))
