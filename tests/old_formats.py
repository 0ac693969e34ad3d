"""Turn an index into one of an older format, as the versions of that time wrote it."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np

_EMBEDDINGS = {
    "embeddings": ("photo_id INTEGER PRIMARY KEY REFERENCES photos (id), vector BLOB", ""),
    "said": (
        "photo_id INTEGER PRIMARY KEY REFERENCES photos (id), digest BLOB NOT NULL, "
        "vector BLOB NOT NULL",
        "digest, ",
    ),
    "fused": (
        "photo_id INTEGER PRIMARY KEY REFERENCES photos (id), share REAL NOT NULL, "
        "vector BLOB NOT NULL",
        "share, ",
    ),
}

_SINCE_4 = (
    "taken_offset taken_source place_source city region country metadata_version"
).split()  # columns of photos


def as_format(number: int, folder: Path) -> None:
    """Bring the index of `folder` back to format 1, 2 or 3."""
    with closing(sqlite3.connect(folder / ".retrieval" / "catalogue.db")) as db:
        for table, (columns, more) in _EMBEDDINGS.items():
            rows = db.execute(f"SELECT photo_id, {more}vector FROM {table}").fetchall()
            db.execute(f"DROP TABLE {table}")
            if number < 3 and table != "embeddings":
                continue
            db.execute(f"CREATE TABLE {table} ({columns})")
            marks = ", ".join("?" * (3 if more else 2))
            db.executemany(
                f"INSERT INTO {table} VALUES ({marks})",
                [(*row, as_float32(vector)) for *row, vector in rows],
            )
        if number < 2:
            for table in ("captions", "words"):
                db.execute(f"DROP TABLE {table}")
        db.execute("DROP INDEX photos_places")
        for column in _SINCE_4:
            db.execute(f"ALTER TABLE photos DROP COLUMN {column}")
        db.execute("DROP TABLE changes")
        db.execute("DELETE FROM meta WHERE key IN ('last_change', 'changes_trimmed')")
        db.execute(f"PRAGMA user_version={number}")
        db.commit()
    for vectors in (folder / ".retrieval").glob("vectors-*"):
        shutil.rmtree(vectors)


def as_float32(vector: bytes) -> bytes:
    """A stored float16 vector as format 3 had it."""
    row = np.frombuffer(vector, "<f2").astype("<f4")
    return (row / np.linalg.norm(row)).astype("<f4").tobytes()
