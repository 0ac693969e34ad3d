"""Embeddings that came without an encoder, as a captioned photo set: for benchmarks.

They are taken as they are: photos are rows, not files. Sources are read by `retrieval.transfer`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from indexes.arrays import Floats
from retrieval.datasets.captioned import CaptionedPhoto, CaptionedSet
from retrieval.datasets.locate import holds_captions
from retrieval.errors import DataSetError
from retrieval.photos.files import printable
from retrieval.transfer.about import About
from retrieval.transfer.source import is_source, open_source


@dataclass(frozen=True)
class EmbeddedSet:
    """A captioned photo set with its embeddings, unit rows.

    captioned: its photos cannot be opened; a caption is '' where only its embedding is known.
    photos: float32 [n, dim]; texts: float32 [m, dim], a row for each of `captioned.captions`, or
    None if the source has no embeddings of captions. about: what an export says of itself.
    """

    captioned: CaptionedSet
    photos: Floats
    texts: Floats | None
    about: About | None


def is_embedded(where: Path) -> bool:
    """Whether `where` holds embeddings with their tables, and is not photos beside a stray .npy."""
    if not is_source(where):
        return False
    if where.is_dir() and holds_captions(where):
        try:
            open_source(where)
        except DataSetError:
            return False
    return True


@dataclass
class _Photo:
    row: Floats
    captions: list[str] = field(default_factory=list)
    texts: list[Floats] = field(default_factory=list)


def read_embedded(where: Path, log: Callable[[str], None] = lambda _: None) -> EmbeddedSet:
    """Read embeddings with captions, or with embeddings of captions, which then are the queries.

    Rows of the same path are one photo with several captions. Photos without a caption, or without
    an embedding of one where the source has them, are left out, as are rows that cannot be used;
    `log` is told how many. Raises DataSetError.
    """
    source = open_source(where)
    photos: dict[str, _Photo] = {}
    refused = 0
    for batch in source.batches():
        for i, entry in enumerate(batch.entries):
            if entry.problem is not None:
                refused += 1
                continue
            photo = photos.setdefault(entry.path, _Photo(batch.images[i]))
            if not source.has_texts:
                photo.captions += [c for c in entry.captions if c not in photo.captions]
            elif batch.texts is not None and batch.texts[i].any():
                photo.texts.append(batch.texts[i])
                photo.captions.append(entry.captions[0] if entry.captions else "")
    used = {path: photo for path, photo in photos.items() if photo.captions}
    if refused:
        log(f"Left out {refused:,} rows that cannot be used.")
    if len(used) < len(photos):
        log(f"Left out {len(photos) - len(used):,} photos without captions.")
    if not used:
        raise DataSetError(
            f"{printable(where)} has no captions, and no embeddings of any. Add a column caption "
            "to its table, or a .npy of text embeddings."
        )
    captioned = tuple(
        CaptionedPhoto(path, tuple(photo.captions), None, where, path)
        for path, photo in used.items()
    )
    texts = [row for photo in used.values() for row in photo.texts]
    return EmbeddedSet(
        CaptionedSet(where.resolve().name, "all", captioned),
        np.stack([photo.row for photo in used.values()]),
        np.stack(texts) if source.has_texts else None,
        source.about,
    )
