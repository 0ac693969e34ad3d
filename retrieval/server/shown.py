"""What hits show of a photo whatever the query: its facts, names, copies and first caption.

It is kept as long as the index stays at one version, since a page of hits reads it of many photos
that were shown before. What differs from query to query, `retrieval.server.searching` fills in.
"""

import os
import threading
from collections.abc import Sequence
from weakref import WeakKeyDictionary

from indexes.index import Index
from retrieval.server import models
from retrieval.server.browsing import as_text, photo_facts

_KEPT = 8192
"""Photos, of each open index; about 2 kB each."""


class _Kept:
    """What is kept of one version. version: as `Index.version` gives it."""

    def __init__(self, version: object) -> None:
        self.version = version
        self.hits: dict[int, models.Hit] = {}


class Shown:
    """Hits without rank and scores. It may be used from many threads, each with its own index."""

    def __init__(self) -> None:
        self._of: WeakKeyDictionary[Index, _Kept] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def hits(self, index: Index, ids: Sequence[int]) -> dict[int, models.Hit]:
        """By photo id; those that are no longer in the index are left out. Copy them before use.

        No file is looked at: links are checked when a photo is opened. Call it in `Index.read`.
        """
        version = index.version()
        with self._lock:
            kept = self._of.get(index)
            if kept is None or kept.version is not version:
                kept = self._of[index] = _Kept(version)
        new = [i for i in ids if i not in kept.hits]
        if new:
            while kept.hits and len(kept.hits) + len(new) > _KEPT:
                kept.hits.pop(next(iter(kept.hits)))
            kept.hits |= _read(index, new)
        return {i: kept.hits[i] for i in ids if i in kept.hits}


def _read(index: Index, ids: Sequence[int]) -> dict[int, models.Hit]:
    roots = {root.id: str(root.path).rstrip(os.sep) for root in index.roots()}
    captions = index.catalogue.browse.first_captions(ids)
    found = {}
    for i, (photo, places) in index.catalogue.photos.get(ids).items():
        paths = [as_text(f"{roots[r]}{os.sep}{path}") for r, path in places if r in roots]
        if paths:
            found[i] = models.Hit.model_construct(
                id=photo.hash,
                rank=0,
                score=None,
                relevance=None,
                match=None,
                name=paths[0].rpartition(os.sep)[2],
                path=paths[0],
                copies=paths[1:],
                **photo_facts(photo),
                city=photo.city,
                region=photo.region,
                country=photo.country,
                caption=captions.get(i),
                explanation=None,
            )
    return found
