"""What a lake knows of its sources: each file as it was last seen, and the photos that there are.

It is read from the mirror of the lake. What a source has now, `retrieval.cluster.sources` lists.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from blake3 import blake3

from indexes.arrays import Ints
from indexes.errors import IndexDamagedError
from indexes.files import File
from indexes.lake.location import Location
from indexes.lake.manifest import FOLDER, Manifest, Part, is_part, read
from indexes.lake.mirror import MirrorCatalogue
from indexes.lake.read_parts import PartReader, known_good
from indexes.lake.schema import FileRow
from retrieval.cluster.parquet_rows import row_count
from retrieval.cluster.sources import Listing
from retrieval.cluster.tasks import Captions, Item
from retrieval.indexing.changes import is_to_read
from retrieval.photos.walk import FoundFile, is_below


class Seen(NamedTuple):  # there may be millions
    """A file as last seen. size: in bytes; captions: a digest of those from outside of it."""

    size: int
    mtime_ns: int
    photo_id: int | None
    reason: str | None
    present: bool
    captions: bytes


Gone = tuple[str, str, Seen]
"""A file that is no longer there: its root, its path, and as it was."""
_BATCH = 50_000


@dataclass
class Known:
    """The files of a lake by root and path, and the ids of its photos, int64 [n]."""

    files: dict[str, dict[str, Seen]] = field(default_factory=dict)
    photos: Ints = field(default_factory=lambda: np.empty(0, np.int64))

    def changes(self, listing: Listing, retry_large: bool) -> tuple[list[Item], list[Gone]]:
        """The files of a listing to read, and those that are gone."""
        here = self.files.get(listing.root, {})
        to_read = [
            item for item in listing.items if _is_new(here.get(item.path), item, retry_large)
        ]
        if listing.below is None or _looks_unmounted(listing, here):
            return to_read, []
        now = {item.path for item in listing.items}
        gone = [
            (listing.root, path, seen)
            for path, seen in here.items()
            if seen.present
            and path not in now
            and is_below(path, listing.below)
            and not any(is_below(path, folder) for folder in listing.unreadable)
        ]
        return to_read, gone


def known_files(catalogue: MirrorCatalogue, roots: Iterable[str]) -> Known:
    """What the mirror of a lake knows of these sources, and all its photos."""
    known = Known({root: {} for root in roots}, catalogue.photos.all_ids())
    for root_id, _, root in catalogue.roots.all():
        if root not in known.files:
            continue
        files = catalogue.files.below(root_id)
        captions = {
            path: outside(tuple((caption.origin, caption.text) for caption in some), path)
            for path, some in catalogue.captions.by_file(root_id)
        }
        known.files[root] = {
            path: Seen(
                file.bytes,
                file.mtime_ns,
                file.photo_id,
                file.reason,
                file.present,
                captions.get(path, b""),
            )
            for path, file in files.items()
        }
    return known


def gone_rows(catalogue: MirrorCatalogue, gone: Sequence[Gone]) -> Iterator[list[FileRow]]:
    """The rows of files that are gone, in batches."""
    for start in range(0, len(gone), _BATCH):
        some = gone[start : start + _BATCH]
        ids = [seen.photo_id for _, _, seen in some if seen.photo_id is not None]
        hashes = {i: photo.hash for i, (photo, _) in catalogue.photos.get(ids).items()}
        yield [
            FileRow(
                root,
                path,
                seen.size,
                seen.mtime_ns,
                None if seen.photo_id is None else hashes.get(seen.photo_id),
                seen.reason,
                present=False,
            )
            for root, path, seen in some
        ]


def left_parts(
    location: Location, manifest: Manifest, prefix: str, roots: Sequence[str]
) -> list[Part]:
    """Whole parts that a killed run left without naming them in a manifest; raises StorageError.

    prefix: how the names of parts of this model and fusion begin. Parts that any manifest named
    were replaced since, and parts with files of other sources than `roots` may be out of date.
    """
    named = {part.name for part in manifest.parts}
    for name in location.names(FOLDER):
        number = name.rpartition("/")[2].removesuffix(".json")
        if number.isdigit() and int(number) < manifest.version:
            try:
                named |= {part.name for part in read(location, int(number)).parts}
            except IndexDamagedError:
                continue
    found = []
    for kind in ("photos", "files"):
        for name, size in location.names(kind).items():
            if name in named or not is_part(name) or not name.startswith(f"{kind}/part-{prefix}"):
                continue
            rows = row_count(location, name)
            part = Part(name, rows or 0, size)
            if rows is not None and known_good(location, part, manifest.model.dim):
                found.append(part)
    kept = []
    for part in found:
        if part.kind == "files":
            with PartReader(location, part, manifest.model.dim) as reader:
                if not all(row.root in roots for some in reader.files() for row in some):
                    continue
        kept.append(part)
    return kept


def outside(captions: Captions, path: str) -> bytes:
    """A digest of those captions of a file that are not from the file itself."""
    texts = [f"{origin}\0{text}" for origin, text in captions if origin != path]
    if not texts:
        return b""
    return blake3("\0".join(texts).encode("utf-8", "surrogatepass")).digest(8)


def _is_new(seen: Seen | None, item: Item, retry_large: bool) -> bool:
    if seen is None or not seen.present:
        return True
    file = File(item.path, seen.size, seen.mtime_ns, None, seen.reason)
    if is_to_read(file, FoundFile(item.path, item.bytes, item.mtime_ns), retry_large):
        return True
    # Captions that lie beside an object are read with it, and count in its time.
    has_all = not item.beside and seen.reason is None
    return has_all and outside(item.captions, item.path) != seen.captions


def _looks_unmounted(listing: Listing, here: dict[str, Seen]) -> bool:
    """Whether a source that had photos has none at all now, as a disk that is not there."""
    return listing.below == "" and not listing.items and any(s.present for s in here.values())
