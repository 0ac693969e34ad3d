"""The files in the catalogue: where a photo was found, or a file that is not a usable photo.

Only SQL lives here; no file is opened.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from indexes.database import Database, guarded
from indexes.paths import below, from_sql, to_sql
from indexes.rows import COUNT, ID, INTEGER, PATH, TEXT, Columns

_COLUMNS = "path, bytes, mtime_ns, photo_id, reason, present"
_FILE = Columns(
    "files",
    {
        "path": PATH,
        "bytes": COUNT,
        "mtime_ns": INTEGER,
        "photo_id": ID.optional(),
        "reason": TEXT.optional(),
        "present": INTEGER,
    },
)
_SKIPPED = Columns("files", {"path": PATH, "root_id": ID, "reason": TEXT})
_PLACE = Columns("files", {"id": ID, "path": PATH})
_OF_PHOTO = Columns("files", {"path": PATH, "photo_id": ID})


@dataclass(frozen=True, slots=True)  # there may be millions
class File:
    """One file as last seen: a photo (`photo_id`), or the `reason` why it is not one.

    path: relative to its root. present: whether the file is on disk, or `elsewhere`.
    """

    path: str
    bytes: int
    mtime_ns: int
    photo_id: int | None = None
    reason: str | None = None
    present: bool = True

    @property
    def elsewhere(self) -> bool:
        """Whether the photo was imported without its file: none that is a photo is empty."""
        return self.photo_id is not None and self.bytes == 0


@dataclass(frozen=True)
class Files:
    """The table `files`."""

    database: Database

    def create_table(self) -> None:
        files = self.database.db.table("files")
        files.create(
            {
                "id": int,
                "root_id": int,
                "path": str,
                "bytes": int,
                "mtime_ns": int,
                "photo_id": int,
                "reason": str,
                "present": int,
            },
            pk="id",
            foreign_keys=[("photo_id", "photos", "id"), ("root_id", "roots", "id")],
        )
        files.create_index(["root_id", "path"], unique=True)
        files.create_index(["photo_id"])

    def migrate(self) -> None:
        """Let the next run read again what was no photo before format 4: more is read since."""
        self.database.conn.execute("UPDATE files SET mtime_ns = 0 WHERE reason IS NOT NULL")

    @guarded
    def get(self, root_id: int, path: str) -> File | None:
        """One file; None if it was never seen."""
        row = self.database.conn.execute(
            f"SELECT {_COLUMNS} FROM files WHERE root_id = ? AND path = ?", [root_id, to_sql(path)]
        ).fetchone()
        return _file(row) if row else None

    @guarded
    def below(self, root_id: int, path: str = "") -> dict[str, File]:
        """All files in a root, at or below `path` if it is given, by their path in the root."""
        condition, values = below(root_id, path)
        rows = self.database.conn.execute(
            f"SELECT {_COLUMNS} FROM files f WHERE {condition}", values
        )  # not all at once: there may be millions
        return {file.path: file for file in map(_file, rows)}

    @guarded
    def photos_below(
        self, root_id: int, path: str = "", present_only: bool = False
    ) -> dict[str, int]:
        """The files in a root, at or below `path`, that are photos: the photo's id, by path."""
        condition, values = below(root_id, path)
        present = " AND f.present" if present_only else ""
        rows = self.database.conn.execute(
            "SELECT path, photo_id FROM files f "
            f"WHERE {condition} AND f.photo_id IS NOT NULL{present}",
            values,
        )
        return {from_sql(name): photo_id for name, photo_id in map(_OF_PHOTO.checked, rows)}

    @guarded
    def any_below(self, root_id: int, path: str) -> bool:
        """Whether any file was ever seen at or below `path`."""
        condition, values = below(root_id, path)
        query = f"SELECT 1 FROM files f WHERE {condition} LIMIT 1"
        return self.database.conn.execute(query, values).fetchone() is not None

    @guarded
    def count_elsewhere(self) -> int:
        """How many photos were imported without their files (`File.elsewhere`)."""
        query = "SELECT count(*) FROM files WHERE photo_id IS NOT NULL AND bytes = 0 AND present"
        return int(self.database.conn.execute(query).fetchone()[0])

    @guarded
    def skipped(self) -> list[tuple[int, str, str]]:
        """(root id, path, reason) of every file that could not be used."""
        rows = self.database.conn.execute(
            "SELECT path, root_id, reason FROM files WHERE present AND reason IS NOT NULL "
            "ORDER BY root_id, path"
        ).fetchall()
        return [
            (root_id, from_sql(path), reason)
            for path, root_id, reason in map(_SKIPPED.checked, rows)
        ]

    @guarded
    def put(self, root_id: int, files: Iterable[File]) -> None:
        """Insert or replace these files of a root."""
        with self.database.transaction():
            self.database.conn.executemany(
                "INSERT INTO files (root_id, path, bytes, mtime_ns, photo_id, reason, present) "
                "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (root_id, path) DO UPDATE SET "
                "bytes = excluded.bytes, mtime_ns = excluded.mtime_ns, "
                "photo_id = excluded.photo_id, reason = excluded.reason, "
                "present = excluded.present",
                [
                    (root_id, to_sql(f.path), f.bytes, f.mtime_ns, f.photo_id, f.reason, f.present)
                    for f in files
                ],
            )

    @guarded
    def mark_missing(self, root_id: int, paths: Iterable[str]) -> None:
        """Record that these files are no longer on disk."""
        with self.database.transaction():
            self.database.conn.executemany(
                "UPDATE files SET present = 0 WHERE root_id = ? AND path = ?",
                [(root_id, to_sql(path)) for path in paths],
            )

    def delete_below(self, root_id: int, path: str) -> int:
        """Remove the files at or below `path`; returns how many there were."""
        condition, values = below(root_id, path)
        query = f"DELETE FROM files AS f WHERE {condition}"
        return int(self.database.conn.execute(query, values).rowcount)

    def move_root(self, inner: int, outer: int, prefix: str) -> None:
        """Turn all files of root `inner` into files of root `outer`, below `prefix` there."""
        rows = self.database.conn.execute(
            "SELECT id, path FROM files WHERE root_id = ?", [inner]
        ).fetchall()
        self.database.conn.executemany(
            "UPDATE OR REPLACE files SET root_id = ?, path = ? WHERE id = ?",
            [
                (outer, to_sql(f"{prefix}/{from_sql(path)}"), i)
                for i, path in map(_PLACE.checked, rows)
            ],
        )


def _file(row: Sequence[Any]) -> File:
    path, size, mtime_ns, photo_id, reason, present = _FILE.checked(row)
    return File(from_sql(path), size, mtime_ns, photo_id, reason, bool(present))
