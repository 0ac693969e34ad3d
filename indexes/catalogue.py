"""The catalogue: what is known of every photo and file, in one SQLite database (WAL).

It is the source of truth; all else in an index can be made again from it. A photo is its content
(its hash), a file is a place where that content was found. Only SQL lives here: no paths are
opened, no vectors compared.
"""

import os
import secrets
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self, cast

import numpy as np

from indexes.arrays import Floats, Ints
from indexes.caption_embeddings import Said, matrix
from indexes.database import FORMAT_VERSION, chunks, guarded
from indexes.fulltext import Words, stored


@dataclass(frozen=True)
class IndexModel:
    """How every embedding of an index was made; a query has to be made the same way.

    name: of the model, as `--model` takes it; fingerprint: a hash of its weights; dim: the length
    of an embedding; fusion: the name of the weights that fuse photos with their captions.
    """

    name: str
    fingerprint: str
    dim: int
    fusion: str


@dataclass(frozen=True)
class Photo:
    """What is known of one photo's content. Sizes in pixels, `taken` as local ISO 8601 time."""

    hash: str
    width: int
    height: int
    format: str
    taken: str | None = None
    camera: str | None = None
    latitude: float | None = None
    longitude: float | None = None


@dataclass(frozen=True)
class File:
    """One file as last seen: a photo (`photo_id`) or the `reason` why it is none."""

    path: str
    bytes: int
    mtime_ns: int
    photo_id: int | None = None
    reason: str | None = None
    present: bool = True


@dataclass(frozen=True)
class Filter:
    """Which photos may be found. Folders are (root id, path prefix, '' for the whole root)."""

    folders: tuple[tuple[int, str], ...] = ()
    after: str | None = None
    before: str | None = None


def _loaded(path: str | bytes) -> str:
    """The inverse of `stored`, refusing what would leave the indexed folder."""
    name = os.fsdecode(path)
    if name.startswith("/") or ".." in name.split("/") or "\0" in name:
        raise sqlite3.DatabaseError("a path leaves the indexed folder")
    return name


def _file(
    path: str | bytes, size: int, mtime_ns: int, photo: int | None, why: str | None, present: int
) -> File:
    return File(_loaded(path), size, mtime_ns, photo, why, bool(present))


