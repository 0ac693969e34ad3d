"""Full-text search in SQLite (FTS5): captions and names of photos, found by their words.

The table is made from the rest of the catalogue and can be made again. Only SQL lives here.
"""

import sqlite3
from collections.abc import Iterable

# English endings are taken off and accents ignored, in the text and in the query alike.
CREATE = (
    "CREATE VIRTUAL TABLE words USING "
    "fts5(captions, names, tokenize='porter unicode61 remove_diacritics 2')"
)
# A caption counts in full, a name less: folders are often called after what most of it is not.
_WEIGHTS = (1.0, 0.5)


def put(db: sqlite3.Connection, rows: Iterable[tuple[int, str, str]]) -> None:
    """Insert (photo id, captions, names)."""
    db.executemany("INSERT INTO words (rowid, captions, names) VALUES (?, ?, ?)", rows)


def find(db: sqlite3.Connection, expression: str, most: int) -> list[tuple[int, float]]:
    """The `most` photos that fit an FTS5 expression best, as (id, BM25 above 0), best first."""
    rows = db.execute(
        "SELECT rowid, -bm25(words, ?, ?) AS score FROM words WHERE words MATCH ? "
        "ORDER BY score DESC, rowid LIMIT ?",
        [*_WEIGHTS, expression, most],
    ).fetchall()
    return [(int(i), float(score)) for i, score in rows]
