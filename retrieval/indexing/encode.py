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
from retrieval.captions.metadata import embedded_texts
from retrieval.encoders.nvjpeg import jpeg_decoder
from retrieval.errors import PhotoError
from retrieval.indexing.changes import ChangedFile
from retrieval.indexing.encoder_loader import EncoderLoader
from retrieval.indexing.options import Options
from retrieval.photos.decode import (
    check_size,
    decode_image,
    default_max_megapixels,
    open_photo,
)
from retrieval.photos.files import content_hash, open_inside, reading
from retrieval.photos.look_ahead import look_ahead
from retrieval.photos.open_image import open_image
from retrieval.photos.walk import is_raw

_BATCH_ON_CPU, _BATCH_ON_GPU = 32, 256  # photos
_BATCHES_AHEAD = 2  # at the encoder: a GPU gets the second while it computes the first
_FILES_PER_PHOTO = 8  # a batch of mostly known or bad files ends at so many times its photos


@dataclass(frozen=True)
class ReadFile:
    """A file that was read: new (`photo`), known by its `hash`, or bad (`file.reason`).

    texts: captions inside the file, not yet cleaned.
    """

    changed: ChangedFile
    file: File
    hash: str = ""
    photo: Photo | None = None
    texts: tuple[str, ...] = ()


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
    workers = options.workers or max(os.cpu_count() or 1, 2)
    max_megapixels = options.max_megapixels or default_max_megapixels(workers)

    def read(file: ChangedFile) -> _Prepared | None:
        return _read(file, hashes, encoder, max_megapixels)

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
        with closing(reads):
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
    changed: ChangedFile, known: Collection[str], encoder: EncoderLoader, max_megapixels: float
) -> _Prepared | None:
    """Read one file (in a thread); None if it vanished."""
    found = changed.found
    file = File(found.path, found.bytes, found.mtime_ns)
    try:
        with reading():
            source = open_inside(changed.root.path, found.path)
        with source:
            state = os.fstat(source.fileno())
            file = File(found.path, state.st_size, state.st_mtime_ns)
            with reading():
                digest = content_hash(source)
            if digest in known:
                return _Prepared(ReadFile(changed, file, digest, texts=_texts(source)))
            return _decode(ReadFile(changed, file, digest), source, encoder, max_megapixels)
    except FileNotFoundError:
        return None
    except PhotoError as error:
        return _Prepared(ReadFile(changed, replace(file, reason=str(error))))


def _decode(
    read: ReadFile, source: BinaryIO, loader: EncoderLoader, max_megapixels: float
) -> _Prepared:
    """Metadata and pixels of a new photo; raises PhotoError if it is bad."""
    encoder = loader()  # outside `reading`: its errors are not the photo's
    size, decode = encoder.image_size, jpeg_decoder(encoder)
    if is_raw(read.file.path):  # its texts are its own, its pixels those of the preview in it
        texts = _texts(source)
        pixels, facts = open_photo(source, read.file.path, max_megapixels, size, decode)
    else:
        with reading(), open_image(source) as image:
            check_size(image, max_megapixels)  # texts of PNG may need its pixels
            texts = tuple(embedded_texts(image))
            pixels, facts = decode_image(image, source, max_megapixels, size, decode)
    photo = Photo(hash=read.hash, **asdict(facts))
    return _Prepared(replace(read, photo=photo, texts=texts), encoder.prepare(pixels))


def _texts(source: BinaryIO) -> tuple[str, ...]:
    """The captions inside a file whose pixels are not needed; none if it cannot be opened."""
    try:
        with open_image(source) as image:
            return tuple(embedded_texts(image))
    except Exception:  # what is wrong with a photo is found when it is decoded
        return ()
    finally:
        source.seek(0)
