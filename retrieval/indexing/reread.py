"""Read the metadata of indexed photos again, when it is read in a better way than before.

Pixels are not decoded and nothing is encoded. A file that cannot be read now leaves its photo as it
was: what is wrong with it is found when it changes.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

from indexes.captions import Caption
from indexes.catalogue import Catalogue
from indexes.facts import Facts
from indexes.index_roots import Root
from retrieval.captions.sidecars import clean
from retrieval.errors import PhotoError
from retrieval.indexing.changes import FolderChanges
from retrieval.indexing.options import Options, Progress
from retrieval.indexing.read_photo import PhotoReader
from retrieval.photos.decoder_processes import DecoderProcesses
from retrieval.photos.exif import PhotoFacts
from retrieval.photos.files import open_inside, reading
from retrieval.photos.look_ahead import look_ahead
from retrieval.photos.size import default_max_megapixels, default_workers

_BATCH = 256  # files that are committed together
_AHEAD = 64  # files


@dataclass(frozen=True)
class _File:
    root: Root
    path: str
    photo_id: int


@dataclass(frozen=True)
class _Metadata:
    """What a file holds: facts, None if they cannot be read, and texts, not yet cleaned."""

    file: _File
    facts: PhotoFacts | None = None
    texts: tuple[str, ...] | None = None


def reread_metadata(
    catalogue: Catalogue,
    changes: Sequence[FolderChanges],
    options: Options,
    progress: Callable[[Progress], None],
) -> int:
    """Read the metadata of the unchanged photos that were read by an older version, or of all.

    Returns how many photos that were. Every batch is one transaction.
    """
    files = list(_files_to_read(catalogue, changes, options.reread))
    if not files:
        return 0
    workers = options.workers or default_workers()
    captions = {
        root_id: _by_path(catalogue.captions.of_root(root_id))
        for root_id in {file.root.id for file in files}
    }
    done = 0
    with DecoderProcesses() as processes:
        reader = PhotoReader(options.max_megapixels or default_max_megapixels(workers), processes)
        reads = look_ahead(lambda file: _read(file, reader), files, workers, _AHEAD)
        with closing(reads):
            while batch := list(islice(reads, _BATCH)):
                _commit(catalogue, batch, captions)
                done += len(batch)
                progress(Progress(done, len(files), 0, "metadata"))
    return len({file.photo_id for file in files})


def _files_to_read(
    catalogue: Catalogue, changes: Sequence[FolderChanges], all_photos: bool
) -> Iterator[_File]:
    outdated: Collection[int] = () if all_photos else catalogue.facts.outdated()
    if not all_photos and not outdated:
        return
    for change in changes:
        changed = {file.found.path for file in change.to_read}
        for path, file in catalogue.files.below(change.root.id, change.under).items():
            if file.photo_id is None or not file.present or path in changed | change.missing:
                continue
            if all_photos or file.photo_id in outdated:
                yield _File(change.root, path, file.photo_id)


def _read(file: _File, reader: PhotoReader) -> _Metadata:
    """The metadata of a file (in a thread)."""
    try:
        with reading(), open_inside(file.root.path, file.path) as source:
            facts, texts = reader.metadata(source, file.path)
            return _Metadata(file, facts, texts)
    except (PhotoError, FileNotFoundError):
        return _Metadata(file)


def _commit(
    catalogue: Catalogue,
    batch: Sequence[_Metadata],
    captions: dict[int, dict[str, list[Caption]]],
) -> None:
    """Write what was read; captions: all that there were, by root and path."""
    by_root: defaultdict[int, dict[str, list[Caption]]] = defaultdict(dict)
    for read in batch:
        if read.texts is not None:
            path = read.file.path
            others = [c for c in captions[read.file.root.id].get(path, ()) if c.origin != path]
            inside = [Caption(path, path, text) for text in map(clean, read.texts) if text]
            by_root[read.file.root.id][path] = [*others, *inside]
    found = {read.file.photo_id: read.facts for read in batch if read.facts is not None}
    with catalogue.transaction():
        catalogue.facts.put({i: _facts(facts) for i, facts in found.items()})
        catalogue.facts.put_read_again({read.file.photo_id: _size(read.facts) for read in batch})
        for root_id, of_path in by_root.items():
            texts = [caption for of_one in of_path.values() for caption in of_one]
            catalogue.captions.put(root_id, of_path, texts)


def _size(facts: PhotoFacts | None) -> tuple[int, int, str | None] | None:
    return None if facts is None else (facts.width, facts.height, facts.camera)


def _facts(facts: PhotoFacts) -> Facts:
    return Facts(
        facts.taken,
        facts.taken_offset,
        facts.taken_source,
        facts.latitude,
        facts.longitude,
        facts.place_source,
    )


def _by_path(captions: Sequence[Caption]) -> dict[str, list[Caption]]:
    by_path: defaultdict[str, list[Caption]] = defaultdict(list)
    for caption in captions:
        by_path[caption.path].append(caption)
    return by_path
