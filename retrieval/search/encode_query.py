"""A query's terms as one vector.

The encoder is loaded only for terms that need one: a photo that is in the index already has its
embedding there.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from indexes.arrays import Floats
from indexes.index import Index
from retrieval.encoders.base import Encoder
from retrieval.encoders.registry import check_weights
from retrieval.fusion.attention import PHOTO, TEXT, FusedQuery, Fusion
from retrieval.fusion.store import load_fusion
from retrieval.photos.decode import load_photo, photo_from_bytes
from retrieval.photos.files import content_hash
from retrieval.query import Term
from retrieval.ranking import methods
from retrieval.ranking.methods import Ranking


def encode_query(
    index: Index,
    terms: Sequence[Term],
    encoder: Callable[[], Encoder],
    ranking: Ranking = methods.RANKINGS["plain"],
) -> FusedQuery:
    """The one vector that stands for all terms, and what each is in it.

    ranking: whether texts are put into templates is up to it.
    """
    rows = _term_rows(index, terms, encoder, ranking)
    kinds = [PHOTO if term.kind == "photo" else TEXT for term in terms]
    mixed = len({kind for kind, term in zip(kinds, terms, strict=True) if term.wanted}) > 1
    fusion = load_fusion(index.model.fingerprint, index.model.dim) if mixed else Fusion()
    return fusion.terms(rows, kinds, [t.weight for t in terms], [t.wanted for t in terms])


def _term_rows(
    index: Index, terms: Sequence[Term], encoder: Callable[[], Encoder], ranking: Ranking
) -> Floats:
    """One unit row a term, float32 [n, dim]."""
    rows = np.empty((len(terms), index.model.dim), np.float32)
    texts, photos = [], []
    for position, term in enumerate(terms):
        if term.kind == "text":
            texts.append(position)
            continue
        known = indexed_photo(index, term.value)
        if known is None:
            photos.append(position)
        else:
            rows[position] = index.catalogue.image_embedding(known, index.model.dim)
    if photos or texts:
        model = encoder()
        check_weights(index.model, model)
    if photos:
        prepared = [model.prepare(_example(terms[i].value, model.image_size)) for i in photos]
        rows[photos] = model.encode_images(prepared)
    if texts:
        said = [_as_unicode(terms[i].value) for i in texts]
        rows[texts] = methods.templated(ranking, said, model.encode_texts)
    return rows


def _as_unicode(text: str) -> str:
    """Words as typed; bytes that were no UTF-8 (surrogates in Python) become question marks."""
    return text.encode("utf-8", "replace").decode()


def _example(value: str, size: int) -> Image.Image:
    if value == "-":
        return photo_from_bytes(sys.stdin.buffer.read(), size)
    return load_photo(Path(value), size)


def indexed_photo(index: Index, value: str) -> int | None:
    """The id of the photo that the index knows by this path or this content; None if unknown.

    The path may be one on this machine, or as the index has it, relative to an indexed folder.
    """
    if value == "-":
        return None
    path = Path(value)
    located = index.locate(path)
    if located is not None:
        root, inside = located
        file = index.catalogue.file(root.id, inside)
        if file is not None and file.photo_id is not None:
            try:
                state = path.stat()
            except OSError:
                return file.photo_id
            if (state.st_size, state.st_mtime_ns) == (file.bytes, file.mtime_ns):
                return file.photo_id
    if path.is_file():  # anywhere else, it is known by its content
        try:
            with path.open("rb") as source:
                digest = content_hash(source)
        except OSError:
            return None  # told when it is to be decoded
        return index.catalogue.photo_ids([digest]).get(digest)
    if not path.is_absolute():
        for root in index.roots():
            file = index.catalogue.file(root.id, path.as_posix())
            if file is not None and file.photo_id is not None:
                return file.photo_id
    return None
