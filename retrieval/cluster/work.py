"""What a worker does with a task: read, encode and fuse its photos, and write them to the lake.

The photos are read by the code of one machine (`retrieval.indexing.encode`), with all that it does
about bad files. Nothing here knows Ray.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
from blake3 import blake3

from indexes.catalogue import IndexModel
from indexes.facts import Facts
from indexes.index_roots import Root
from indexes.lake.location import Location
from indexes.lake.manifest import Part
from indexes.lake.schema import FileRow, PhotoRow
from indexes.lake.write_parts import write_files, write_photos
from indexes.photos import Photo
from retrieval.captions.sidecars import clean
from retrieval.cluster.staging import Staged, staged
from retrieval.cluster.tasks import Captions, Done, Item, Task
from retrieval.encoders.base import Encoder, Log
from retrieval.errors import PhotoError
from retrieval.fusion.attention import Fusion
from retrieval.indexing.changes import ChangedFile
from retrieval.indexing.encode import EncodedBatch, ReadFile, encode_files
from retrieval.indexing.encoder_loader import EncoderLoader
from retrieval.indexing.facts_beside import completed
from retrieval.indexing.fuse import embed_captions, texts_digest
from retrieval.indexing.options import Options
from retrieval.photos import place_names
from retrieval.photos.files import content_hash, open_inside, reading
from retrieval.photos.walk import FoundFile

Claim = Callable[[str, Sequence[str]], Sequence[bool]]
"""For a task and hashes of photos: which of them the task is to encode; see `Claims`."""


@dataclass(frozen=True)
class Job:
    """What all tasks of a run have in common.

    lake: its URL; model: of the index; fusion: that which its photos are fused by; requested: the
    name or path of the model to load, None for that of the index; options: threads, batches, sizes
    and compute.
    """

    lake: str
    model: IndexModel
    fusion: Fusion
    options: Options = field(default_factory=Options)
    requested: str | None = None

    def with_threads(self, count: int) -> "Job":
        """The job with so many threads that decode, if the user named no number."""
        options = replace(self.options, workers=self.options.workers or count)
        return replace(self, options=options)


class Work:
    """A worker's model and lake, for one task after the other."""

    def __init__(self, job: Job, claim: Claim, log: Log = lambda _: None) -> None:
        self._job, self._claim = job, claim
        self._loader = EncoderLoader(job.model, job.requested, job.options.compute, log)
        self._location = Location.of(job.lake)

    def load(self) -> None:
        """Load the model; raises ModelError."""
        self._loader()

    def run(self, task: Task) -> Done:
        """Do a task; raises StorageError or ModelError. What it writes it may write again."""
        with staged(task) as (folder, files, failed):
            known = self._known(task, files)
            root = Root(1, folder)
            changed = [
                ChangedFile(root, FoundFile(name, file.item.bytes, file.item.mtime_ns), None)
                for name, file in files.items()
            ]
            batches = list(self._batches(changed, known, files))
        rows = [_unreadable(task.root, item, reason) for item, reason in failed]
        photos = []
        for some_photos, some_files in batches:
            photos += some_photos
            rows += [replace(row, root=task.root) for row in some_files]
        return self._write(task, photos, rows)

    def _known(self, task: Task, files: dict[str, Staged]) -> set[str]:
        """The hashes of those files whose photos another task encodes, or that are in the lake."""
        hashes = dict[str, None]()
        for name, file in files.items():
            try:
                with reading(), open_inside(file.folder, name) as source:
                    hashes[content_hash(source)] = None
            except (PhotoError, OSError):  # what is wrong is found when it is read as a photo
                continue
        own = self._claim(task.key or task.name, list(hashes))
        return {digest for digest, is_own in zip(hashes, own, strict=True) if not is_own}

    def _batches(
        self, changed: Sequence[ChangedFile], known: set[str], files: dict[str, Staged]
    ) -> Iterator[tuple[list[PhotoRow], list[FileRow]]]:
        for batch in encode_files(changed, known, self._loader, self._job.options):
            captions = {read.file.path: _captions(read, files) for read in batch.files}
            rows = [_file_row(read, files, captions[read.file.path]) for read in batch.files]
            yield self._photo_rows(batch, files, captions), rows

    def _photo_rows(
        self, batch: EncodedBatch, files: dict[str, Staged], captions: dict[str, Captions]
    ) -> list[PhotoRow]:
        """The new photos of a batch, with their captions and fused with them."""
        found = [(read, read.photo) for read in batch.new.values() if read.photo is not None]
        photos = with_place_names(
            [_completed(photo, files[read.file.path].item) for read, photo in found]
        )
        texts = [_texts(captions[read.file.path]) for read, _ in found]
        rows = [
            PhotoRow(photo, image, captions=some)
            for photo, image, some in zip(photos, batch.embeddings, texts, strict=True)
        ]
        return fuse_rows(rows, self._loader, self._job.fusion)

    def _write(self, task: Task, photos: list[PhotoRow], rows: list[FileRow]) -> Done:
        """Write both parts, the photos first: a place never names a photo that is not there."""
        name, parts = part_name(self._job.model, task.name), list[Part]()
        if photos:
            parts.append(write_photos(self._location, photos, self._job.model.dim, name))
        if rows:
            parts.append(write_files(self._location, rows, name))
        return Done(
            tuple(parts),
            len(task.items),
            len(photos),
            sum(bool(row.captions) for row in rows),
            tuple((f"{row.root}/{row.path}", row.reason) for row in rows if row.reason),
        )


