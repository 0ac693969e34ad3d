"""Fuse the photos of an index with their captions.

Writes to an index whose lock the caller holds. Changed captions are embedded again, their photos
are not; a change of the fusion needs no encoder at all.
"""

from collections.abc import Callable, Sequence

import numpy as np
from blake3 import blake3

from indexes.arrays import Floats
from indexes.index import Index
from retrieval.encoders.base import Encoder
from retrieval.fusion.attention import Fusion, normalise
from retrieval.fusion.store import load_fusion

IMPORTED_DIGEST = b"imported"
"""The digest of a caption embedding that was imported without its texts."""
_BATCH = 64  # photos whose captions are embedded and committed together


def fuse_index(
    index: Index,
    encoder: Callable[[], Encoder],
    progress: Callable[[int, int], None] = lambda *_: None,
) -> int:
    """Bring all photos in line with their captions and with the fusion of the index's model.

    encoder: called only if a caption has to be embedded; progress: called with the number of
    photos whose captions are embedded, and of how many. Returns that number.
    """
    catalogue = index.catalogue
    before = catalogue.embeddings.caption_digests()
    digests: dict[int, bytes] = {}
    for some in catalogue.photos.id_ranges():  # all captions at once may not fit in memory
        texts = catalogue.captions.of_photos(some)
        digests.update((i, texts_digest(of_photo)) for i, of_photo in texts.items())
    without = [i for i, old in before.items() if i not in digests and old != IMPORTED_DIGEST]
    if without:
        # A photo whose file is missing may come back, and keeps its captions.
        absent = set(catalogue.photos.missing().tolist())
        catalogue.embeddings.delete_captions([i for i in without if i not in absent])
    changed = [i for i, digest in digests.items() if before.get(i) != digest]
    for start in range(0, len(changed), _BATCH):
        part = changed[start : start + _BATCH]
        captions = catalogue.captions.of_photos(part)
        rows = embed_captions(encoder(), [captions[i] for i in part])
        catalogue.embeddings.put_captions(part, [digests[i] for i in part], rows)
        progress(start + len(part), len(changed))
    fuse_photos(index, load_fusion(index.model.fingerprint, index.model.dim))
    return len(changed)


def fuse_photos(index: Index, fusion: Fusion) -> int:
    """Fuse the photos that `fusion` has not fused yet, without an encoder; returns how many."""
    catalogue, count, last = index.catalogue, 0, 0
    same = index.model.fusion == fusion.name
    with catalogue.transaction():
        while True:
            ids, images, captions = catalogue.embeddings.fusion_inputs(
                index.model.dim, last, unfused_only=same
            )
            if not ids:
                break
            catalogue.embeddings.put_fused(ids, *fusion.photos(images, captions))
            count, last = count + len(ids), ids[-1]
        if not same:
            index.set_fusion(fusion.name)
    return count


def embed_captions(encoder: Encoder, captions: Sequence[Sequence[str]]) -> Floats:
    """The normalised mean of the embeddings of each photo's captions, float32 [n, dim]."""
    rows = encoder.encode_texts([text for texts in captions for text in texts])
    ends = np.cumsum([len(texts) for texts in captions])[:-1]
    return normalise(np.stack([part.mean(0) for part in np.split(rows, ends)]))


def texts_digest(texts: Sequence[str]) -> bytes:
    """What tells whether the captions of a photo are those that were embedded."""
    return blake3("\0".join(texts).encode("utf-8", "surrogatepass")).digest()
