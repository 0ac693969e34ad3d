"""How embeddings are stored: float16 with checksums, and how older formats become that."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import retrieval
from indexes import embeddings
from indexes.catalogue import IndexModel
from indexes.embedding_format import checksum, embeddings_of, stored
from indexes.index import Index
from indexes.photos import Photo
from tests.conftest import Run
from tests.old_formats import as_format


def catalogue(folder: Path) -> Path:
    return folder / ".retrieval" / "catalogue.db"


def change(folder: Path, *statements: str) -> None:
    """Change an index in ways that SQLite does not notice; its cache of vectors goes."""
    with closing(sqlite3.connect(catalogue(folder))) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()
    for vectors in (folder / ".retrieval").glob("vectors-*"):
        shutil.rmtree(vectors)


def searched(folder: Path) -> np.ndarray:
    with Index.open(folder / ".retrieval") as index:
        return index.catalogue.embeddings.all_searchable(index.model.dim)[1]


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 20), dim=st.integers(1, 2000))
def test_what_is_read_is_what_was_stored_and_of_length_one(seed: int, count: int, dim: int) -> None:
    rows = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    blobs = [vector for _, vector, _ in stored("embeddings", range(count), rows)]
    read = embeddings_of(blobs, dim, 4)
    assert all(len(blob) == 2 * dim for blob in blobs)
    assert np.allclose(np.linalg.norm(read, axis=1), 1, atol=1e-6)
    assert np.abs(read - rows).max() <= 2**-11
    assert ((read * rows).sum(1) > 0.999999).all()


@settings(deadline=None, max_examples=100)
@given(seed=st.integers(0, 10_000), photo=st.integers(1, 2**48), bit=st.integers(0, 8 * 64 - 1))
def test_a_checksum_tells_bits_photos_and_tables_apart(seed: int, photo: int, bit: int) -> None:
    vector = np.random.default_rng(seed).bytes(64)
    flipped = bytearray(vector)
    flipped[bit // 8] ^= 1 << bit % 8
    known = checksum("embeddings", photo, vector)
    assert checksum("embeddings", photo, bytes(flipped)) != known
    assert checksum("embeddings", photo + 1, vector) != known
    assert checksum("fused", photo, vector) != known


SWAPPED = (
    "CREATE TEMP TABLE other AS SELECT * FROM embeddings WHERE photo_id IN (3, 4)",
    "UPDATE embeddings SET (vector, checksum) = (SELECT vector, checksum FROM other WHERE "
    "other.photo_id = 7 - embeddings.photo_id) WHERE photo_id IN (3, 4)",
)
FLIPPED = (
    "UPDATE embeddings SET vector = CAST(substr(vector, 1, 20) || "
    "CASE substr(vector, 21, 1) WHEN x'01' THEN x'02' ELSE x'01' END || substr(vector, 22) "
    "AS BLOB) WHERE photo_id = 3",
)


@pytest.mark.parametrize("statements", [SWAPPED, FLIPPED], ids=["swapped", "flipped"])
def test_vectors_that_are_not_their_photo_s_are_noticed(
    run: Run, photos: Path, statements: tuple[str, ...]
) -> None:
    change(photos, *statements)
    with Index.open(photos / ".retrieval") as index:
        dim = index.model.dim
        assert len(index.catalogue.embeddings.searchable([1, 2, 5], dim)) == 3
        for some in ([3], [1, 3]):
            with pytest.raises(retrieval.IndexDamagedError, match="photo 3 does not match"):
                index.catalogue.embeddings.searchable(some, dim)
        with pytest.raises(retrieval.IndexDamagedError, match="does not match its checksum"):
            index.catalogue.embeddings.all_searchable(dim, verified=True)
    result = run("search", "a cat", cwd=photos)
    assert result.code == 1 and "does not match its checksum" in result.messages


@pytest.mark.parametrize("number", [1, 2, 3])
def test_older_formats_are_searched_as_they_are_and_migrated_by_the_next_run(
    photos: Path, number: int
) -> None:
    (photos / "china.txt").write_text("a temple")
    retrieval.index(photos)
    before = searched(photos)
    as_format(number, photos)
    with retrieval.open(photos) as opened:
        old = [(hit.path.name, round(hit.score, 3)) for hit in opened.search("a cat")]
    report = retrieval.index(photos)
    assert report.encoded == 0
    with closing(sqlite3.connect(catalogue(photos))) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (4,)
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_schema")]
        assert not [name for name in tables if name.endswith("_4")]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
    assert np.abs(searched(photos) - before).max() < 1e-3
    with retrieval.open(photos) as opened:
        new = [(hit.path.name, round(hit.score, 3)) for hit in opened.search("a cat")]
    assert number < 3 or new == old


def test_a_migration_is_all_or_nothing(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_format(3, photos)
    before = searched(photos)
    monkeypatch.setattr(embeddings, "_BATCH_SIZE", 7)
    real = embeddings.stored
    left = 2

    def fails(*arguments: object) -> Iterator[object]:
        nonlocal left
        left -= 1
        if left < 0:
            raise sqlite3.OperationalError("database or disk is full")
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(embeddings, "stored", fails)
    with pytest.raises(retrieval.StorageError, match="disk is full"):
        retrieval.index(photos)
    with closing(sqlite3.connect(catalogue(photos))) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (3,)
    assert (searched(photos) == before).all()
    monkeypatch.setattr(embeddings, "stored", real)
    retrieval.index(photos)
    assert np.abs(searched(photos) - before).max() < 1e-6


def test_a_damaged_row_of_an_older_format_is_not_given_a_checksum(photos: Path) -> None:
    as_format(3, photos)
    change(photos, "UPDATE embeddings SET vector = zeroblob(length(vector)) WHERE photo_id = 3")
    with pytest.raises(retrieval.IndexDamagedError, match="length one"):
        retrieval.index(photos)


def test_an_empty_index_of_an_older_format_is_migrated(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    Index.create(photos / ".retrieval", IndexModel("mini", "f", 3, "x")).close()
    as_format(3, photos)
    with Index.open(photos / ".retrieval", writable=True) as index:
        assert index.catalogue.database.format == 4


def test_the_cache_of_vectors_is_used_though_it_is_larger_than_the_catalogue(
    tmp_path: Path,
) -> None:
    rows = np.random.default_rng(0).standard_normal((2000, 512)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    with Index.create(tmp_path, IndexModel("mini", "f", 512, "x")) as index:
        index.catalogue.add_photos([Photo(f"{i}", 1, 1, "JPEG") for i in range(len(rows))], rows)
        index.refresh()
        index.catalogue.database.checkpoint()
    (file,) = tmp_path.glob("vectors-*/rows.npy")
    assert file.stat().st_size > (tmp_path / "catalogue.db").stat().st_size
    before = file.stat().st_ino
    with Index.open(tmp_path) as index:
        assert index.search(rows[7], 1)[0][0] == 8
    (file,) = tmp_path.glob("vectors-*/rows.npy")
    assert file.stat().st_ino == before