class Catalogue(Words, Said):
    """One open catalogue. Use as a context manager, or call `close`."""

    @classmethod
    def create(cls, folder: Path, model: IndexModel) -> Self:
        """Make an empty catalogue in `folder`, which has to exist."""
        catalogue = cls._new(folder)
        catalogue._create_tables(model)
        catalogue._use_wal()
        return catalogue

    @classmethod
    def open(cls, folder: Path, writable: bool = False) -> Self:
        """Open the catalogue in `folder`; if writable, one of an older format is brought to this.

        Read-only, an older one simply has no captions, or none that are embedded. The caller holds
        the lock if writable.
        """
        catalogue = super().open(folder, writable)
        if writable and catalogue.format < FORMAT_VERSION:
            try:
                catalogue._migrate()
            except BaseException:
                catalogue.close()
                raise
        return catalogue

    @guarded
    def _migrate(self) -> None:
        """From format 1, which had no text, or 2, which had no embeddings of it. The next run of
        `retrieval index` fills the tables."""
        with self.db.atomic():
            if self.format < 2:
                self._create_text()
            self._create_said()
            self._stamp()

    @guarded
    def _create_tables(self, model: IndexModel) -> None:
        with self.db.atomic():
            self.db.table("meta").create({"key": str, "value": str}, pk="key")
            self.db.table("roots").create({"id": int, "relative": str, "absolute": str}, pk="id")
            # AUTOINCREMENT, which sqlite-utils cannot ask for: an id that was forgotten must never
            # come back, since vector files on disk may still carry it.
            self.db.execute(
                """CREATE TABLE photos (
                    id INTEGER PRIMARY KEY AUTOINCREMENT, hash TEXT NOT NULL UNIQUE,
                    width INTEGER, height INTEGER, format TEXT, taken TEXT, camera TEXT,
                    latitude REAL, longitude REAL, present INTEGER NOT NULL DEFAULT 1)"""
            )
            self.db.execute("CREATE INDEX photos_absent ON photos (id) WHERE present = 0")
            self.db.table("embeddings").create(
                {"photo_id": int, "vector": bytes},
                pk="photo_id",
                foreign_keys=[("photo_id", "photos", "id")],
            )
            self.db.table("files").create(
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
            self.db.table("files").create_index(["root_id", "path"], unique=True)
            self.db.table("files").create_index(["photo_id"])
            self._create_text()
            self._create_said()
            self._set("generation", secrets.token_hex(8))
            for key, value in (("model", model.name), ("fingerprint", model.fingerprint)):
                self._set(key, value)
            self._set("dim", str(model.dim))
            self._set("fusion", model.fusion)
            self._stamp()

    def _set(self, key: str, value: str) -> None:
        self.db.table("meta").upsert({"key": key, "value": value}, pk="key")

    def _get(self, key: str, default: str | None = None) -> str:
        row = self.conn.execute("SELECT value FROM meta WHERE key = ?", [key]).fetchone()
        if row is None and default is None:
            raise sqlite3.DatabaseError(f"its entry '{key}' is missing")
        return str(row[0]) if row else str(default)

    @guarded
    def model(self) -> IndexModel:
        """The model, weights, dimension and fusion behind the embeddings."""
        dim = self._get("dim")
        if not dim.isdigit() or not 0 < int(dim) <= 65_536:
            raise sqlite3.DatabaseError("its dimension makes no sense")
        return IndexModel(
            self._get("model"), self._get("fingerprint"), int(dim), self._get("fusion")
        )

    @guarded
    def setting(self, key: str, default: str) -> str:
        """A free setting that travels with the index, such as what to exclude."""
        return self._get(f"setting:{key}", default)

    @guarded
    def set_setting(self, key: str, value: str) -> None:
        with self.transaction():
            self._set(f"setting:{key}", value)

    @guarded
    def generation(self) -> str:
        """A token that changes whenever embeddings were removed or replaced, not when added."""
        token = self._get("generation")
        if not token.isalnum():
            raise sqlite3.DatabaseError("its generation makes no sense")
        return token

    @guarded
    def version(self) -> int:
        """A number that changes whenever another connection has committed something."""
        return int(self.conn.execute("PRAGMA data_version").fetchone()[0])

    # Roots -------------------------------------------------------------------------------------

    @guarded
    def roots(self) -> list[tuple[int, str, str]]:
        """(id, path relative to the index, absolute path) of every indexed folder."""
        rows = self.conn.execute("SELECT id, relative, absolute FROM roots ORDER BY id").fetchall()
        return [
            (int(i), os.fsdecode(relative), os.fsdecode(absolute)) for i, relative, absolute in rows
        ]

    @guarded
    def put_root(self, relative: str, absolute: str, root_id: int | None = None) -> int:
        """Add an indexed folder, or note where a known one is now; returns its id."""
        row = {"relative": stored(relative), "absolute": stored(absolute)}
        with self.transaction():
            if root_id is None:
                return cast(int, self.db.table("roots").insert(row).last_pk)
            self.db.table("roots").update(root_id, row)
            return root_id

    @guarded
    def forget_root(self, root_id: int) -> None:
        """Drop an indexed folder that has no files any more."""
        with self.transaction():
            self.db.execute("DELETE FROM captions WHERE root_id = ?", [root_id])
            self.db.execute("DELETE FROM roots WHERE id = ?", [root_id])

    @guarded
    def absorb_root(self, inner: int, outer: int, prefix: str) -> None:
        """Make the files of root `inner` files of `outer`, found there under `prefix`."""
        with self.transaction():
            rows = self.conn.execute(
                "SELECT id, path FROM files WHERE root_id = ?", [inner]
            ).fetchall()
            self.conn.executemany(
                "UPDATE OR REPLACE files SET root_id = ?, path = ? WHERE id = ?",
                [(outer, stored(f"{prefix}/{_loaded(path)}"), i) for i, path in rows],
            )
            self.absorb_captions(inner, outer, prefix)
            self.db.execute("DELETE FROM roots WHERE id = ?", [inner])

    # Files and photos --------------------------------------------------------------------------

    @guarded
    def files(self, root_id: int, under: str = "") -> dict[str, File]:
        """Every file known in a root (below `under`, if given) by its path in it."""
        where, arguments = _below(root_id, under)
        rows = self.conn.execute(
            f"SELECT path, bytes, mtime_ns, photo_id, reason, present FROM files f WHERE {where}",
            arguments,
        ).fetchall()
        found = (_file(*row) for row in rows)
        return {file.path: file for file in found}

    @guarded
    def photo_ids(self, hashes: Iterable[str]) -> dict[str, int]:
        """The ids of those of the hashes that have an embedding."""
        found: dict[str, int] = {}
        for part in chunks(list(hashes)):
            marks = ",".join("?" * len(part))
            found.update(
                self.conn.execute(
                    "SELECT p.hash, p.id FROM photos p JOIN embeddings e ON e.photo_id = p.id "
                    f"WHERE p.hash IN ({marks})",
                    part,
                ).fetchall()
            )
        return found

    @guarded
    def hashes(self) -> set[str]:
        """The hashes of all photos, those that are gone from disk included."""
        return {h for (h,) in self.conn.execute("SELECT hash FROM photos").fetchall()}

    @guarded
    def add_photos(self, photos: Sequence[Photo], rows: Floats) -> list[int]:
        """Store photos with their embeddings, float32 [n, dim]; returns their ids."""
        ids = []
        with self.transaction():
            for photo, row in zip(photos, rows, strict=True):
                photo_id = cast(int, self.db.table("photos").insert(asdict(photo)).last_pk)
                self.db.execute(
                    "INSERT INTO embeddings (photo_id, vector) VALUES (?, ?)",
                    [photo_id, row.astype("<f4").tobytes()],
                )
                ids.append(photo_id)
        return ids

    @guarded
    def put_files(self, root_id: int, files: Iterable[File]) -> None:
        """Insert or replace what is known of these files."""
        with self.transaction():
            self.conn.executemany(
                "INSERT INTO files (root_id, path, bytes, mtime_ns, photo_id, reason, present) "
                "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (root_id, path) DO UPDATE SET "
                "bytes = excluded.bytes, mtime_ns = excluded.mtime_ns, "
                "photo_id = excluded.photo_id, reason = excluded.reason, "
                "present = excluded.present",
                [
                    (root_id, stored(f.path), f.bytes, f.mtime_ns, f.photo_id, f.reason, f.present)
                    for f in files
                ],
            )

    @guarded
    def mark_gone(self, root_id: int, paths: Iterable[str]) -> None:
        """These files are no longer on disk. What is known of their photos stays."""
        with self.transaction():
            self.conn.executemany(
                "UPDATE files SET present = 0 WHERE root_id = ? AND path = ?",
                [(root_id, stored(path)) for path in paths],
            )

    @guarded
    def mark_present(self, photo_ids: Sequence[int]) -> None:
        """Bring `photos.present` of these photos in line with their files."""
        with self.transaction():
            self.conn.executemany(
                "UPDATE photos SET present = EXISTS "
                "(SELECT 1 FROM files f WHERE f.photo_id = photos.id AND f.present) WHERE id = ?",
                [(photo_id,) for photo_id in photo_ids],
            )

    @guarded
    def update_presence(self) -> None:
        """Bring `photos.present` of all photos in line with the files, and drop leftovers.

        A photo is present while one of its files is. A file that is gone but whose photo is still
        present elsewhere was moved: its row says nothing any more. So does the row of a gone file
        that never was a photo. What full-text search finds follows from both.
        """
        with self.transaction():
            self.db.execute(
                "UPDATE photos SET present = NOT present WHERE present != EXISTS "
                "(SELECT 1 FROM files f WHERE f.photo_id = photos.id AND f.present)"
            )
            self.db.execute(
                "DELETE FROM files WHERE NOT present AND (photo_id IS NULL OR photo_id IN "
                "(SELECT id FROM photos WHERE present))"
            )
            self.update_full_text()

    @guarded
    def forget_files(self, root_id: int, under: str) -> int:
        """Drop the files at or below a path, and photos that are then without a file."""
        where, arguments = _below(root_id, under)
        with self.transaction():
            gone = self.db.execute(f"DELETE FROM files AS f WHERE {where}", arguments).rowcount
            self._forget("id NOT IN (SELECT photo_id FROM files WHERE photo_id IS NOT NULL)")
        return int(gone)

    @guarded
    def prune(self) -> int:
        """Forget photos that are gone from disk, for good, once settled; returns how many."""
        with self.transaction():
            return self._forget("NOT present")

    def _forget(self, which: str) -> int:
        chosen = f"(SELECT id FROM photos WHERE {which})"
        for table in ("said", "fused", "embeddings"):
            self.db.execute(f"DELETE FROM {table} WHERE photo_id IN {chosen}")
        self.db.execute(f"DELETE FROM files WHERE photo_id IN {chosen}")
        count = self.db.execute(f"DELETE FROM photos WHERE {which}").rowcount
        if count:
            self._renew()
        return int(count)

    # What a search reads -----------------------------------------------------------------------

    @guarded
    def all_search_embeddings(self, dim: int, after: int = 0) -> tuple[Ints, Floats]:
        """What is searched, of photos with an id above `after`: int64 [n], float32 [n, dim], by id.

        Fused with captions where there are some.
        """
        cursor = self.conn.execute(
            f"SELECT photo_id, vector FROM {self._searched()} WHERE photo_id > ? ORDER BY photo_id",
            [after],
        )
        ids, parts = [np.empty(0, np.int64)], [np.empty((0, dim), np.float32)]
        while rows := cursor.fetchmany(10_000):  # in pieces: all rows twice would not fit
            ids.append(np.array([i for i, _ in rows], np.int64))
            parts.append(matrix([v for _, v in rows], dim))
        return np.concatenate(ids), np.concatenate(parts)

    @guarded
    def image_embedding(self, photo_id: int, dim: int) -> Floats:
        """The embedding of what is seen in one photo, float32 [dim]."""
        row = self.conn.execute(
            "SELECT vector FROM embeddings WHERE photo_id = ?", [photo_id]
        ).fetchall()
        if not row:
            raise sqlite3.DatabaseError("an embedding is missing")
        result: Floats = matrix([row[0][0]], dim)[0]
        return result

    @guarded
    def search_embeddings(self, ids: Sequence[int], dim: int) -> Floats:
        """What is searched of these photos, float32 [n, dim], as they are ordered in `ids`."""
        return self._rows(self._searched(), ids, dim)

    @guarded
    def image_embeddings(self, ids: Sequence[int], dim: int) -> Floats:
        """The embeddings of what is seen in these photos, float32 [n, dim], in their order."""
        return self._rows("embeddings", ids, dim)

    def _rows(self, table: str, ids: Sequence[int], dim: int) -> Floats:
        found: dict[int, bytes] = {}
        for part in chunks(list(ids)):
            marks = ",".join("?" * len(part))
            query = f"SELECT photo_id, vector FROM {table} WHERE photo_id IN ({marks})"
            found.update(self.conn.execute(query, part).fetchall())
        if any(i not in found for i in ids):
            raise sqlite3.DatabaseError("an embedding is missing")
        return matrix([found[i] for i in ids], dim)

    @guarded
    def set_fusion(self, name: str) -> None:
        """Note by what the photos are fused with their captions."""
        with self.transaction():
            self._set("fusion", name)

    @guarded
    def absent(self) -> Ints:
        """The ids of the photos that are gone from disk, int64 [n]; quick where they are few."""
        rows = self.conn.execute("SELECT id FROM photos WHERE present = 0").fetchall()
        return np.array([i for (i,) in rows], np.int64)

    @guarded
    def allowed(self, chosen: Filter) -> Ints:
        """The ids of the photos that fit a filter and are there, int64 [n]."""
        conditions, arguments = ["f.present", "f.photo_id IS NOT NULL"], []
        if chosen.folders:
            below = [_below(*folder) for folder in chosen.folders]
            conditions.append("(" + " OR ".join(f"({where})" for where, _ in below) + ")")
            arguments += [value for _, values in below for value in values]
        # A photo that does not say when it was taken counts by its file's time.
        taken = (
            "coalesce(p.taken, strftime('%Y-%m-%dT%H:%M:%S', f.mtime_ns / 1000000000, "
            "'unixepoch', 'localtime'))"
        )
        if chosen.after:
            conditions.append(f"{taken} >= ?")
            arguments.append(chosen.after)
        if chosen.before:
            conditions.append(f"{taken} < ?")
            arguments.append(chosen.before)
        rows = self.conn.execute(
            "SELECT DISTINCT f.photo_id FROM files f JOIN photos p ON p.id = f.photo_id WHERE "
            + " AND ".join(conditions),
            arguments,
        ).fetchall()
        return np.array([i for (i,) in rows], np.int64)

    @guarded
    def photos(self, ids: Sequence[int]) -> dict[int, tuple[Photo, list[tuple[int, str]]]]:
        """Photos by id, each with the places (root id, path) where it is now."""
        found: dict[int, tuple[Photo, list[tuple[int, str]]]] = {}
        for part in chunks([int(i) for i in ids]):
            marks = ",".join("?" * len(part))
            for i, *values in self.conn.execute(
                "SELECT id, hash, width, height, format, taken, camera, latitude, longitude "
                f"FROM photos WHERE id IN ({marks})",
                part,
            ).fetchall():
                found[i] = (Photo(*values), [])
            for i, root_id, path in self.conn.execute(
                "SELECT photo_id, root_id, path FROM files WHERE present AND "
                f"photo_id IN ({marks}) ORDER BY root_id, path",
                part,
            ).fetchall():
                found[i][1].append((root_id, _loaded(path)))
        return found

    @guarded
    def file(self, root_id: int, path: str) -> File | None:
        """What is known of one file."""
        row = self.conn.execute(
            "SELECT path, bytes, mtime_ns, photo_id, reason, present FROM files "
            "WHERE root_id = ? AND path = ?",
            [root_id, stored(path)],
        ).fetchone()
        return _file(*row) if row else None

    @guarded
    def knows(self, root_id: int, under: str) -> bool:
        """Whether any file at or below a path was seen, gone ones included."""
        where, arguments = _below(root_id, under)
        row = self.conn.execute(
            f"SELECT 1 FROM files f WHERE {where} LIMIT 1", arguments
        ).fetchone()
        return row is not None

    @guarded
    def counts(self) -> dict[str, int]:
        """How many photos are present and absent, and files are photos and skipped."""
        one = self.conn.execute(
            "SELECT (SELECT count(*) FROM photos WHERE present), "
            "(SELECT count(*) FROM photos WHERE NOT present), "
            "(SELECT count(*) FROM files WHERE present AND photo_id IS NOT NULL), "
            "(SELECT count(*) FROM files WHERE present AND reason IS NOT NULL)"
        ).fetchone()
        return dict(zip(("photos", "missing", "files", "skipped"), one, strict=True))

    @guarded
    def skipped(self) -> list[tuple[int, str, str]]:
        """(root id, path, reason) of every file that could not be used."""
        rows = self.conn.execute(
            "SELECT root_id, path, reason FROM files WHERE present AND reason IS NOT NULL "
            "ORDER BY root_id, path"
        ).fetchall()
        return [(root_id, _loaded(path), str(reason)) for root_id, path, reason in rows]


def _below(root_id: int, under: str) -> tuple[str, list[Any]]:
    """An SQL condition on `files f`: in this root, at or below the path `under`."""
    if not under:
        return "f.root_id = ?", [root_id]
    exact, first, last = (
        stored(under),
        stored(f"{under}/"),
        stored(f"{under}0"),
    )  # '0' follows '/'
    condition = "f.root_id = ? AND (f.path = ? OR (f.path >= ? AND f.path < ?)"
    arguments: list[Any] = [root_id, exact, first, last]
    if isinstance(first, str):
        # Names that are not UTF-8 are stored as bytes, which SQLite sorts after all text.
        condition += " OR (f.path >= ? AND f.path < ?)"
        arguments += [os.fsencode(f"{under}/"), os.fsencode(f"{under}0")]
    return condition + ")", arguments
