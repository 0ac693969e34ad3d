"""Embeddings of captioned photos, kept between runs so that a second benchmark or training takes
seconds.

There is one index for each model's weights in the user's cache folder: photos are known in it by
their content, as in any index, and captions by their text in a database beside it. The folder can
be deleted at any time.
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

_PHOTOS, _TEXTS = 32, 256  # encoded at once
_SQL_VARIABLES = 30_000


@dataclass(frozen=True)
class Embedded:
    """float32 [n, dim] unit rows, and how many of them were encoded just now."""

    rows: Floats
    fresh: int


@dataclass(frozen=True)
class _Read:
    hash: str
    photo: Photo | None = None
    prepared: Array | None = None
    wrong: str | None = None


class EmbeddingCache:
    """The kept embeddings of one encoder, open for reading and adding."""

    def __init__(self, index: Index, encoder: Encoder, progress: Progress) -> None:
        self._index, self._encoder, self._progress = index, encoder, progress
        self._texts = index.folder / "texts.db"

    def photos(self, photos: Sequence[CaptionedPhoto]) -> tuple[Embedded, dict[int, str]]:
        """The embeddings of the photos that can be used, in order.

        The second value says what is wrong with the others, by their positions.
        """
        catalogue = self._index.catalogue
        known = catalogue.hashes()
        hashes: list[str] = []
        wrong: dict[int, str] = {}
        batch: dict[str, _Read] = {}
        fresh = 0

        def commit() -> None:
            nonlocal fresh
            if batch:
                prepared = [read.prepared for read in batch.values() if read.prepared is not None]
                rows = self._encoder.encode_images(prepared)
                catalogue.add_photos([read.photo for read in batch.values() if read.photo], rows)
                fresh += len(batch)
                batch.clear()

        limit = default_max_megapixels(os.cpu_count() or 1)
        for i, read in enumerate(_ahead(lambda photo: self._read(photo, known, limit), photos)):
            if read.wrong is not None:
                wrong[i] = read.wrong
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
        places, rows = catalogue.all_search_embeddings(self._index.model.dim)
        return Embedded(rows[np.searchsorted(places, [ids[h] for h in hashes])], fresh), wrong

    def _read(self, photo: CaptionedPhoto, known: set[str], limit: float) -> _Read:
        """One photo (in a thread): its hash, and prepared unless it is known."""
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

    def texts(self, texts: Sequence[str]) -> Embedded:
        """The embeddings of texts, in order."""
        keys = {text: blake3(text.encode()).digest() for text in texts}
        with _database(self._texts) as db:
            found = self._find(db, list(keys.values()))
            missing = [text for text, key in keys.items() if key not in found]
            for start in range(0, len(missing), _TEXTS):
                part = missing[start : start + _TEXTS]
                rows = self._encoder.encode_texts(part).astype("<f4")
                found.update((keys[text], row) for text, row in zip(part, rows, strict=True))
                with db:
                    db.executemany(
                        "INSERT OR REPLACE INTO texts (hash, vector) VALUES (?, ?)",
                        [(keys[t], row.tobytes()) for t, row in zip(part, rows, strict=True)],
                    )
                self._progress("captions", start + len(part), len(missing))
        rows = np.stack([found[keys[text]] for text in texts])
        return Embedded(rows.astype(np.float32), len(missing))

    def _find(self, db: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, Floats]:
        found = {}
        for start in range(0, len(keys), _SQL_VARIABLES):
            part = keys[start : start + _SQL_VARIABLES]
            marks = ",".join("?" * len(part))
            query = f"SELECT hash, vector FROM texts WHERE hash IN ({marks})"  # noqa: S608
            for key, vector in db.execute(query, part):
                row = np.frombuffer(vector, "<f4")
                if row.shape == (self._encoder.dim,) and np.isfinite(row).all():
                    found[key] = row
        return found


def drop_unreadable(
    captioned: CaptionedSet, wrong: Mapping[int, str], skip_bad: bool, log: Callable[[str], None]
) -> CaptionedSet:
    """The set without the photos that cannot be read, `wrong` as `EmbeddingCache.photos` tells it.

    Raises DataSetError unless they are to be skipped.
    """
    if not wrong:
        return captioned
    place, why = next(iter(wrong.items()))
    first = f"{captioned.photos[place].name}: {why}"
    if not skip_bad or len(wrong) == len(captioned.photos):
        raise DataSetError(
            f"{len(wrong)} of the {len(captioned.photos):,} photos of {captioned.name} cannot be "
            f"read, the first {first}. Put them right, or add --skip-bad to go on without them."
        )
    log(f"Left out {len(wrong)} photos that cannot be read, the first {first}.")
    kept = tuple(photo for i, photo in enumerate(captioned.photos) if i not in wrong)
    return replace(captioned, photos=kept)


@contextmanager
def open_embedding_cache(
    encoder: Encoder, progress: Progress, rebuild: bool = False
) -> Iterator[EmbeddingCache]:
    """Open what is kept for an encoder's weights. rebuild: forget it first.

    Raises IndexBusyError while another benchmark uses it.
    """
    import platformdirs

    # Another version may read photos in another way.
    name = f"{encoder.fingerprint}-{__version__}"
    folder = platformdirs.user_cache_path("crossmodal-retrieval") / "benchmarks" / name
    if rebuild and is_index(folder):
        delete(folder)
        (folder / "texts.db").unlink(missing_ok=True)
    with lock(folder):
        if not is_index(folder):
            made = IndexModel(encoder.name, encoder.fingerprint, encoder.dim, MEAN)
            Index.create(folder, made).close()
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
            f"The kept embeddings {file} cannot be used ({error}). Make room, or delete that file, "
            "and run the same command again."
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
