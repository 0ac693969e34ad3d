"""Folders, months and cameras as the API names them, and the details of a photo."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from blake3 import blake3

from indexes.index import Index
from indexes.photos import Photo
from retrieval.errors import QueryError
from retrieval.search.hits import paths_of
from retrieval.server import models

_FACTS = (
    *("width", "height", "format", "taken", "taken_offset", "taken_source", "camera"),
    *("latitude", "longitude", "place_source"),
)


def folder_id(path: Path) -> str:
    """The name of a folder in the API: it says nothing and stays the same."""
    return blake3(os.fsencode(path)).hexdigest()[:16]


def folder_places(index: Index, ids: Iterable[str]) -> list[tuple[int, str]]:
    """(root id, path in it) of these folders; raises QueryError for one that is unknown."""
    wanted = set(ids)
    if not wanted:
        return []
    roots = {root.id: root.path for root in index.roots()}
    found = {
        folder_id(roots[root_id] / path): (root_id, path)
        for root_id, path in index.catalogue.browse.folders()
        if root_id in roots
    }
    if unknown := wanted - set(found):
        raise QueryError(f"The folder {min(unknown)} is not in this index, or has no photos now.")
    return [found[i] for i in sorted(wanted)]


def overview(index: Index) -> models.Overview:
    """What photos can be filtered by."""
    browse = index.catalogue.browse
    roots = {root.id: root.path for root in index.roots()}
    folders = []
    for (root_id, path), count in sorted(browse.folders().items()):
        if root_id not in roots:
            continue
        whole = roots[root_id] / path
        folders.append(
            models.Folder(
                id=folder_id(whole),
                parent=folder_id(whole.parent) if path else None,
                name=as_text(whole.name),
                path=as_text(str(whole)),
                photos=count,
            )
        )
    return models.Overview(
        folders=folders,
        months=[models.Month(month=m, photos=n) for m, n in browse.months().items()],
        cameras=[models.Camera(name=c, photos=n) for c, n in browse.cameras().items()],
        places=[
            models.PlaceName(name=name, photos=n) for name, n in list(browse.places().items())[:500]
        ],
        captioned=index.catalogue.captions.any(),
    )


def details(index: Index, photo_hash: str) -> models.Details | None:
    """All that is known of a photo; None if the index does not have it."""
    number = index.catalogue.photos.ids([photo_hash]).get(photo_hash)
    if number is None:
        return None
    photo, places = index.catalogue.photos.get([number])[number]
    roots = {root.id: root.path for root in index.roots()}
    captions = index.catalogue.browse.captions([number]).get(number, [])
    return models.Details(
        id=photo.hash,
        **photo_facts(photo),
        place=photo.place,
        captions=[models.Caption(text=t, origin=as_text(o)) for t, o in captions],
        notes=[
            models.Note.model_construct(kind=note.kind, text=note.text)
            for note in index.catalogue.notes.of_photos([number]).get(number, [])
        ],
        files=[
            models.Place(
                path=as_text(str(path)),
                name=as_text(path.name),
                folder=folder_id(path.parent),
                folder_path=as_text(str(path.parent)),
            )
            for path in paths_of(roots, places)
        ],
    )


def photo_facts(photo: Photo) -> dict[str, Any]:
    """What hits and details tell alike of a photo, by the names of their fields."""
    return {name: getattr(photo, name) for name in _FACTS}


def as_text(name: str) -> str:
    """A name as JSON can carry it: bytes that are not UTF-8 become question marks."""
    return name.encode("utf-8", "replace").decode()
