"""Full-text search (SQLite's FTS5) over the captions and file names of photos.

The table is computed from the captions and files of the catalogue and can be computed again. What
a query means is decided elsewhere: an FTS5 expression comes in.
"""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from indexes.captions import Captions
from indexes.database import FULL_TEXT, Database, guarded

# A name counts half as much as a caption: a folder is often named after something that most of
# its photos do not show.
_WEIGHTS = (1.0, 0.5)
_BATCH_SIZE = 10_000  # photos whose text is updated together
_MOST_CHARACTERS = 100_000  # of all captions of a photo that are searched


@dataclass(frozen=True)
class FullText:
    """The table `words`, since format 2; missing if SQLite was built without FTS5."""

    database: Database
    captions: Captions

    def create_table(self) -> None:
        if has_fts5(self.database.conn):
            self.database.db.execute(FULL_TEXT)

    @guarded
    def available(self) -> bool:
        """Whether the index has full-text search and this SQLite can read it."""
        return self.database.has_table("words") and has_fts5(self.database.conn)

    @guarded
    def search(self, expression: str, most: int) -> list[tuple[int, float]]:
        """The `most` best matches as (photo id, BM25 above 0), best first.

        Empty if the expression is, or if full-text search is not available.
        """
        if not expression or not self.available():
            return []
        return search(self.database.conn, expression, most)

    @guarded
    def update(self) -> None:
        """Bring the table in line with files and captions; only what differs is written."""
        conn = self.database.conn
        with self.database.transaction():
            if not has_fts5(conn):
                return
            if not self.database.has_table("words"):  # created by an SQLite without FTS5
                self.database.db.execute(FULL_TEXT)
            (last,) = conn.execute(
                "SELECT max(coalesce((SELECT max(id) FROM photos), 0), "
                "coalesce((SELECT max(rowid) FROM words), 0))"
            ).fetchone()
            for first in range(0, last + 1, _BATCH_SIZE):
                self._update_range(range(first, first + _BATCH_SIZE))

    def _update_range(self, ids: range) -> None:
        conn = self.database.conn
        right = self._texts(ids)
        stored = {
            i: (captions, names)
            for i, captions, names in conn.execute(
                "SELECT rowid, captions, names FROM words WHERE rowid >= ? AND rowid < ?",
                [ids.start, ids.stop],
            )
        }
        old = [i for i, texts in stored.items() if right.get(i) != texts]
        new = [(i, *texts) for i, texts in right.items() if stored.get(i) != texts]
        conn.executemany("DELETE FROM words WHERE rowid = ?", [(i,) for i in old])
        insert(conn, new)

    def _texts(self, ids: range) -> dict[int, tuple[str, str]]:
        """(captions, names) of the photos on disk with these ids."""
        names: dict[int, dict[str, None]] = {}
        for photo_id, path in self.database.conn.execute(
            "SELECT photo_id, path FROM files WHERE present AND photo_id >= ? AND photo_id < ? "
            "ORDER BY photo_id, root_id, path",
            [ids.start, ids.stop],
        ):
            names.setdefault(photo_id, {})[_words_of(path)] = None
        captions = self.captions.of_photos(ids)
        return {
            i: (_cut("\n".join(captions.get(i, ()))), _cut("\n".join(paths)))
            for i, paths in names.items()
        }


def has_fts5(conn: sqlite3.Connection) -> bool:
    """Whether this SQLite was built with FTS5; nearly all are."""
    query = "SELECT 1 FROM pragma_module_list WHERE name = 'fts5'"
    return conn.execute(query).fetchone() is not None


def insert(conn: sqlite3.Connection, rows: Iterable[tuple[int, str, str]]) -> None:
    """Add (photo id, captions, names) to the table."""
    conn.executemany("INSERT INTO words (rowid, captions, names) VALUES (?, ?, ?)", rows)


def search(conn: sqlite3.Connection, expression: str, most: int) -> list[tuple[int, float]]:
    """The `most` photos that match an FTS5 expression best, as (id, BM25 above 0), best first."""
    rows = conn.execute(
        "SELECT rowid, -bm25(words, ?, ?) AS score FROM words WHERE words MATCH ? "
        "ORDER BY score DESC, rowid LIMIT ?",
        [*_WEIGHTS, expression, most],
    ).fetchall()
    return [(int(i), float(score)) for i, score in rows]


def _cut(text: str) -> str:
    return text[:_MOST_CHARACTERS]


def _words_of(path: str | bytes) -> str:
    """A path without the ending of its file name."""
    text = path.decode(errors="replace") if isinstance(path, bytes) else path
    return str(PurePosixPath(text).with_suffix("")) if PurePosixPath(text).name else text
