"""Captions that changed without their photos: embedded, fused, and written to the lake again.

Workers do so for new photos. What is left is done here, on the machine of the run: captions of a
copy that is elsewhere, edited files beside photos, and captions that are gone.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from indexes.lake.manifest import Part
from indexes.lake.schema import PhotoRow
from indexes.lake.write_parts import write_photos
from retrieval.cluster.work import fuse_rows
from retrieval.encoders.base import Encoder
from retrieval.fusion.attention import Fusion
from retrieval.indexing.fuse import texts_digest

if TYPE_CHECKING:
    from indexes.milvus.cluster_index import ClusterIndex

_BATCH = 512  # photos of a part
_COMMITTED = 64  # parts


def embed_changed(
    index: "ClusterIndex",
    encoder: Callable[[], Encoder],
    fusion: Fusion,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> int:
    """Bring all photos in line with their captions; returns how many were written again.

    encoder: called only if a caption has to be embedded; progress: called with how many photos are
    done, and of how many. Raises StorageError or ModelError; what is committed before stays.
    """
    changed = _changed(index)
    parts: list[Part] = []
    for start in range(0, len(changed), _BATCH):
        ids = changed[start : start + _BATCH]
        rows = fuse_rows(_rows(index, ids), encoder, fusion)
        parts.append(write_photos(index.location, rows, index.model.dim))
        if len(parts) == _COMMITTED:
            index.commit(parts)
            parts = []
        progress(start + len(ids), len(changed))
    if parts:
        index.commit(parts)
    return len(changed)


def _changed(index: "ClusterIndex") -> list[int]:
    """The ids of the photos whose captions are not those that were embedded."""
    catalogue = index.catalogue
    before = catalogue.embeddings.caption_digests()
    changed = []
    for some in catalogue.photos.id_ranges():  # all captions at once may not fit in memory
        for photo_id, texts in catalogue.captions.of_photos(some).items():
            if before.pop(photo_id, None) != texts_digest(texts):
                changed.append(photo_id)
    # A photo whose file is missing may come back, and keeps its captions.
    absent = set(catalogue.photos.missing().tolist())
    return sorted([*changed, *(photo_id for photo_id in before if photo_id not in absent)])


def _rows(index: "ClusterIndex", ids: list[int]) -> list[PhotoRow]:
    """Photos with their captions of now, and not yet fused with them."""
    catalogue = index.catalogue
    photos, texts = catalogue.photos.get(ids), catalogue.captions.of_photos(ids)
    seen = catalogue.embeddings.images(ids, index.model.dim)
    return [
        PhotoRow(photos[i][0], row, captions=texts.get(i, ()))
        for i, row in zip(ids, seen, strict=True)
    ]
