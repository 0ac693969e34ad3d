"""Read changed files in threads ahead of the encoder, and encode new photos batch by batch.

A file is opened once: its hash, metadata and pixels come from the same open file. Nothing is
written; `commit` does that.
"""

import os
from collections import deque
from collections.abc import Collection, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import BinaryIO

import numpy as np

from indexes.arrays import Array, Floats
from indexes.files import File
from indexes.photos import Photo
from retrieval.encoders.nvjpeg import jpeg_decoder
from retrieval.errors import PhotoError
from retrieval.indexing.changes import ChangedFile
from retrieval.indexing.encoder_loader import EncoderLoader
from retrieval.indexing.options import Options
from retrieval.indexing.read_photo import PhotoReader
from retrieval.photos.decode import INCOMPLETE
from retrieval.photos.decoder_processes import DecoderProcesses
from retrieval.photos.files import UNREADABLE, content_hash, mtime_ns, open_inside, reading
from retrieval.photos.look_ahead import look_ahead
from retrieval.photos.size import default_max_megapixels, default_workers

_BATCH_ON_CPU, _BATCH_ON_GPU = 32, 256  # photos
_BATCHES_AHEAD = 2  # at the encoder: a GPU gets the second while it computes the first
_ATTEMPTS = 3  # to read a file that changes meanwhile
_FILES_PER_PHOTO = 8  # a batch of mostly known or bad files ends at so many times its photos


@dataclass(frozen=True)
class ReadFile:
    """A file that was read: new (`photo`), known by its `hash`, or bad (`file.reason`).

    texts: captions inside the file, not yet cleaned. incomplete: whether the file lacks its end.
    """

    changed: ChangedFile
    file: File
    hash: str = ""
    photo: Photo | None = None
    texts: tuple[str, ...] = ()
    incomplete: bool = False


@dataclass(frozen=True)
class EncodedBatch:
    """Files to commit together. new: the first file of each new photo, by hash; embeddings: of
    these photos in this order, float32 [n, dim], unit rows."""

    files: tuple[ReadFile, ...]
    new: dict[str, ReadFile]
    embeddings: Floats


@dataclass(frozen=True)
class _Prepared:
    """A file that was read, and its pixels as the encoder takes them if they are to be encoded."""

    read: ReadFile
    pixels: Array | None = None


@dataclass(frozen=True)
class _Encoding:
    """A batch whose embeddings are being computed."""

    files: tuple[ReadFile, ...]
    new: dict[str, ReadFile]
    embeddings: Future[Floats]


def encode_files(
    changed: Sequence[ChangedFile],
    known: Collection[str],
    encoder: EncoderLoader,
    options: Options,
) -> Generator[EncodedBatch]:
    """Read files, encode the new photos among them, and yield batches in order of the files.

    known: hashes of photos that have an embedding. Files that vanished are left out; bad files
    have their reason. Raises what loading the encoder and encoding raise. Close the generator to
    stop early: what was read ahead is dropped, and the threads have ended.
    """
    hashes = set(known)  # grows here while the threads look things up
    workers = options.workers or default_workers()
    processes = DecoderProcesses()
    reader = PhotoReader(options.max_megapixels or default_max_megapixels(workers), processes)

    def read(file: ChangedFile) -> _Prepared | None:
        return _read(file, hashes, encoder, reader)

    def batch_size() -> int:
        on_gpu = encoder.loaded is not None and encoder.loaded.device != "cpu"
        return options.batch_size or (_BATCH_ON_GPU if on_gpu else _BATCH_ON_CPU)

    def begin(batch: Sequence[_Prepared]) -> _Encoding:
        first = {p.read.hash: p for p in reversed(batch) if p.read.photo is not None}
        new = {digest: p for digest, p in first.items() if digest not in hashes}
        hashes.update(new)
        pixels = [p.pixels for p in new.values() if p.pixels is not None]
        return _Encoding(
            tuple(p.read for p in batch),
            {digest: p.read for digest, p in new.items()},
            pool.submit(_encode, pixels, encoder),
        )

    batch: list[_Prepared] = []
    to_encode = 0
    ahead: deque[_Encoding] = deque()
    pool = ThreadPoolExecutor(_BATCHES_AHEAD, thread_name_prefix="encode")
    reads = look_ahead(read, changed, workers, lambda: 2 * batch_size())
    try:
        with processes, closing(reads):
            for prepared in reads:
                if prepared is None:
                    continue
                batch.append(prepared)
                to_encode += prepared.pixels is not None
                if to_encode >= batch_size() or len(batch) >= _FILES_PER_PHOTO * batch_size():
                    ahead.append(begin(batch))
                    batch, to_encode = [], 0
                while len(ahead) >= _BATCHES_AHEAD or (ahead and ahead[0].embeddings.done()):
                    yield _result(ahead.popleft())
            if batch:
                ahead.append(begin(batch))
            while ahead:
                yield _result(ahead.popleft())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _result(batch: _Encoding) -> EncodedBatch:
    return EncodedBatch(batch.files, batch.new, batch.embeddings.result())


def _encode(pixels: Sequence[Array], encoder: EncoderLoader) -> Floats:
    """The embeddings of prepared photos (in a thread); for none of them no encoder is loaded."""
    if not pixels:
        return np.empty((0, encoder.model.dim), np.float32)
    return encoder().encode_images(pixels)


def _read(
    changed: ChangedFile, known: Collection[str], encoder: EncoderLoader, reader: PhotoReader
) -> _Prepared | None:
    """Read one file (in a thread); None if it vanished."""
    found = changed.found
    file = File(found.path, found.bytes, found.mtime_ns)
    try:
        with reading():
            source = open_inside(changed.root.path, found.path)
        with source:
            for _ in range(_ATTEMPTS):
                state = os.fstat(source.fileno())
                file = File(found.path, state.st_size, mtime_ns(state))
                prepared = _read_open(ReadFile(changed, file), source, known, encoder, reader)
                after = os.fstat(source.fileno())
                if (state.st_size, state.st_mtime_ns) == (after.st_size, after.st_mtime_ns):
                    return prepared
        raise PhotoError(f"{UNREADABLE} (it is being written)")
    except FileNotFoundError:
        return None
    except PhotoError as error:
        return _Prepared(ReadFile(changed, replace(file, reason=str(error))))


def _read_open(
    read: ReadFile,
    source: BinaryIO,
    known: Collection[str],
    loader: EncoderLoader,
    reader: PhotoReader,
) -> _Prepared:
    """Hash, texts and, for a new photo, facts and pixels of an open file; raises PhotoError."""
    path = read.file.path
    with reading():
        digest = content_hash(source)
    if digest in known:
        return _Prepared(replace(read, hash=digest, texts=reader.texts(source, path)))
    encoder = loader()  # outside `reading`: its errors are not the photo's
    decode = jpeg_decoder(encoder)
    pixels, facts, texts = reader.pixels(source, path, encoder.image_size, decode)
    with reading():
        array = encoder.prepare(pixels)
    photo, incomplete = Photo(hash=digest, **asdict(facts)), INCOMPLETE in pixels.info
    return _Prepared(
        replace(read, hash=digest, photo=photo, texts=texts, incomplete=incomplete), array
    )
