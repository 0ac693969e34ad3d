"""Full-text search (SQLite's FTS5) over the captions, file names and places of photos.

The table is computed from the captions and files of the catalogue and can be computed again; it
holds their words as `indexes.words` cuts and folds them. What a query means is decided elsewhere:
an FTS5 expression comes in.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from indexes.captions import Captions
from indexes.database import FULL_TEXT, Database, guarded
from indexes.errors import FullTextError
from indexes.places import words_of_places
from indexes.rows import ID, PATH, Columns
from indexes.words import stored_words

# A name counts half as much as a caption: a folder is often named after something that most of
# its photos do not show.
_WEIGHTS = (1.0, 0.5)
_BATCH_SIZE = 10_000  # photos whose text is updated together
_FEW, _MANY = 100_000, 10_000  # photos in the index, and those that are looked at
_MOST_CHARACTERS = 100_000  # of all captions of a photo that are searched


_FIRST = -(2**63)  # the lowest rowid
_NAME = Columns("files", {"path": PATH, "photo_id": ID})


@dataclass(frozen=True)
class FullText:
    """The table `words`, since format 2, and with words of any language since format 4.

    It is missing if SQLite was built without FTS5.

    A table that is damaged is computed again by `update`; until then `search` raises FullTextError.
    """

    database: Database
    captions: Captions

    def create_table(self) -> None:
        if has_fts5(self.database.conn):
            self.database.db.execute(FULL_TEXT)

    @guarded
    def available(self) -> bool:
        """Whether the index has full-text search and this SQLite can read it."""
        return self.database.has_table("words") and has_fts5(self.database.conn)

    def search(self, expression: str, most: int) -> list[tuple[int, float]]:
        """The `most` best matches as (photo id, BM25 above 0), best first.

        Empty if the expression is, or if full-text search is not available. Raises FullTextError.
        """
        if not expression or not self.available():
            return []
        with self._reading():
            return search(self.database.conn, expression, most)

    def count(self, expression: str, most: int) -> int:
        """How many photos match, but at most `most`; otherwise as `search`."""
        if not expression or not self.available():
            return 0
        query = "SELECT count(*) FROM (SELECT 1 FROM words WHERE words MATCH ? LIMIT ?)"
        with self._reading():
            return int(self.database.conn.execute(query, [expression, most]).fetchone()[0])

    def matching(self, expression: str, ids: Iterable[int]) -> set[int]:
        """Those of the photos that match; otherwise as `search`."""
        if not expression or not self.available():
            return set()
        chosen, conn = list(ids), self.database.conn
        with self._reading():
            (photos,) = conn.execute("SELECT coalesce(max(id), 0) FROM photos").fetchone()
            if photos <= _FEW and len(chosen) <= _MANY:
                # Reading all matches takes an eighth of the time of looking into each photo. (+: or
                # SQLite would look into each.)
                marks = ",".join("?" * len(chosen))
                query = f"SELECT rowid FROM words WHERE words MATCH ? AND +rowid IN ({marks})"
                return {i for (i,) in conn.execute(query, [expression, *chosen]).fetchall()}
            query = "SELECT rowid FROM words WHERE words MATCH ? AND rowid = ?"
            return {i for i in chosen if conn.execute(query, [expression, i]).fetchone()}

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """What SQLite raises while the table is read, as FullTextError."""
        try:
            yield
        except sqlite3.Error as error:
            raise FullTextError(
                f"The full-text search of the index {self.database.folder} is damaged ({error}). "
                "Run `retrieval index` once, or `retrieval check --repair`: it is computed again "
                "from captions and names."
            ) from error

    def migrate(self) -> None:
        """Compute the table again: before format 4, SQLite cut the texts into words."""
        self.update()

    @guarded
    def update(self) -> None:
        """Bring the table in line with files and captions; only what differs is written."""
        if not has_fts5(self.database.conn):
            return
        with self.database.transaction():
            if not self._is_whole():
                drop_table(self.database.conn)
                self.database.db.execute(FULL_TEXT)
            last = _FIRST
            while (ids := self._next_ids(last)) is not None:
                self._update_range(ids)
                last = ids.stop - 1

    @guarded
    def update_photos(self, ids: Iterable[int]) -> None:
        """As `update`, of some photos, for a table that is there and whole."""
        if not has_fts5(self.database.conn):
            return
        with self.database.transaction():
            for i in ids:
                self._update_range(range(i, i + 1))

    @guarded
    def is_sound(self) -> bool:
        """Whether the table can be searched and, unless photos are very many, is as it should be.

        Nothing is written.
        """
        conn = self.database.conn
        if not has_fts5(conn):
            return True
        try:
            (photos,) = conn.execute("SELECT coalesce(max(id), 0) FROM photos").fetchone()
            if photos <= _FEW:
                return self._is_whole() and not self.outdated()
            conn.execute("SELECT rowid FROM words WHERE words MATCH 'photo' LIMIT 1").fetchall()
        except sqlite3.Error:
            return False
        finally:
            conn.rollback()  # FTS5's own check is a statement that writes
        return True

    def outdated(self) -> list[int]:
        """The photos whose text differs from their captions and names. Nothing is written."""
        different: list[int] = []
        last = _FIRST
        while (ids := self._next_ids(last)) is not None:
            right, stored = self._texts(ids), self._stored(ids)
            different += sorted(
                i for i in right.keys() | stored.keys() if right.get(i) != stored.get(i)
            )
            last = ids.stop - 1
        return different

    def _is_whole(self) -> bool:
        """Whether the table is there, as it is created now, and passes FTS5's own check.

        It is missing if an SQLite without FTS5 created the index, and another one before format 4.
        """
        query = "SELECT 1 FROM sqlite_schema WHERE name = 'words' AND sql = ?"
        is_there = self.database.conn.execute(query, [FULL_TEXT]).fetchone() is not None
        return is_there and passes_own_check(self.database.conn)

    def _next_ids(self, last: int) -> range | None:
        """The ids above `last`, of at most two batches of photos; None if there are none.

        It is made from the ids that exist: one id beyond reason must not make a loop endless.
        """
        conn = self.database.conn
        in_photos, in_words = (
            [
                i
                for (i,) in conn.execute(
                    f"SELECT {column} FROM {table} WHERE {column} > ? ORDER BY {column} LIMIT ?",
                    [last, _BATCH_SIZE],
                ).fetchall()
            ]
            for table, column in (("photos", "id"), ("words", "rowid"))
        )
        if not in_photos and not in_words:
            return None
        full = [ids[-1] for ids in (in_photos, in_words) if len(ids) == _BATCH_SIZE]
        end = min(full) if full else max([*in_photos, *in_words])
        return range(min([*in_photos[:1], *in_words[:1]]), end + 1)

    def _update_range(self, ids: range) -> None:
        conn = self.database.conn
        right, stored = self._texts(ids), self._stored(ids)
        old = [i for i, texts in stored.items() if right.get(i) != texts]
        new = [(i, *texts) for i, texts in right.items() if stored.get(i) != texts]
        conn.executemany("DELETE FROM words WHERE rowid = ?", [(i,) for i in old])
        insert(conn, new)

    def _stored(self, ids: range) -> dict[int, tuple[str, str]]:
        """What the table has of these photos."""
        rows = self.database.conn.execute(
            "SELECT rowid, captions, names FROM words WHERE rowid BETWEEN ? AND ?",
            [ids.start, ids.stop - 1],
        ).fetchall()
        return {i: (captions, names) for i, captions, names in rows}

    def _texts(self, ids: range) -> dict[int, tuple[str, str]]:
        """(captions, names) of the photos on disk with these ids."""
        names: dict[int, dict[str, None]] = {}
        rows = self.database.conn.execute(
            "SELECT path, photo_id FROM files WHERE present AND photo_id BETWEEN ? AND ? "
            "ORDER BY photo_id, root_id, path",
            [ids.start, ids.stop - 1],
        ).fetchall()
        for path, photo_id in map(_NAME.checked, rows):
            names.setdefault(photo_id, {})[_words_of(path)] = None
        for photo_id, place in words_of_places(self.database, ids).items():
            names.get(photo_id, {})[place] = None
        captions = self.captions.of_photos(ids)
        return {
            i: (stored_text("\n".join(captions.get(i, ()))), stored_text("\n".join(paths)))
            for i, paths in names.items()
        }


def drop_table(conn: sqlite3.Connection) -> None:
    """Remove the table, however damaged it is, inside the transaction of the caller."""
    try:
        conn.execute("DROP TABLE IF EXISTS words")
    except sqlite3.DatabaseError:
        # FTS5 cannot open it, and SQLite drops no virtual table that it cannot open.
        conn.execute("PRAGMA writable_schema=ON")
        conn.execute("DELETE FROM sqlite_schema WHERE name = 'words'")
        conn.execute("PRAGMA writable_schema=RESET")
    for table in ("data", "idx", "content", "docsize", "config"):
        conn.execute(f"DROP TABLE IF EXISTS words_{table}")


def passes_own_check(conn: sqlite3.Connection) -> bool:
    """Whether FTS5 finds the table whole; the connection must be able to write now."""
    try:
        conn.execute("INSERT INTO words (words) VALUES ('integrity-check')")
    except sqlite3.DatabaseError:
        return False
    return True


def has_fts5(conn: sqlite3.Connection) -> bool:
    """Whether this SQLite was built with FTS5; nearly all are."""
    query = "SELECT 1 FROM pragma_module_list WHERE name = 'fts5'"
    return conn.execute(query).fetchone() is not None


def insert(conn: sqlite3.Connection, rows: Iterable[tuple[int, str, str]]) -> None:
    """Add (photo id, captions, names), both as `stored_text` returns them, to the table."""
    conn.executemany("INSERT INTO words (rowid, captions, names) VALUES (?, ?, ?)", rows)


def search(conn: sqlite3.Connection, expression: str, most: int) -> list[tuple[int, float]]:
    """The `most` photos that match an FTS5 expression best, as (id, BM25 above 0), best first."""
    rows = conn.execute(
        "SELECT rowid, -bm25(words, ?, ?) AS score FROM words WHERE words MATCH ? "
        "ORDER BY score DESC, rowid LIMIT ?",
        [*_WEIGHTS, expression, most],
    ).fetchall()
    return [(int(i), float(score)) for i, score in rows]


def stored_text(text: str) -> str:
    """The words of a text as the table stores them, with spaces between."""
    return " ".join(stored_words(text[:_MOST_CHARACTERS]))


def _words_of(path: str | bytes) -> str:
    """A path without the ending of its file name."""
    text = path.decode(errors="replace") if isinstance(path, bytes) else path
    folder, slash, name = text.rpartition("/")
    stem, _, ending = name.rpartition(".")
    return f"{folder}{slash}{stem}" if stem and ending else text
