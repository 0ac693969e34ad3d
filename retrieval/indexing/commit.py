"""Write an encoded batch to the catalogue in one transaction, and report each file's outcome.

A process that is killed loses the batches that were not committed, and nothing else.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from indexes.captions import Caption
from indexes.catalogue import Catalogue
from indexes.files import File
from retrieval.captions.sidecars import clean
from retrieval.indexing.encode import EncodedBatch, ReadFile

Place = tuple[int, str]
"""A file of the index: the id of its root and its path there."""
Outcome = Literal["added", "updated", "moved", "copied", "unchanged", "skipped"]


@dataclass(frozen=True)
class Committed:
    """The outcome of a committed batch.

    outcomes: number of files by outcome; encoded: number of new photos; reasons: the bad files as
    (path, reason); moved_from: places whose file is missing and whose photo is now elsewhere;
    captions: those inside the files, by place, empty for files without any; incomplete: files that
    lack their end, and are shown as far as they go.
    """

    outcomes: Counter[Outcome]
    encoded: int
    reasons: tuple[tuple[str, str], ...]
    moved_from: frozenset[Place]
    captions: dict[Place, tuple[Caption, ...]]
    incomplete: tuple[str, ...] = ()


def commit_batch(
    catalogue: Catalogue,
    batch: EncodedBatch,
    missing: Mapping[int, Collection[str]],
) -> Committed:
    """Write a batch to the catalogue. missing: paths of files that are no longer there, by root."""
    ids = catalogue.photos.ids({read.hash for read in batch.files if read.hash})
    places_before = {
        i: places for i, (_, places) in catalogue.photos.get(list(ids.values())).items()
    }
    outcomes: Counter[Outcome] = Counter()
    moves: set[Place] = set()
    captions: dict[Place, tuple[Caption, ...]] = {}
    files: defaultdict[int, list[File]] = defaultdict(list)  # by root
    touched: set[int | None] = set()
    with catalogue.transaction():
        if batch.new:
            photos = [read.photo for read in batch.new.values() if read.photo is not None]
            ids.update(zip(batch.new, catalogue.add_photos(photos, batch.embeddings), strict=True))
        for read in batch.files:
            root, before, path = read.changed.root, read.changed.before, read.file.path
            photo_id = ids.get(read.hash)
            files[root.id].append(replace(read.file, photo_id=photo_id))
            touched |= {photo_id, before.photo_id if before else None}
            captions[root.id, path] = tuple(
                Caption(path, path, text) for text in map(clean, read.texts) if text
            )
            outcome, source = _outcome(
                read,
                photo_id,
                read is batch.new.get(read.hash),
                places_before.get(photo_id) if photo_id is not None else None,
                missing,
                moves,
            )
            if source is not None:
                moves.add(source)
            outcomes[outcome] += 1
        for root_id, of_root in files.items():
            catalogue.files.put(root_id, of_root)
        catalogue.photos.update_present([i for i in touched if i is not None])
    reasons = tuple(
        (str(read.changed.root.path / read.file.path), read.file.reason)
        for read in batch.files
        if read.file.reason
    )
    incomplete = tuple(read.file.path for read in batch.files if read.incomplete)
    return Committed(outcomes, len(batch.new), reasons, frozenset(moves), captions, incomplete)


def _outcome(
    read: ReadFile,
    photo_id: int | None,
    is_new: bool,
    places: Collection[Place] | None,
    missing: Mapping[int, Collection[str]],
    moved_from: Collection[Place],
) -> tuple[Outcome, Place | None]:
    """The outcome of a file, and the missing place that it moved from, if any.

    is_new: whether its photo is new and this is its first file; places: where the photo was before
    this batch, None if it was not in the index; moved_from: places that files of this batch moved
    from, where no other file can be from. (A file that an earlier batch moved is in `places`.)
    """
    before = read.changed.before
    if read.file.reason:
        return "skipped", None
    if before is not None and before.present and not before.reason:
        # A changed time alone is no change.
        return ("unchanged" if before.photo_id == photo_id else "updated"), None
    if is_new:
        return "added", None
    if places is None:
        return "copied", None
    left = {(root, path) for root, path in places if path in missing.get(root, ())}
    free = left.difference(moved_from)
    if len(left) < len(places) or (left and not free):
        return "copied", None  # the photo is elsewhere, too
    return "moved", min(free, default=None)
