"""A cache of embeddings of captioned photos: a second benchmark or training takes seconds.

The user's cache folder holds one index for each model's weights. It knows photos by their content,
as any index does; a database next to it knows captions by their text. The folder can be deleted at
any time.
"""

import os
import sqlite3
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from blake3 import blake3

from indexes.arrays import Array, Floats
from indexes.catalogue import IndexModel, Photo
from indexes.errors import StorageError
from indexes.index import Index
from indexes.locate import is_index
from indexes.lock import lock
from indexes.staged_rebuild import delete
from retrieval import __version__
from retrieval.datasets.captioned import CaptionedPhoto, CaptionedSet
from retrieval.encoders.base import Encoder
from retrieval.encoders.nvjpeg import jpeg_decoder
from retrieval.errors import DataSetError, PhotoError
from retrieval.fusion.attention import MEAN
from retrieval.photos.decode import default_max_megapixels, open_photo
from retrieval.photos.files import content_hash, reading

Progress = Callable[[str, int, int], None]

_PHOTOS, _TEXTS = 32, 256  # encoded at a time
_SQL_VARIABLES = 30_000


@dataclass(frozen=True)
class Embeddings:
    """rows: float32 [n, dim], unit rows; encoded: how many of them were not in the cache."""

    rows: Floats
    encoded: int


@dataclass(frozen=True)
class _Read:
    hash: str
    photo: Photo | None = None
    prepared: Array | None = None
    wrong: str | None = None


class EmbeddingCache:
    """The cached embeddings of one encoder; what is missing is encoded and added."""

    def __init__(self, index: Index, encoder: Encoder, progress: Progress) -> None:
        self._index, self._encoder, self._progress = index, encoder, progress
        self._texts = index.folder / "texts.db"

    def photos(self, photos: Sequence[CaptionedPhoto]) -> tuple[Embeddings, dict[int, str]]:
        """The embeddings of the readable photos, in order.

        The second value is the reason why a photo cannot be read, by its position in `photos`.
        """
        catalogue = self._index.catalogue
        known = catalogue.hashes()
        hashes: list[str] = []
        unreadable: dict[int, str] = {}
        batch: dict[str, _Read] = {}
        encoded = 0

        def commit() -> None:
            nonlocal encoded
            if batch:
                prepared = [read.prepared for read in batch.values() if read.prepared is not None]
                rows = self._encoder.encode_images(prepared)
                catalogue.add_photos([read.photo for read in batch.values() if read.photo], rows)
                encoded += len(batch)
                batch.clear()

        limit = default_max_megapixels(os.cpu_count() or 1)
        for i, read in enumerate(_ahead(lambda photo: self._read(photo, known, limit), photos)):
            if read.wrong is not None:
                unreadable[i] = read.wrong
                continue
            hashes.append(read.hash)
            if read.photo is not None:
                batch.setdefault(read.hash, read)
            if len(batch) == _PHOTOS:
                commit()
                known.update(hashes)
            self._progress("photos", i + 1, len(photos))
        commit()
        ids = catalogue.photo_ids(set(hashes))
        row_ids, rows = catalogue.all_search_embeddings(self._index.model.dim)
        rows = rows[np.searchsorted(row_ids, [ids[h] for h in hashes])]
        return Embeddings(rows, encoded), unreadable

    def _read(self, photo: CaptionedPhoto, known: set[str], limit: float) -> _Read:
        """Read one photo (in a thread): its hash, and its pixels unless it is known."""
        try:
            with reading(), photo.open() as file:
                digest = content_hash(file)
                if digest in known:
                    return _Read(digest)
                size, decode = self._encoder.image_size, jpeg_decoder(self._encoder)
                pixels, facts = open_photo(file, photo.path, limit, size, decode)
            return _Read(digest, Photo(hash=digest, **facts), self._encoder.prepare(pixels))
        except FileNotFoundError:
            return _Read("", wrong="it is gone")
        except PhotoError as error:
            return _Read("", wrong=str(error))

    def texts(self, texts: Sequence[str]) -> Embeddings:
        """The embeddings of texts, in order."""
        keys = {text: blake3(text.encode()).digest() for text in texts}
        with _database(self._texts) as db:
            found = self._find(db, list(keys.values()))
            missing = [text for text, key in keys.items() if key not in found]
            for start in range(0, len(missing), _TEXTS):
                batch = missing[start : start + _TEXTS]
                rows = self._encoder.encode_texts(batch).astype("<f4")
                found.update((keys[text], row) for text, row in zip(batch, rows, strict=True))
                with db:
                    db.executemany(
                        "INSERT OR REPLACE INTO texts (hash, vector) VALUES (?, ?)",
                        [(keys[t], row.tobytes()) for t, row in zip(batch, rows, strict=True)],
                    )
                self._progress("captions", start + len(batch), len(missing))
        rows = np.stack([found[keys[text]] for text in texts])
        return Embeddings(rows.astype(np.float32), len(missing))

    def _find(self, db: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, Floats]:
        """The stored rows, float32 [dim], by key; damaged ones count as missing."""
        found = {}
        for start in range(0, len(keys), _SQL_VARIABLES):
            chunk = keys[start : start + _SQL_VARIABLES]
            marks = ",".join("?" * len(chunk))
            query = f"SELECT hash, vector FROM texts WHERE hash IN ({marks})"  # noqa: S608
            for key, vector in db.execute(query, chunk):
                row = np.frombuffer(vector, "<f4")
                if row.shape == (self._encoder.dim,) and np.isfinite(row).all():
                    found[key] = row
        return found


