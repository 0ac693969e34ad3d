"""What the user wrote about photos: captions and keywords of the user's own.

They are in the catalogue alone; files are never changed. They belong to the content of a photo, so
they stay when it moves, is forgotten and comes back, or is encoded again. Searches find them after
the next run of `retrieval index`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from indexes.database import Database, guarded
from indexes.rows import ID, TEXT, Columns, RowError

Kind = Literal["caption", "keyword"]

_NOTE = Columns("notes", {"hash": TEXT, "kind": TEXT, "text": TEXT})
_OF_PHOTO = Columns("notes", {"photo_id": ID, "kind": TEXT, "text": TEXT})


@dataclass(frozen=True)
class Note:
    """A caption or a keyword."""

    kind: Kind
    text: str


@dataclass(frozen=True)
class Notes:
    """The table `notes`, which the first note creates."""

    database: Database

    @guarded
    def any(self) -> bool:
        """Whether there is any."""
        if not self.database.has_table("notes"):
            return False
        return self.database.conn.execute("SELECT 1 FROM notes LIMIT 1").fetchone() is not None

    @guarded
    def of_photos(self, ids: Sequence[int] | None = None) -> dict[int, list[Note]]:
        """The notes of each photo on disk that has any, by photo id.

        ids: of the photos, all by default.
        """
        if not self.any():
            return {}
        query = (
            "SELECT p.id, n.kind, n.text FROM photos p JOIN notes n ON n.hash = p.hash "
            "WHERE p.present AND p.id {chosen} ORDER BY p.id, n.kind, n.text"
        )
        if ids is None or isinstance(ids, range):
            some = "NOT NULL" if ids is None else f"BETWEEN {ids.start} AND {ids.stop - 1}"
            rows = self.database.conn.execute(query.format(chosen=some)).fetchall()
        else:
            rows = self.database.rows_of(query.format(chosen="IN ({marks})"), ids)
        found: dict[int, list[Note]] = {}
        for photo_id, kind, text in map(_OF_PHOTO.checked, rows):
            found.setdefault(photo_id, []).append(Note(_kind(kind), text))
        return found

    @guarded
    def texts(self, ids: Sequence[int] | None = None) -> dict[int, list[str]]:
        """As captions of each photo: the captions, and its keywords as one text."""
        found = {}
        for photo_id, notes in self.of_photos(ids).items():
            keywords = ", ".join(note.text for note in notes if note.kind == "keyword")
            captions = [note.text for note in notes if note.kind == "caption"]
            found[photo_id] = [*captions, *([keywords] if keywords else [])]
        return found

    @guarded
    def add(self, hashes: Iterable[str], note: Note) -> None:
        """Note the same about photos, by their content hashes."""
        with self.database.transaction():
            self.database.conn.execute(
                "CREATE TABLE IF NOT EXISTS notes (hash TEXT NOT NULL, kind TEXT NOT NULL, "
                "text TEXT NOT NULL, PRIMARY KEY (hash, kind, text)) WITHOUT ROWID"
            )
            self.database.conn.executemany(
                "INSERT OR IGNORE INTO notes VALUES (?, ?, ?)",
                [(digest, note.kind, note.text) for digest in hashes],
            )

    @guarded
    def remove(self, hashes: Iterable[str], note: Note) -> None:
        """Take a note back from photos, by their content hashes."""
        if not self.any():
            return
        with self.database.transaction():
            self.database.conn.executemany(
                "DELETE FROM notes WHERE hash = ? AND kind = ? AND text = ?",
                [(digest, note.kind, note.text) for digest in hashes],
            )

    @guarded
    def all(self) -> list[tuple[str, Note]]:
        """(content hash, note) of every note, also of photos that are not in the index now."""
        if not self.any():
            return []
        rows = self.database.conn.execute("SELECT hash, kind, text FROM notes").fetchall()
        return [(h, Note(_kind(kind), text)) for h, kind, text in map(_NOTE.checked, rows)]

    def put_all(self, notes: Iterable[tuple[str, Note]]) -> None:
        """Add what `all` gave, as a rebuild does."""
        with self.database.transaction():
            for digest, note in notes:
                self.add([digest], note)


def _kind(kind: str) -> Kind:
    if kind not in ("caption", "keyword"):
        raise RowError(f"notes.kind: {kind[:40]!r} is not caption or keyword")
    return cast(Kind, kind)