def part_name(model: IndexModel, name: str) -> str:
    """The name of a part that says which model and fusion its embeddings are of."""
    made_with = f"{model.fingerprint}\0{model.dim}\0{model.fusion}"
    return f"{blake3(made_with.encode()).hexdigest()[:16]}-{name}"


def fuse_rows(
    rows: Sequence[PhotoRow], encoder: Callable[[], Encoder], fusion: Fusion
) -> list[PhotoRow]:
    """Photos fused with their captions; encoder: called only if there are captions."""
    chosen = [position for position, row in enumerate(rows) if row.captions]
    result = list(rows)
    if not chosen:
        return result
    said = embed_captions(encoder(), [rows[position].captions for position in chosen])
    seen = np.stack([rows[position].seen for position in chosen])
    fused, shares = fusion.photos(seen, said)
    for at, position in enumerate(chosen):
        row = rows[position]
        result[position] = replace(
            row,
            said=said[at],
            digest=texts_digest(row.captions),
            fused=fused[at],
            share=float(shares[at]),
        )
    return result


def with_place_names(photos: Sequence[Photo]) -> list[Photo]:
    """Photos with the names of their places, as far as they are known here."""
    result = list(photos)
    points = {
        position: (photo.latitude, photo.longitude)
        for position, photo in enumerate(photos)
        if photo.latitude is not None and photo.longitude is not None
    }
    if points and place_names.available():
        for position, names in zip(
            points, place_names.names_of(list(points.values())), strict=True
        ):
            city, region, country = names
            result[position] = replace(photos[position], city=city, region=region, country=country)
    return result


def _completed(photo: Photo, item: Item) -> Photo:
    """A photo with the time and place that its name and what lies beside it say."""
    names = [fact.name for fact in fields(Facts)]
    facts = Facts(**{name: getattr(photo, name) for name in names})
    found = completed(facts, [(item.path, item.sidecars)])
    return replace(photo, **{name: getattr(found, name) for name in names})


def _captions(read: ReadFile, files: dict[str, Staged]) -> Captions:
    """The captions of a file: from outside of it, then those inside."""
    item = files[read.file.path].item
    inside = ((item.path, text) for text in map(clean, read.texts) if text)
    return (*item.captions, *inside)


def _texts(captions: Captions) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text for _, text in captions))


def _file_row(read: ReadFile, files: dict[str, Staged], captions: Captions) -> FileRow:
    file = files[read.file.path]
    # A copy has times of its own; a file in a folder may have changed since it was listed.
    size, mtime = (
        (file.item.bytes, file.item.mtime_ns)
        if file.is_copy
        else (read.file.bytes, read.file.mtime_ns)
    )
    return FileRow(
        "", file.item.path, size, mtime, read.hash or None, read.file.reason, True, captions
    )


def _unreadable(root: str, item: Item, reason: str) -> FileRow:
    return FileRow(root, item.path, item.bytes, item.mtime_ns, None, reason)