def drop_unreadable(
    captioned: CaptionedSet,
    unreadable: Mapping[int, str],
    skip_bad: bool,
    log: Callable[[str], None],
) -> CaptionedSet:
    """The set without the photos that cannot be read.

    unreadable: the second value of `EmbeddingCache.photos`. Raises DataSetError unless `skip_bad`,
    or if no photo is left.
    """
    if not unreadable:
        return captioned
    position, reason = next(iter(unreadable.items()))
    first = f"{captioned.photos[position].name}: {reason}"
    if not skip_bad or len(unreadable) == len(captioned.photos):
        raise DataSetError(
            f"{len(unreadable)} of the {len(captioned.photos):,} photos of {captioned.name} cannot "
            f"be read, the first {first}. Repair them, or add --skip-bad to continue without them."
        )
    log(f"Left out {len(unreadable)} photos that cannot be read, the first {first}.")
    readable = tuple(photo for i, photo in enumerate(captioned.photos) if i not in unreadable)
    return replace(captioned, photos=readable)


@contextmanager
def open_embedding_cache(
    encoder: Encoder, progress: Progress, rebuild: bool = False
) -> Iterator[EmbeddingCache]:
    """Open the cache for an encoder's weights. rebuild: delete its contents first.

    Raises IndexBusyError while another benchmark or training uses it.
    """
    import platformdirs

    # Another version may decode photos differently.
    name = f"{encoder.fingerprint}-{__version__}"
    folder = platformdirs.user_cache_path("crossmodal-retrieval") / "benchmarks" / name
    if rebuild and is_index(folder):
        delete(folder)
        (folder / "texts.db").unlink(missing_ok=True)
    with lock(folder):
        if not is_index(folder):
            model = IndexModel(encoder.name, encoder.fingerprint, encoder.dim, MEAN)
            Index.create(folder, model).close()
        with Index.open(folder, writable=True) as index:
            yield EmbeddingCache(index, encoder, progress)


@contextmanager
def _database(file: Path) -> Iterator[sqlite3.Connection]:
    try:
        db = sqlite3.connect(file)
        try:
            db.execute("CREATE TABLE IF NOT EXISTS texts (hash BLOB PRIMARY KEY, vector BLOB)")
            yield db
        finally:
            db.close()
    except sqlite3.Error as error:
        raise StorageError(
            f"The cached embeddings {file} cannot be used ({error}). Free some disk space, or "
            "delete that file, and run the same command again."
        ) from error


def _ahead(
    read: Callable[[CaptionedPhoto], _Read], photos: Sequence[CaptionedPhoto]
) -> Iterator[_Read]:
    """Photos in order, read by threads in a bounded window ahead."""
    window: deque[Future[_Read]] = deque()
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        try:
            for photo in photos:
                window.append(pool.submit(read, photo))
                if len(window) > 2 * _PHOTOS:
                    yield window.popleft().result()
            while window:
                yield window.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
