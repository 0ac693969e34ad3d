"""Captions and full-text search (SQLite's FTS5): what is said of photos, found by its words.

A caption belongs to a file, as it was found beside it; a photo has those of all places where it is.
The full-text table is made from the rest of the catalogue and can be made again. Only SQL lives
here.
"""

import os
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from indexes.database import FULL_TEXT, Database, guarded

# A caption counts in full, a name less: folders are often called after what most of it is not.
_WEIGHTS = (1.0, 0.5)
_AT_ONCE = 10_000  # photos whose text is brought up to date together
_LONGEST = 100_000  # characters of all captions of a photo that are searched


@dataclass(frozen=True)
class Caption:
    """What is said of the photo at `path` in its root; origin: the file that says so."""

    path: str
    origin: str
    text: str


class Words(Database):
    """The part of the catalogue that holds text."""

    def _create_text(self) -> None:
        """The tables of format 2."""
        self.db.execute(
            """CREATE TABLE captions (
                root_id INTEGER NOT NULL REFERENCES roots (id), path NOT NULL,
                position INTEGER NOT NULL, origin NOT NULL, text TEXT NOT NULL,
                PRIMARY KEY (root_id, path, position)) WITHOUT ROWID"""
        )
        if has_full_text(self.conn):
            self.db.execute(FULL_TEXT)

    @guarded
    def has_captions(self) -> bool:
        """Whether any photo has a caption; none has in an index of an older format."""
        if not self._has("captions"):
            return False
        return self.conn.execute("SELECT 1 FROM captions LIMIT 1").fetchone() is not None

    @guarded
    def has_full_text_table(self) -> bool:
        """Whether there is full-text search: SQLite can, and the index is of a format that does."""
        return self._has("words") and has_full_text(self.conn)

    @guarded
    def captions(self, root_id: int) -> list[Caption]:
        """All captions of files in a root, in order."""
        rows = self.conn.execute(
            "SELECT path, origin, text FROM captions WHERE root_id = ? ORDER BY path, position",
            [root_id],
        ).fetchall()
        return [Caption(os.fsdecode(p), os.fsdecode(o), str(text)) for p, o, text in rows]

    @guarded
    def put_captions(self, root_id: int, paths: Iterable[str], captions: Sequence[Caption]) -> None:
        """Make `captions` all that is said of the files `paths` in a root, in their order."""
        position: dict[str, int] = {}
        rows = []
        for caption in captions:
            position[caption.path] = place = position.get(caption.path, -1) + 1
            path, origin = stored(caption.path), stored(caption.origin)
            rows.append((root_id, path, place, origin, caption.text))
        with self.transaction():
            self.conn.executemany(
                "DELETE FROM captions WHERE root_id = ? AND path = ?",
                [(root_id, stored(path)) for path in paths],
            )
            self.conn.executemany("INSERT INTO captions VALUES (?, ?, ?, ?, ?)", rows)

    def absorb_captions(self, inner: int, outer: int, prefix: str) -> None:
        """Keep what the files of root `inner` say of themselves as they become files of `outer`.

        What other files say of them is read again by the run that does this.
        """
        own = self.conn.execute(
            "SELECT path, position, text FROM captions WHERE root_id = ? AND origin = path", [inner]
        ).fetchall()
        self.db.execute("DELETE FROM captions WHERE root_id = ?", [inner])
        moved = [(stored(f"{prefix}/{os.fsdecode(path)}"), at, text) for path, at, text in own]
        self.conn.executemany(
            "INSERT OR REPLACE INTO captions VALUES (?, ?, ?, ?, ?)",
            [(outer, path, at, path, text) for path, at, text in moved],
        )

    def _said(self, which: str, arguments: Sequence[int]) -> list[tuple[int, str]]:
        """(photo id, caption) for the present files that fit an SQL condition."""
        rows: list[tuple[int, str]] = self.conn.execute(
            "SELECT f.photo_id, c.text FROM files f JOIN captions c "
            f"ON c.root_id = f.root_id AND c.path = f.path WHERE f.present AND {which} "
            "ORDER BY f.photo_id, c.root_id, c.path, c.position",
            arguments,
        ).fetchall()
        return rows

    @guarded
    def texts(self) -> dict[int, tuple[str, ...]]:
        """What is said of each present photo, each text once, by photo id."""
        said: dict[int, dict[str, None]] = {}
        for photo_id, text in self._said("f.photo_id IS NOT NULL", ()):
            said.setdefault(photo_id, {})[text] = None
        return {i: tuple(texts) for i, texts in said.items()}

    @guarded
    def update_full_text(self) -> None:
        """Bring the full-text table in line with files and captions: only what differs is written.

        Captions of files that are not known any more are dropped.
        """
        with self.transaction():
            self.db.execute(
                "DELETE FROM captions WHERE NOT EXISTS (SELECT 1 FROM files f "
                "WHERE f.root_id = captions.root_id AND f.path = captions.path)"
            )
            if not has_full_text(self.conn):
                return
            if not self._has("words"):  # the index was made where SQLite could not
                self.db.execute(FULL_TEXT)
            (last,) = self.conn.execute(
                "SELECT max(coalesce((SELECT max(id) FROM photos), 0), "
                "coalesce((SELECT max(rowid) FROM words), 0))"
            ).fetchone()
            for first in range(0, last + 1, _AT_ONCE):
                self._settle_part(first, first + _AT_ONCE)

    def _settle_part(self, first: int, end: int) -> None:
        wanted = self._texts(first, end)
        known = {
            i: (captions, names)
            for i, captions, names in self.conn.execute(
                "SELECT rowid, captions, names FROM words WHERE rowid >= ? AND rowid < ?",
                [first, end],
            )
        }
        old = [i for i, texts in known.items() if wanted.get(i) != texts]
        new = [(i, *texts) for i, texts in wanted.items() if known.get(i) != texts]
        self.conn.executemany("DELETE FROM words WHERE rowid = ?", [(i,) for i in old])
        put(self.conn, new)

    def _texts(self, first: int, end: int) -> dict[int, tuple[str, str]]:
        """(captions, names) of the present photos with these ids."""
        names: dict[int, dict[str, None]] = {}
        for photo_id, path in self.conn.execute(
            "SELECT photo_id, path FROM files WHERE present AND photo_id >= ? AND photo_id < ? "
            "ORDER BY photo_id, root_id, path",
            [first, end],
        ):
            names.setdefault(photo_id, {})[_spoken(path)] = None
        said: dict[int, dict[str, None]] = {}
        for photo_id, text in self._said("f.photo_id >= ? AND f.photo_id < ?", [first, end]):
            said.setdefault(photo_id, {})[text] = None
        return {
            i: ("\n".join(said.get(i, ()))[:_LONGEST], "\n".join(paths)[:_LONGEST])
            for i, paths in names.items()
        }

    @guarded
    def search_text(self, expression: str, most: int) -> list[tuple[int, float]]:
        """As `find`; nothing where there is no full-text search."""
        return (
            find(self.conn, expression, most) if expression and self.has_full_text_table() else []
        )


def has_full_text(db: sqlite3.Connection) -> bool:
    """Whether this SQLite was built with FTS5; nearly all are."""
    return db.execute("SELECT 1 FROM pragma_module_list WHERE name = 'fts5'").fetchone() is not None


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


def stored(path: str) -> str | bytes:
    """Paths are TEXT, or BLOB where the bytes of the name are not UTF-8 (surrogates in Python)."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return os.fsencode(path)
    return path


def _spoken(path: str | bytes) -> str:
    """A path as words: folders and name, without the ending."""
    text = path.decode(errors="replace") if isinstance(path, bytes) else path
    return str(PurePosixPath(text).with_suffix("")) if PurePosixPath(text).name else text
