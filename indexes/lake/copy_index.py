"""Copies an index in a folder to a new lake: nothing is encoded again.

What is missing from disk is not copied, nor the user's own notes.
"""

from collections.abc import Iterator
from itertools import islice

from indexes.index import Index
from indexes.lake import manifest as manifests
from indexes.lake.lease import lease
from indexes.lake.location import Location
from indexes.lake.manifest import Manifest, Part
from indexes.lake.schema import FileRow, PhotoRow
from indexes.lake.write_parts import write_files, write_photos

_PHOTOS, _FILES = 10_000, 100_000  # in a part


def copy_index(index: Index, location: Location) -> Manifest:
    """Copy an open index to a lake that is not there yet; raises IndexBusyError or StorageError."""
    with lease(location):
        manifest = manifests.create(location, index.model)
        parts = index.read(lambda: [*_photos(index, location), *_files(index, location)])
        settings = {name: index.catalogue.setting(name, "") for name in ("exclude", "include")}
        return manifests.commit(location, manifest, parts, settings=settings)


def _photos(index: Index, location: Location) -> Iterator[Part]:
    catalogue, dim = index.catalogue, index.model.dim
    digests = catalogue.embeddings.caption_digests()
    after = 0
    while ids := catalogue.photos.next_ids(after, _PHOTOS):
        photos, texts = catalogue.photos.get(ids), catalogue.captions.of_photos(ids)
        said = catalogue.embeddings.captions_of(ids, dim)
        shares = catalogue.embeddings.photo_weights(ids)
        seen = catalogue.embeddings.images(ids, dim)
        searched = catalogue.embeddings.searchable(ids, dim)
        rows = [
            PhotoRow(
                photos[i][0],
                seen[at],
                said.get(i),
                digests.get(i),
                searched[at] if i in shares else None,
                shares.get(i),
                texts.get(i, ()),
            )
            for at, i in enumerate(ids)
        ]
        yield write_photos(location, rows, dim)
        after = ids[-1]


def _files(index: Index, location: Location) -> Iterator[Part]:
    rows = _rows(index)
    while some := list(islice(rows, _FILES)):
        yield write_files(location, some)


def _rows(index: Index) -> Iterator[FileRow]:
    catalogue = index.catalogue
    for root in index.roots():
        files = catalogue.files.below(root.id)
        captions = dict(catalogue.captions.by_file(root.id))
        ids = [file.photo_id for file in files.values() if file.photo_id is not None]
        hashes = {i: photo.hash for i, (photo, _) in catalogue.photos.get(ids).items()}
        for path, file in files.items():
            if not file.present:
                continue
            texts = tuple((c.origin, c.text) for c in captions.get(path, ()))
            known = None if file.photo_id is None else hashes[file.photo_id]
            yield FileRow(
                str(root.path), path, file.bytes, file.mtime_ns, known, file.reason, True, texts
            )
