"""Embeddings of captioned photos, cached so that a second benchmark or training takes seconds.

The user's cache folder has an index for each model's weights, in which photos are known by their
content, as in any index, and a database of captions, known by their text. The folder can be deleted
at any time. It is not searched.
"""

import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from blake3 import blake3

from indexes.arrays import Array, Floats
from indexes.catalogue import IndexModel
from indexes.delete import delete
from indexes.errors import StorageError
from indexes.index import Index
from indexes.locate import is_index
from indexes.lock import lock
from indexes.photos import Photo
from retrieval import __version__
from retrieval.datasets.captioned import CaptionedPhoto, CaptionedSet
from retrieval.encoders.base import Encoder
from retrieval.encoders.nvjpeg import jpeg_decoder
from retrieval.errors import DataSetError, PhotoError
from retrieval.fusion.attention import MEAN
from retrieval.photos.decode import default_max_megapixels, open_photo
from retrieval.photos.files import content_hash, reading
from retrieval.photos.look_ahead import look_ahead

Progress = Callable[[str, int, int], None]

_PHOTO_BATCH, _TEXT_BATCH = 32, 256
_SQL_VARIABLES = 30_000


@dataclass(frozen=True)
class Embeddings:
    """Embeddings, float32 [n, dim], unit rows; encoded: how many were encoded in this run."""

    rows: Floats
    encoded: int


@dataclass(frozen=True)
class _Read:
    """A photo file that was read: new (`photo`, `prepared`), known by its hash, or bad."""

    hash: str
    photo: Photo | None = None
    prepared: Array | None = None
    reason: str | None = None


class EmbeddingCache:
    """The cached embeddings of one encoder, open for reading and adding."""

    def __init__(self, index: Index, encoder: Encoder, progress: Progress) -> None:
        self._index, self._encoder, self._progress = index, encoder, progress
        self._texts = index.folder / "texts.db"

    def photos(self, photos: Sequence[CaptionedPhoto]) -> tuple[Embeddings, dict[int, str]]:
        """The embeddings of the photos that can be used, in order.

        The second value has the reasons against the others, by their positions.
        """
        catalogue = self._index.catalogue
        known = catalogue.photos.hashes()
        hashes: list[str] = []
        reasons: dict[int, str] = {}
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

        workers = os.cpu_count() or 1
        limit = default_max_megapixels(workers)
        reads = look_ahead(
            lambda photo: self._read(photo, known, limit), photos, workers, 2 * _PHOTO_BATCH
        )
        with closing(reads):
            for i, read in enumerate(reads):
                if read.reason is not None:
                    reasons[i] = read.reason
                    continue
                hashes.append(read.hash)
                if read.photo is not None:
                    batch.setdefault(read.hash, read)
                if len(batch) == _PHOTO_BATCH:
                    commit()
                    known.update(hashes)
                self._progress("photos", i + 1, len(photos))
        commit()
        ids = catalogue.photos.ids(set(hashes))
        row_ids, rows = catalogue.embeddings.all_searchable(self._index.model.dim)
        return Embeddings(
            rows[np.searchsorted(row_ids, [ids[h] for h in hashes])], encoded
        ), reasons

    def _read(self, photo: CaptionedPhoto, known: set[str], limit: float) -> _Read:
        """Read one photo (in a thread), and decode it unless it is known."""
        try:
            with reading(), photo.open() as file:
                digest = content_hash(file)
                if digest in known:
                    return _Read(digest)
                size, decode = self._encoder.image_size, jpeg_decoder(self._encoder)
                pixels, facts = open_photo(file, photo.path, limit, size, decode)
            return _Read(digest, Photo(hash=digest, **asdict(facts)), self._encoder.prepare(pixels))
        except FileNotFoundError:
            return _Read("", reason="it is gone")
        except PhotoError as error:
            return _Read("", reason=str(error))

    def texts(self, texts: Sequence[str]) -> Embeddings:
        """The embeddings of texts, in order."""
        keys = {text: blake3(text.encode()).digest() for text in texts}
        with _database(self._texts) as db:
            found = self._find(db, list(keys.values()))
            missing = [text for text, key in keys.items() if key not in found]
            for start in range(0, len(missing), _TEXT_BATCH):
                part = missing[start : start + _TEXT_BATCH]
                rows = self._encoder.encode_texts(part).astype("<f4")
                found.update((keys[text], row) for text, row in zip(part, rows, strict=True))
                with db:
                    db.executemany(
                        "INSERT OR REPLACE INTO texts (hash, vector) VALUES (?, ?)",
                        [(keys[t], row.tobytes()) for t, row in zip(part, rows, strict=True)],
                    )
                self._progress("captions", start + len(part), len(missing))
        rows = np.stack([found[keys[text]] for text in texts])
        return Embeddings(rows.astype(np.float32), len(missing))

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
    captioned: CaptionedSet, reasons: Mapping[int, str], skip_bad: bool, log: Callable[[str], None]
) -> CaptionedSet:
    """The set without the photos that cannot be read.

    reasons: as `EmbeddingCache.photos` returns them. Raises DataSetError if there are any and
    `skip_bad` is False, or if no photo is left.
    """
    if not reasons:
        return captioned
    position, reason = next(iter(reasons.items()))
    first = f"{captioned.photos[position].name}: {reason}"
    if not skip_bad or len(reasons) == len(captioned.photos):
        raise DataSetError(
            f"{len(reasons)} of the {len(captioned.photos):,} photos of {captioned.name} cannot be "
            f"read, the first {first}. Repair or remove them, or add --skip-bad to leave them out."
        )
    log(f"Left out {len(reasons)} photos that cannot be read, the first {first}.")
    readable = tuple(photo for i, photo in enumerate(captioned.photos) if i not in reasons)
    return replace(captioned, photos=readable)


@contextmanager
def open_embedding_cache(
    encoder: Encoder, progress: Progress, rebuild: bool = False
) -> Iterator[EmbeddingCache]:
    """Open the cache for an encoder's weights. rebuild: empty it first.

    Raises IndexBusyError while another process uses it.
    """
    import platformdirs

    # Another version of this package may decode photos differently.
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
            f"The cached embeddings in {file} cannot be used ({error}). Free some disk space, or "
            "delete that file, and run the same command again."
        ) from error
