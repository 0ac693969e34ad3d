"""The terms of a query as one vector.

The encoder is loaded only for terms that need one: the embedding of a photo in the index is read
from there.
"""

import re
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from indexes.arrays import Floats
from indexes.index import Index
from retrieval.encoders.base import Encoder, reads_all
from retrieval.encoders.registry import check_weights
from retrieval.errors import QueryWarning
from retrieval.fusion.attention import PHOTO, TEXT, FusedQuery, Fusion
from retrieval.fusion.store import load_fusion
from retrieval.photos.files import as_on_disk, content_hash, printable
from retrieval.query import Term
from retrieval.ranking import methods
from retrieval.ranking.methods import Ranking
from retrieval.search.locate import find_from_here, find_from_roots
from retrieval.search.state import Search

_SHOWN = 40  # characters of a text in a message
_CUT = "The text '{}' is longer than the model reads: its end was not read. Use fewer words."

_BY_HASH = re.compile("hash:([0-9a-f]{64})")


def encode(search: Search) -> Search:
    """The query as one vector."""
    fused = encode_query(search.index, search.query.terms, search.encoder, search.ranking)
    return replace(search, fused=fused, vector=fused.vector)


def encode_query(
    index: Index,
    terms: Sequence[Term],
    encoder: Callable[[], Encoder],
    ranking: Ranking = methods.RANKINGS["plain"],
) -> FusedQuery:
    """Terms as one vector, with the part of each in it.

    ranking: decides whether texts are put into templates.
    """
    rows = _term_rows(index, terms, encoder, ranking)
    kinds = [PHOTO if term.kind == "photo" else TEXT for term in terms]
    mixed = len({kind for kind, term in zip(kinds, terms, strict=True) if term.wanted}) > 1
    fusion = load_fusion(index.model.fingerprint, index.model.dim) if mixed else Fusion()
    return fusion.terms(rows, kinds, [t.weight for t in terms], [t.wanted for t in terms])


def _term_rows(
    index: Index, terms: Sequence[Term], encoder: Callable[[], Encoder], ranking: Ranking
) -> Floats:
    """The embedding of each term: unit rows, float32 [n, dim]."""
    rows = np.empty((len(terms), index.model.dim), np.float32)
    texts, photos = [], []
    for position, term in enumerate(terms):
        if term.kind == "text":
            texts.append(position)
            continue
        stored = _stored(index, term.value)
        if stored is None:
            photos.append(position)
        else:
            rows[position] = stored
    if photos or texts:
        model = encoder()
        check_weights(index.model, model)
    if photos:
        prepared = [model.prepare(_example(terms[i].value, model.image_size)) for i in photos]
        rows[photos] = model.encode_images(prepared)
    if texts:
        values = [_as_unicode(terms[i].value) for i in texts]
        rows[texts] = methods.templated(ranking, values, model.encode_texts)
        for value in values:
            if not reads_all(model, value):
                warnings.warn(_CUT.format(_beginning(value)), QueryWarning, stacklevel=2)
    return rows


def _stored(index: Index, value: str) -> Floats | None:
    """The image embedding of a photo that the index knows, float32 [dim]; None if it does not."""

    def look_up() -> Floats | None:
        known = indexed_photo(index, value)
        return None if known is None else index.catalogue.embeddings.image(known, index.model.dim)

    return index.read(look_up)


def _as_unicode(text: str) -> str:
    """A text as typed; bytes that are not UTF-8 (surrogates in Python) become question marks."""
    return text.encode("utf-8", "replace").decode()


def _beginning(text: str) -> str:
    words = printable(" ".join(text.split()))
    return f"{words[:_SHOWN]}…" if len(words) > _SHOWN else words


def _example(value: str, size: int) -> Image.Image:
    from retrieval.photos.decode import load_photo, photo_from_bytes  # words need no decoders

    if value == "-":
        return photo_from_bytes(sys.stdin.buffer.read(), size)
    return load_photo(as_on_disk(Path(value)), size)


def indexed_photo(index: Index, value: str) -> int | None:
    """The id of the photo that the index knows by this path or its content; None if unknown.

    The path may be one on this machine, or one relative to an indexed folder, in either Unicode
    form. `hash:` and a content hash name a photo without a path.
    """
    if value == "-":
        return None
    if named := _BY_HASH.fullmatch(value):
        return index.catalogue.photos.ids([named[1]]).get(named[1])
    path, files = Path(value), index.catalogue.files
    roots = {root.id: root.path for root in index.roots()}
    for root_id, inside in find_from_here(index, path):
        file = files.get(root_id, inside)
        if file is not None and file.photo_id is not None:
            try:
                state = (roots[root_id] / inside).stat()
            except OSError:
                return file.photo_id
            if (state.st_size, state.st_mtime_ns) == (file.bytes, file.mtime_ns):
                return file.photo_id
    path = as_on_disk(path)
    if path.is_file():  # a file elsewhere, or one that changed, may be known by its content
        try:
            with path.open("rb") as source:
                digest = content_hash(source)
        except OSError:
            return None  # the error is reported when the photo is decoded
        return index.catalogue.photos.ids([digest]).get(digest)
    for root_id, inside in find_from_roots(index, path):
        file = files.get(root_id, inside)
        if file is not None and file.photo_id is not None:
            return file.photo_id
    return None
