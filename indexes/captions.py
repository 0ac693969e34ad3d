"""The captions in the catalogue. A caption belongs to a file, and was read from a file.

A photo has the captions of all its files. Only SQL lives here.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

from indexes.database import Database, guarded
from indexes.notes import Notes
from indexes.paths import to_sql
from indexes.rows import ID, INTEGER, PATH, TEXT, Columns
from indexes.sqlite_errors import explained

IMPORTED = ""
"""The origin of captions that were imported with embeddings; no file has this path."""

_CAPTION = Columns("captions", {"path": PATH, "origin": PATH, "text": TEXT})
_OF_PHOTO = Columns("captions", {"photo_id": ID, "text": TEXT})
_STAYING = Columns("captions", {"path": PATH, "position": INTEGER, "text": TEXT, "origin": PATH})


@dataclass(frozen=True, slots=True)  # there may be millions
class Caption:
    """A caption of the photo at `path` in its root, read from the file `origin` or IMPORTED."""

    path: str
    origin: str
    text: str


@dataclass(frozen=True)
class Captions:
    """The table `captions`, since format 2."""

    database: Database

    def create_table(self) -> None:
        self.database.db.execute(
            """CREATE TABLE captions (
                root_id INTEGER NOT NULL REFERENCES roots (id), path NOT NULL,
                position INTEGER NOT NULL, origin NOT NULL, text TEXT NOT NULL,
                PRIMARY KEY (root_id, path, position)) WITHOUT ROWID"""
        )

    @guarded
    def any(self) -> bool:
        """Whether any photo has a caption, also of the user's own."""
        if not self.database.has_table("captions"):
            return False
        query = "SELECT 1 FROM captions LIMIT 1"
        if self.database.conn.execute(query).fetchone() is not None:
            return True
        return Notes(self.database).any()

    def of_root(self, root_id: int) -> list[Caption]:
        """All captions of the files in a root, by path, those of a file in their order."""
        return [caption for _, of_file in self.by_file(root_id) for caption in of_file]

    def by_file(self, root_id: int) -> Iterator[tuple[str, list[Caption]]]:
        """The captions of each file in a root that has any, by path, in their order.

        One file after the other: all of them may not fit in memory. Nothing may be written
        meanwhile.
        """
        with explained(self.database.folder):
            rows = self.database.conn.execute(
                "SELECT path, origin, text FROM captions WHERE root_id = ? ORDER BY path, position",
                [root_id],
            )
            for path, of_file in groupby(map(_CAPTION.checked, rows), itemgetter(0)):
                name = os.fsdecode(path)
                yield (
                    name,
                    [Caption(name, os.fsdecode(origin), text) for _, origin, text in of_file],
                )

    @guarded
    def of_file(self, root_id: int, path: str) -> list[Caption]:
        """The captions of one file, in their order."""
        rows = self.database.conn.execute(
            "SELECT path, origin, text FROM captions WHERE root_id = ? AND path = ? "
            "ORDER BY position",
            [root_id, to_sql(path)],
        ).fetchall()
        return [
            Caption(os.fsdecode(path), os.fsdecode(origin), text)
            for path, origin, text in map(_CAPTION.checked, rows)
        ]

    @guarded
    def of_photos(self, ids: Sequence[int] | None = None) -> dict[int, tuple[str, ...]]:
        """The different captions of each photo on disk, by photo id: of its files, then notes.

        ids: of the photos, all by default.
        """
        texts: dict[int, dict[str, None]] = {}
        query = (
            "SELECT f.photo_id, c.text FROM files f JOIN captions c "
            "ON c.root_id = f.root_id AND c.path = f.path WHERE f.present AND f.photo_id {chosen} "
            "ORDER BY f.photo_id, c.root_id, c.path, c.position"
        )
        if ids is None or isinstance(ids, range):
            some = "NOT NULL" if ids is None else f"BETWEEN {ids.start} AND {ids.stop - 1}"
            rows = self.database.conn.execute(query.format(chosen=some)).fetchall()
        else:
            rows = self.database.rows_of(query.format(chosen="IN ({marks})"), ids)
        for photo_id, text in map(_OF_PHOTO.checked, rows):
            texts.setdefault(photo_id, {})[text] = None
        for photo_id, own in Notes(self.database).texts(ids).items():
            texts.setdefault(photo_id, {}).update(dict.fromkeys(own))
        return {i: tuple(different) for i, different in texts.items()}

    @guarded
    def put(self, root_id: int, paths: Iterable[str], captions: Iterable[Caption]) -> None:
        """Replace all captions of the files `paths` in a root by `captions`."""
        count: Counter[str] = Counter()

        def row(caption: Caption) -> tuple[object, ...]:
            path, origin = to_sql(caption.path), to_sql(caption.origin)
            count[caption.path] += 1
            return (root_id, path, count[caption.path] - 1, origin, caption.text)

        with self.database.transaction():
            self.database.conn.executemany(
                "DELETE FROM captions WHERE root_id = ? AND path = ?",
                ((root_id, to_sql(path)) for path in paths),
            )
            self.database.conn.executemany(
                "INSERT INTO captions VALUES (?, ?, ?, ?, ?)", map(row, captions)
            )

    def delete_root(self, root_id: int) -> None:
        """Remove all captions of a root."""
        self.database.conn.execute("DELETE FROM captions WHERE root_id = ?", [root_id])

    def delete_leftovers(self) -> None:
        """Remove the captions of files that the catalogue does not know."""
        self.database.conn.execute(
            "DELETE FROM captions WHERE NOT EXISTS (SELECT 1 FROM files f "
            "WHERE f.root_id = captions.root_id AND f.path = captions.path)"
        )

    def move_root(self, inner: int, outer: int, prefix: str) -> None:
        """Move the captions in photos of root `inner`, and imported ones, to root `outer`.

        Those from other files are dropped: the run that merges the roots reads them again.
        """
        staying = self.database.conn.execute(
            "SELECT path, position, text, origin FROM captions "
            "WHERE root_id = ? AND (origin = path OR origin = ?)",
            [inner, IMPORTED],
        ).fetchall()
        self.delete_root(inner)
        moved = [
            (to_sql(f"{prefix}/{os.fsdecode(path)}"), at, text, origin == IMPORTED)
            for path, at, text, origin in map(_STAYING.checked, staying)
        ]
        self.database.conn.executemany(
            "INSERT OR REPLACE INTO captions VALUES (?, ?, ?, ?, ?)",
            [
                (outer, path, at, IMPORTED if imported else path, text)
                for path, at, text, imported in moved
            ],
        )
