"""Make an index of embeddings that another program computed; nothing is encoded.

A photo that is at hand is its content, as in any index. One that is not is known by its path and
embedding. Captions and their embeddings are fused with the photos as those of any index.
"""

import os
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from blake3 import blake3

from indexes.arrays import Floats
from indexes.captions import IMPORTED, Caption
from indexes.catalogue import IndexModel
from indexes.files import File
from indexes.index import Index
from indexes.index_roots import Root
from indexes.photos import Photo
from retrieval.errors import DataSetError
from retrieval.fusion.attention import normalise
from retrieval.indexing.fuse import IMPORTED_DIGEST, texts_digest
from retrieval.photos.files import printable
from retrieval.photos.look_ahead import look_ahead
from retrieval.transfer.places import Content, Places, read_content
from retrieval.transfer.source import Batch, Source
from retrieval.transfer.tables import Entry

_MOST_REASONS = 20  # that are reported
_WINDOW = 64  # files read ahead
PREFIX = "imported:"
"""Before the hash of a photo that is not at hand; a hash of a content has only hex digits."""


@dataclass(frozen=True)
class ImportReport:
    """What an import did.

    folder: of the index; rows: of embeddings; photos: in the index; at_hand: of them, whose files
    are on this machine; captioned: rows with captions or an embedding of them; refused: rows that
    were left out; reasons: for the first of them, as (row, reason), rows counted from 1;
    checked: whether samples were encoded and agree with the embeddings.
    """

    folder: Path
    model: IndexModel
    rows: int
    photos: int
    at_hand: int
    captioned: int
    refused: int
    reasons: tuple[tuple[int, str], ...]
    checked: bool


@dataclass(frozen=True)
class Counts:
    """How many rows were read, at hand, captioned and refused, and why the first of these were."""

    rows: int = 0
    at_hand: int = 0
    captioned: int = 0
    refused: int = 0
    reasons: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True)
class _Row:
    """A row that can be used. content: of its file; text: its caption embedding, None for none."""

    path: str
    entry: Entry
    image: Floats
    text: Floats | None
    content: Content | None


def fill(
    index: Index,
    root: Root,
    source: Source,
    at_hand: bool,
    progress: Callable[[int, int], None],
    first: Callable[[], None],
) -> Counts:
    """Write all of a source into an empty index, batch by batch.

    root: that the paths are relative to; at_hand: whether to look for the photos there; progress:
    called with rows done and rows in all (or done, where that is not known); first: called after
    the first batch. Raises DataSetError if there is no usable row.
    """
    places, counts = Places(root.path if at_hand else None), Counts()
    for batch in source.batches():
        counts = _write(index, root, places, batch, counts)
        progress(counts.rows, source.rows or counts.rows)
        if counts.rows == len(batch.entries):
            first()
    if counts.rows == counts.refused:
        why = f", the first: {counts.reasons[0][1]}" if counts.reasons else ""
        raise DataSetError(
            f"{printable(source.where)} has no embedding that can be used, in {counts.rows:,} "
            f"rows{why}. Name another file."
        )
    return counts


def _write(index: Index, root: Root, places: Places, batch: Batch, counts: Counts) -> Counts:
    """Write one batch in one transaction; returns the counts with it."""
    reasons: list[tuple[int, str]] = []
    rows: list[_Row] = []
    with closing(_located(root.path, places, batch)) as located:
        for i, row in enumerate(located):
            if isinstance(row, str):
                reasons.append((counts.rows + i + 1, row))
            else:
                rows.append(row)
    with index.catalogue.transaction():
        _put(index, root, rows)
    room = max(_MOST_REASONS - len(counts.reasons), 0)
    return Counts(
        counts.rows + len(batch.entries),
        counts.at_hand + sum(row.content is not None for row in rows),
        counts.captioned + sum(bool(r.entry.captions) or r.text is not None for r in rows),
        counts.refused + len(reasons),
        (*counts.reasons, *reasons[:room]),
    )


def _located(folder: Path, places: Places, batch: Batch) -> Generator[_Row | str]:
    """The rows of a batch with their files, or why one cannot be used."""

    def found() -> Iterator[tuple[int, str, bool]]:
        for i, entry in enumerate(batch.entries):
            path, here = places.find(entry.path) if entry.problem is None else ("", False)
            yield i, path, here

    def read(item: tuple[int, str, bool]) -> tuple[int, str, Content | None]:
        i, path, here = item
        return i, path, read_content(folder, path) if here else None

    workers = os.cpu_count() or 1
    items = look_ahead(read, found(), workers, _WINDOW) if places.looks else map(read, found())
    for i, path, content in items:
        entry = batch.entries[i]
        if entry.problem or not path:
            yield entry.problem or "it names no image"
            continue
        text = None if batch.texts is None or not batch.texts[i].any() else batch.texts[i]
        yield _Row(path, entry, batch.images[i], text, content)


