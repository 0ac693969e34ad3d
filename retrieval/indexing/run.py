"""The index journey: folder → files → photos → encoder → index.

Looks for what is new, changed, moved or gone since the last run, decodes ahead of the encoder in
threads, and commits batch by batch: a killed run loses at most the batches in flight.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from indexes.arrays import Array, Floats
from indexes.catalogue import File, IndexModel, Photo
from indexes.errors import RetrievalError
from indexes.fulltext import Caption
from indexes.index import Index, Root
from indexes.locate import is_index
from indexes.lock import lock
from indexes.staged_rebuild import staged_rebuild
from retrieval.encoders.base import Encoder, Log
from retrieval.encoders.engine import Compute
from retrieval.encoders.nvjpeg import jpeg_decoder
from retrieval.encoders.registry import check_model, check_weights, load_encoder, load_encoder_of
from retrieval.errors import PhotoError, QueryError
from retrieval.fusion.store import load_fusion
from retrieval.indexing.options import Options, Progress, Report
from retrieval.photos.decode import FORMATS, default_max_megapixels, open_photo
from retrieval.photos.files import (
    NO_PERMISSION,
    TOO_LARGE,
    UNREADABLE,
    content_hash,
    open_inside,
    reading,
)
from retrieval.photos.walk import Found, Walk, has_rawpy, is_below, walk
from retrieval.ranking.hub_bias import prepare_ranking

_ON_CPU, _ON_CARD = 32, 256  # photos in a batch
_BATCHES = 2  # at the encoder: a card gets the second while it computes the first


@dataclass(frozen=True)
class _Work:
    """A new or changed file, as the walk found it, and what was known of its path before."""

    root: Root
    found: Found
    before: File | None


@dataclass(frozen=True)
class _Read:
    """What a worker made of a file: a photo to encode, one that is known by hash, or a reason."""

    work: _Work
    file: File
    hash: str = ""
    photo: Photo | None = None
    prepared: Array | None = None
    texts: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Batch:
    """Files to write down together; the first of each new photo, by hash; embeddings to come."""

    reads: list[_Read]
    fresh: dict[str, _Read]
    rows: Future[Floats]


def index_folders(
    folder: Path,
    folders: Sequence[Path] = (),
    model: str | Encoder | None = None,
    options: Options = Options(),
    progress: Callable[[Progress], None] = lambda _: None,
    log: Log = lambda _: None,
) -> Report:
    """Bring the index in `folder` up to date with `folders`, or with all that it knows.

    model: as `load_encoder` takes it, or what it gave; None for the model that made the index,
    `auto` for a new one.
    progress is told after every batch; say is told what a user should know of the model.
    Raises RetrievalError: what was committed before stays.
    """
    started = time.perf_counter()
    for given in folders:
        if not given.is_dir():
            what = "is a file, not a folder" if given.exists() else "does not exist"
            raise RetrievalError(f"{given} {what}. Name the folder that your photos are in.")
    with lock(folder):
        job = _rebuild if options.rebuild and is_index(folder) else _update
        report = job(folder, folders, model, options, progress, log)
    report.seconds = time.perf_counter() - started
    return report


def _update(
    folder: Path,
    folders: Sequence[Path],
    model: str | Encoder | None,
    options: Options,
    progress: Callable[[Progress], None],
    log: Log,
) -> Report:
    """Bring the index up to date, or make it where there is none."""
    loaded: Encoder | None = None
    if not is_index(folder):
        loaded = _load(model or "auto", options, log)
        Index.create(folder, _made(loaded)).close()
    with Index.open(folder, writable=True) as index:
        return _Run(
            index, _Loader(index.model, model, loaded, options.compute, log), options, progress
        ).go(folders)


def _rebuild(
    folder: Path,
    folders: Sequence[Path],
    model: str | Encoder | None,
    options: Options,
    progress: Callable[[Progress], None],
    log: Log,
) -> Report:
    """Make the index anew, all its folders and these; the old one answers until it is done.

    Raises RetrievalError where a folder is away: its photos would be forgotten.
    """
    with Index.open(folder) as old:
        for root in old.roots():
            if old.is_away(root):
                raise RetrievalError(
                    f"The folder {root.path} is not there or empty now, and making the index anew "
                    "would forget its photos. Bring it back, or forget them first with "
                    f"`retrieval remove {root.path}`."
                )
        encoder = _load(model or old.model.name, options, log)
        everything = [*(root.path for root in old.roots()), *folders]
        options = replace(
            options,
            exclude=old.excluded() if options.exclude is None else options.exclude,
            captions=_there(old.caption_lists()) if options.captions is None else options.captions,
        )
    with staged_rebuild(folder, _made(encoder)) as new:
        loader = _Loader(new.model, None, encoder, options.compute, log)
        report = _Run(new, loader, options, progress).go(everything)
    with Index.open(folder, writable=True) as index:
        index.refresh()
    return report


def _pattern(text: str) -> str:
    """A pattern of `--exclude` as it is matched: against names and paths inside a folder."""
    if Path(text).is_absolute():
        raise QueryError(
            f"--exclude {text} cannot match: patterns are of names and of paths inside the indexed "
            "folder, such as 'private' or 'holidays/*.png'."
        )
    return text.removeprefix("./").rstrip("/")


def _there(files: Sequence[Path]) -> list[Path]:
    return [file for file in files if file.is_file()]


def _by_path(captions: Sequence[Caption]) -> dict[str, list[Caption]]:
    found: dict[str, list[Caption]] = {}
    for caption in captions:
        found.setdefault(caption.path, []).append(caption)
    return found


def _made(encoder: Encoder) -> IndexModel:
    name = load_fusion(encoder.fingerprint, encoder.dim).name
    return IndexModel(encoder.name, encoder.fingerprint, encoder.dim, name)


def _load(model: str | Encoder, options: Options, log: Log) -> Encoder:
    return load_encoder(model, log, options.compute) if isinstance(model, str) else model


class _Loader:
    """The encoder of an index, loaded when the first photo needs it (from any thread)."""

    def __init__(
        self,
        index_model: IndexModel,
        model: str | Encoder | None,
        loaded: Encoder | None,
        compute: Compute,
        log: Log,
    ) -> None:
        self._compute, self._log = compute, log
        self._lock = threading.Lock()
        self._encoder = loaded
        self._model = index_model
        if isinstance(model, str):
            check_model(index_model, model)
        elif model is not None:
            check_weights(index_model, model)
            self._encoder = model

    @property
    def loaded(self) -> Encoder | None:
        """The encoder, if something has needed it."""
        return self._encoder

    def __call__(self) -> Encoder:
        with self._lock:
            if self._encoder is None:
                self._encoder = load_encoder_of(self._model, self._log, self._compute)
            return self._encoder


class _Run:
    """One run over an open, locked index."""

    def __init__(
        self,
        index: Index,
        encoder: _Loader,
        options: Options,
        progress: Callable[[Progress], None],
    ) -> None:
        self.index, self.catalogue, self.encoder = index, index.catalogue, encoder
        self.options, self.progress = options, progress
        self.report = Report()
        self.workers = options.workers or max(os.cpu_count() or 1, 2)
        self.max_megapixels = options.max_megapixels or default_max_megapixels(self.workers)
        self.said: dict[tuple[int, str], list[Caption]] = {}  # by files that say it themselves
        self.known: set[str] = set()  # hashes of photos that have an embedding
        self.gone: dict[int, set[str]] = {}  # by root, paths that are no longer there
        self.claimed: set[tuple[int, str]] = set()  # (root, path) that something moved away from
        self.stop = threading.Event()

    def go(self, folders: Sequence[Path]) -> Report:
        """Do all of it, for these folders or all that the index knows."""
        exclude, lists = self._exclude(), self._lists()
        work: list[_Work] = []
        scopes = self._scopes(folders)
        for root, under in scopes:
            work += self._compare(root, under, exclude)
        if work:
            self.known = self.catalogue.hashes()
            self._encode(work)
        self.report.removed = sum(map(len, self.gone.values())) - len(self.claimed)
        said = [(root, *self._captions(root, under, lists)) for root, under in scopes]
        with self.catalogue.transaction():
            for root, changed, captions in said:
                self.catalogue.put_captions(root.id, changed, captions)
            for root_id, paths in self.gone.items():
                self.catalogue.mark_gone(root_id, paths)
            self.catalogue.update_presence()
            if self.options.prune:
                self.report.pruned = self.catalogue.prune()
        self._fuse()
        self.index.refresh()
        if self.encoder.loaded is not None:
            prepare_ranking(self.index, self.encoder.loaded)
        return self.report

    def _fuse(self) -> None:
        """Embed what is newly said of photos, and fuse them with it."""
        # A search imports this module, but never fuses photos.
        from retrieval.indexing.fuse import fuse_index

        def progress(done: int, total: int) -> None:
            self.progress(Progress(done, total, 0, "captions"))

        self.report.fused = fuse_index(self.index, self.encoder, progress)

    def _scopes(self, folders: Sequence[Path]) -> list[tuple[Root, str]]:
        """The roots to look through, each with the path in it to start from."""
        if folders:
            for folder in folders:
                self.index.add_root(folder)
            # Only now is it settled which root holds which folder.
            given = {self.index.add_root(folder) for folder in folders}
            return [
                (root, under)
                for root, under in sorted(given, key=lambda scope: (scope[0].id, scope[1]))
                if not any(
                    (root, under) != (other, outer) and root == other and is_below(under, outer)
                    for other, outer in given
                )
            ]
        roots = self.index.roots()
        for root in roots:
            if not root.path.is_dir():
                self.report.notes.append(
                    f"The folder {root.path} is not there now; its photos stay as they were."
                )
        return [(root, "") for root in roots if root.path.is_dir()]

    def _exclude(self) -> Sequence[str]:
        """The patterns of this run; they are kept for the next."""
        if self.options.exclude is not None:
            self.index.set_excluded([_pattern(text) for text in self.options.exclude])
        return self.index.excluded()

    def _lists(self) -> list[Path]:
        """The caption files of this run, where they can be read; they are kept for the next."""
        if self.options.captions is not None:
            for file in self.options.captions:
                if not file.is_file():
                    raise RetrievalError(f"There is no file {file}. Name a list of captions.")
            self.index.set_caption_lists([file.absolute() for file in self.options.captions])
        lists = self.index.caption_lists()
        self.report.notes += [
            f"The captions {file} are not there now; --captions '' asks for none any more."
            for file in lists
            if not file.is_file()
        ]
        return _there(lists)

    # What changed ------------------------------------------------------------------------------

    def _compare(self, root: Root, under: str, exclude: Sequence[str]) -> list[_Work]:
        """The files to read. Notes what came back and what is gone on the way."""
        known = self.catalogue.files(root.id, under)
        met = Walk()
        work, back = [], []
        for found in walk(root.path, under, exclude, has_rawpy(), met):
            file = known.pop(found.path, None)
            if file is None or self._to_read(file, found):
                work.append(_Work(root, found, file))
            elif file.reason:
                self.report.skipped += 1
            elif file.present:
                self.report.unchanged += 1
            else:
                back.append(replace(file, present=True))
                self.report.added += 1
        if not under and known and self.index.is_away(root):
            self.report.notes.append(
                f"The folder {root.path} is empty now (a disk that is not there?); its photos "
                f"stay. `retrieval remove {root.path}` forgets them."
            )
            return []
        self.catalogue.put_files(root.id, back)
        self.gone.setdefault(root.id, set()).update(
            path
            for path, file in known.items()
            if file.present and not any(is_below(path, folder) for folder in met.unreadable)
        )
        self._note(met)
        return work

    def _captions(
        self, root: Root, under: str, lists: Sequence[Path]
    ) -> tuple[set[str], list[Caption]]:
        """The photos of which something else is said than before, and what that is."""
        if root.id not in self.gone:
            return set(), []  # away: what is known of its photos stays
        # A search imports this module, but never reads captions.
        from retrieval.captions.sidecars import read_captions

        files = self.catalogue.files(root.id, under)
        gone = self.gone[root.id]
        paths = [p for p, file in files.items() if file.photo_id and p not in gone]
        found = read_captions(root.path, paths, lists)
        self.report.notes += found.notes
        now, before = _by_path(found.captions), _by_path(self.catalogue.captions(root.id))
        for path in paths:
            # What a file says of itself was read with its photo, now or when it last changed.
            own = self.said.get((root.id, path))
            if own is None:
                own = [caption for caption in before.get(path, ()) if caption.origin == path]
            if own:
                now[path] = [*now.get(path, ()), *own]
        self.report.captioned += len(now)
        changed = {path for path in paths if now.get(path) != before.get(path)}
        return changed, [caption for path in changed for caption in now.get(path, ())]

    def _to_read(self, file: File, found: Found) -> bool:
        """Whether a known file changed, or failed for a reason that may be over."""
        if (file.bytes, file.mtime_ns) != (found.bytes, found.mtime_ns):
            return True
        reason = file.reason or ""
        if reason.startswith(TOO_LARGE):
            return self.options.max_megapixels is not None
        return reason.startswith((NO_PERMISSION, UNREADABLE))

    def _note(self, met: Walk) -> None:
        notes = self.report.notes
        if met.unreadable:
            names = ", ".join(repr(name or ".") for name in met.unreadable[:3])
            notes.append(
                f"{len(met.unreadable)} folder(s) could not be opened ({names}); what is known of "
                "their photos stays."
            )
        if met.links:
            notes.append(
                f"{met.links} symbolic link(s) were not followed; index what they point to by its "
                "own path."
            )
        if met.raw:
            notes.append(
                f"{met.raw} camera raw file(s) were left out; `pip install "
                "'crossmodal-retrieval[raw]'` to index them too."
            )

    # Reading and encoding ----------------------------------------------------------------------

    @property
    def batch_size(self) -> int:
        """Photos that are encoded and committed together: more where a graphics card encodes."""
        encoder = self.encoder.loaded
        on_card = encoder is not None and encoder.device != "cpu"
        return self.options.batch_size or (_ON_CARD if on_card else _ON_CPU)

    def _encode(self, work: list[_Work]) -> None:
        done = 0
        reads: list[_Read] = []
        to_encode = 0
        ahead: deque[_Batch] = deque()
        pool = ThreadPoolExecutor(_BATCHES, thread_name_prefix="encode")

        def commit() -> None:
            nonlocal done
            batch = ahead.popleft()
            self._commit(batch)
            done += len(batch.reads)
            self.progress(Progress(done, len(work), self.report.skipped))

        self.progress(Progress(0, len(work), 0))
        try:
            for read in self._read_ahead(work):
                reads.append(read)
                to_encode += read.prepared is not None
                if to_encode >= self.batch_size or len(reads) >= 8 * self.batch_size:
                    ahead.append(self._begin(reads, pool))
                    reads, to_encode = [], 0
                while len(ahead) >= _BATCHES or (ahead and ahead[0].rows.done()):
                    commit()
            if reads:
                ahead.append(self._begin(reads, pool))
            while ahead:
                commit()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        self.progress(Progress(len(work), len(work), self.report.skipped))

    def _begin(self, reads: list[_Read], pool: ThreadPoolExecutor) -> _Batch:
        """Have what is new in a batch encoded, in a thread."""
        fresh = {r.hash: r for r in reversed(reads) if r.photo and r.hash not in self.known}
        self.known.update(fresh)
        prepared = [r.prepared for r in fresh.values() if r.prepared is not None]
        return _Batch(reads, fresh, pool.submit(self._rows, prepared))

    def _rows(self, prepared: list[Array]) -> Floats:
        if not prepared:
            return np.empty((0, self.index.model.dim), np.float32)  # and needs no encoder
        return self.encoder().encode_images(prepared)

    def _read_ahead(self, work: list[_Work]) -> Iterator[_Read]:
        """The files in order, read by threads in a bounded window ahead of the encoder."""
        window: deque[Future[_Read | None]] = deque()
        todo = iter(work)
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="photo")
        try:
            while True:
                while len(window) < 2 * self.batch_size and (item := next(todo, None)) is not None:
                    window.append(pool.submit(self._read, item))
                if not window:
                    return
                read = window.popleft().result()
                if read is not None:
                    yield read
        finally:
            self.stop.set()
            pool.shutdown(wait=True, cancel_futures=True)

    def _read(self, work: _Work) -> _Read | None:
        """Read one file (in a thread); None where it vanished meanwhile."""
        from retrieval.captions.metadata import embedded_texts  # of which a search has no need

        if self.stop.is_set():
            return None
        found = work.found
        file = File(found.path, found.bytes, found.mtime_ns)
        try:
            with reading():
                source = open_inside(work.root.path, found.path)
            with source:
                state = os.fstat(source.fileno())
                file = File(found.path, state.st_size, state.st_mtime_ns)
                with reading():
                    digest = content_hash(source)
                texts = tuple(embedded_texts(source, FORMATS))
                if digest in self.known:
                    return _Read(work, file, digest, texts=texts)
                encoder = self.encoder()  # its errors are not the photo's
                pixels, facts = open_photo(
                    source,
                    found.path,
                    self.max_megapixels,
                    encoder.image_size,
                    jpeg_decoder(encoder),
                )
            photo = Photo(hash=digest, **facts)
            return _Read(work, file, digest, photo, encoder.prepare(pixels), texts)
        except FileNotFoundError:
            return None
        except PhotoError as error:
            return _Read(work, replace(file, reason=str(error)))

    def _commit(self, batch: _Batch) -> None:
        """Write a batch down in one transaction, when it is encoded."""
        from retrieval.captions.sidecars import clean  # of which a search has no need

        rows, fresh = batch.rows.result(), batch.fresh
        ids = self.catalogue.photo_ids({read.hash for read in batch.reads if read.hash})
        places = self.catalogue.photos(list(ids.values()))
        with self.catalogue.transaction():
            if fresh:
                photos = [r.photo for r in fresh.values() if r.photo is not None]
                ids.update(zip(fresh, self.catalogue.add_photos(photos, rows), strict=True))
            files: dict[int, list[File]] = {}  # by root
            touched: set[int | None] = set()
            for read in batch.reads:
                photo_id = ids.get(read.hash)
                where = places[photo_id][1] if photo_id in places else None
                path = read.file.path
                own = [Caption(path, path, t) for t in map(clean, read.texts) if t]
                self.said[read.work.root.id, path] = own
                self._count(read, photo_id, read is fresh.get(read.hash), where)
                file = replace(read.file, photo_id=photo_id)
                files.setdefault(read.work.root.id, []).append(file)
                touched |= {photo_id, read.work.before.photo_id if read.work.before else None}
            for root_id, found in files.items():
                self.catalogue.put_files(root_id, found)
            self.catalogue.mark_present([i for i in touched if i is not None])
        self.report.encoded += len(fresh)

    def _count(
        self, read: _Read, photo_id: int | None, fresh: bool, where: list[tuple[int, str]] | None
    ) -> None:
        """Note what a file turned out to be. where: the photo's places before this run."""
        report, before = self.report, read.work.before
        if read.file.reason:
            report.skipped += 1
            report.reasons.append((str(read.work.root.path / read.file.path), read.file.reason))
        elif before is not None and before.present and not before.reason:
            if before.photo_id == photo_id:
                report.unchanged += 1  # only its time changed
            else:
                report.updated += 1
        elif fresh:
            report.added += 1
        else:
            left = {(r, p) for r, p in where or () if p in self.gone.get(r, ())}
            unclaimed = left - self.claimed
            if where is None or len(left) < len(where) or (left and not unclaimed):
                report.copied += 1
            else:
                report.moved += 1
                self.claimed.update(sorted(unclaimed)[:1])