def _put(index: Index, root: Root, rows: Sequence[_Row]) -> None:
    """Write rows inside the transaction of the caller."""
    catalogue = index.catalogue
    by_path: dict[str, int] = {}  # photo ids
    for row in rows:
        before = catalogue.files.get(root.id, row.path)
        if before is not None and before.photo_id is not None:
            by_path[row.path] = before.photo_id  # one more caption of a photo that came before
    firsts: dict[str, _Row] = {}
    for row in rows:
        if row.path not in by_path:
            firsts.setdefault(row.path, row)
    hashes = {path: _hash(row) for path, row in firsts.items()}
    ids = catalogue.photos.ids(set(hashes.values()))
    new = {hashes[path]: row for path, row in reversed(firsts.items()) if hashes[path] not in ids}
    new = dict(reversed(new.items()))
    photos = [_photo(digest, row) for digest, row in new.items()]
    images = [row.image for row in new.values()]
    if images:
        ids.update(zip(new, catalogue.add_photos(photos, np.stack(images)), strict=True))
    known = frozenset(by_path)
    by_path |= {path: ids[digest] for path, digest in hashes.items()}
    catalogue.files.put(root.id, [_file(row, by_path[path]) for path, row in firsts.items()])
    _put_captions(index, root, rows, by_path, known)


def _put_captions(
    index: Index,
    root: Root,
    rows: Sequence[_Row],
    by_path: Mapping[str, int],
    known: Collection[str],
) -> None:
    """Write captions and their embeddings, which become the mean of those that a photo has.

    by_path: photo ids; known: paths that came in batches before.
    """
    catalogue, dim = index.catalogue, index.model.dim
    captions: dict[str, dict[str, None]] = {}
    sums: dict[int, Floats] = {}
    before: dict[int, int] = {}  # how many captions a photo had
    embedded = [i for i in dict.fromkeys(by_path[r.path] for r in rows if r.text is not None)]
    stored = catalogue.embeddings.captions_of(embedded, dim)
    for i in stored:
        before[i] = len(catalogue.captions.of_photos(range(i, i + 1)).get(i, ()))
    for row in rows:
        photo = by_path[row.path]
        if row.entry.captions:
            if row.path not in captions:
                is_known = row.path in known
                old = catalogue.captions.of_file(root.id, row.path) if is_known else []
                captions[row.path] = dict.fromkeys(caption.text for caption in old)
            captions[row.path].update(dict.fromkeys(row.entry.captions))
        if row.text is not None:
            start = stored[photo] * max(before[photo], 1) if photo in stored else 0.0
            sums[photo] = sums.get(photo, start) + row.text
    listed = [Caption(path, IMPORTED, text) for path, texts in captions.items() for text in texts]
    catalogue.captions.put(root.id, captions, listed)
    if sums:
        digests, means = _digests(index, list(sums)), normalise(np.stack([*sums.values()]))
        catalogue.embeddings.put_captions(list(sums), digests, means)


def _digests(index: Index, photos: Sequence[int]) -> list[bytes]:
    """What each caption embedding was computed from: the captions that its photo has now."""
    of_photos = index.catalogue.captions.of_photos
    first, last = min(photos), max(photos)
    whole = last - first < 2 * len(photos)  # as those of a batch of new photos
    ranges = [range(first, last + 1)] if whole else [range(i, i + 1) for i in photos]
    texts = {i: some for ids in ranges for i, some in of_photos(ids).items()}
    return [texts_digest(texts[i]) if i in texts else IMPORTED_DIGEST for i in photos]


def _hash(row: _Row) -> str:
    if row.content is not None:
        return row.content.hash
    digest = blake3(os.fsencode(row.path) + b"\0" + row.image.tobytes()).hexdigest()
    return f"{PREFIX}{digest}"


def _photo(digest: str, row: _Row) -> Photo:
    facts = row.content.facts if row.content is not None else None
    if facts is not None:
        return Photo(digest, **asdict(facts))
    return Photo(digest, row.entry.width, row.entry.height, "")


def _file(row: _Row, photo_id: int) -> File:
    if row.content is None:
        return File(row.path, 0, 0, photo_id)
    return File(row.path, row.content.bytes, row.content.mtime_ns, photo_id)
