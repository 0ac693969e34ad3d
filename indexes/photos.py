"""The photos in the catalogue: one row for each content hash, wherever its files are.

Only SQL lives here. A photo's embeddings are in `indexes.embeddings`, its files in `indexes.files`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from indexes.arrays import Ints
from indexes.database import Database, guarded
from indexes.facts import METADATA_VERSION
from indexes.paths import below, from_sql
from indexes.places import FACTS_SINCE, photos_in, photos_near
from indexes.rows import COUNT, ID, NUMBER, PATH, TEXT, Columns, id_array

_BATCH_SIZE = 10_000
COLUMNS = {
    "id": ID,
    "hash": TEXT,
    "width": COUNT,
    "height": COUNT,
    "format": TEXT,
    "taken": TEXT.optional(),
    "camera": TEXT.optional(),
    "latitude": NUMBER.optional(),
    "longitude": NUMBER.optional(),
}
"""What the columns that make a `Photo` may hold, and `id`."""
NEW_COLUMNS = {
    "taken_offset": TEXT.optional(),
    "taken_source": TEXT.optional(),
    "place_source": TEXT.optional(),
    "city": TEXT.optional(),
    "region": TEXT.optional(),
    "country": TEXT.optional(),
}
"""The same, of those since format 4. An empty city: there is none near."""
_PHOTO = Columns("photos", COLUMNS | NEW_COLUMNS)
_PLACE = Columns("files", {"photo_id": ID, "root_id": ID, "path": PATH})
_HASH = Columns("photos", {"id": ID, "hash": TEXT})
_CAPTIONED = (
    "(f.photo_id IN (SELECT o.photo_id FROM files o JOIN captions c ON c.root_id = o.root_id "
    "AND c.path = o.path WHERE o.present AND o.photo_id IS NOT NULL))"
)
_NOTED = "(p.hash IN (SELECT hash FROM notes))"
TAKEN = (
    "coalesce(CASE length(p.taken) WHEN 10 THEN p.taken || 'T00:00:00' "
    "WHEN 16 THEN p.taken || ':00' ELSE p.taken END, "
    "CASE WHEN f.bytes > 0 THEN strftime('%Y-%m-%dT%H:%M:%S', "
    "f.mtime_ns / 1000000000, 'unixepoch', 'localtime') END)"
)
"""When a photo was taken, in SQL over `files f` and `photos p`.

The time of the file, if it was ever here, stands in for a missing time of exposure."""


@dataclass(frozen=True)
class Photo:
    """The content of a photo.

    Sizes in pixels; taken: local ISO 8601 time, to the second, minute or day; taken_offset: of that
    time from UTC, such as `+02:00`; taken_source, place_source: where the time and the coordinates
    (in degrees) were found; city, region, country: the names of the place.
    """

    hash: str
    width: int
    height: int
    format: str
    taken: str | None = None
    camera: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    taken_offset: str | None = None
    taken_source: str | None = None
    place_source: str | None = None
    city: str | None = None
    region: str | None = None
    country: str | None = None

    @property
    def place(self) -> str:
        """The names of the place, the smallest first, each once; '' if they are not known."""
        return ", ".join(dict.fromkeys(n for n in (self.city, self.region, self.country) if n))


@dataclass(frozen=True)
class Filter:
    """Which photos a search may find. Folders are (root id, path in it, '' for the whole root);
    a photo has to be in one of them. Times are local ISO 8601: `after` <= taken < `before`; a photo
    of which only the day is known counts as taken at its start. near: latitude and longitude in
    degrees, and kilometres around them; place: names that a photo's city, region or country have,
    all of them, whatever their case and accents. cameras: one of them took the photo. captioned:
    whether the photo has a caption."""

    folders: tuple[tuple[int, str], ...] = ()
    after: str | None = None
    before: str | None = None
    near: tuple[float, float, float] | None = None
    place: tuple[str, ...] = ()
    cameras: tuple[str, ...] = ()
    captioned: bool | None = None


@dataclass(frozen=True)
class Photos:
    """The table `photos`. embedded: the table with the ids of those that have an embedding."""

    database: Database
    embedded: str = "embeddings"

    def create_table(self) -> None:
        # AUTOINCREMENT, which sqlite-utils does not offer: the id of a forgotten photo must never
        # come back, since vector files on disk may still carry it.
        self.database.db.execute(
            """CREATE TABLE photos (
                id INTEGER PRIMARY KEY AUTOINCREMENT, hash TEXT NOT NULL UNIQUE,
                width INTEGER, height INTEGER, format TEXT, taken TEXT, camera TEXT,
                latitude REAL, longitude REAL, present INTEGER NOT NULL DEFAULT 1)"""
        )
        self.add_columns()
        self.database.db.execute("CREATE INDEX photos_absent ON photos (id) WHERE present = 0")

    def add_columns(self) -> None:
        """Add the columns of format 4. What is in them is not known of the photos that there are.

        metadata_version: the `facts.METADATA_VERSION` that the photo's file was read with.
        """
        for name in (*NEW_COLUMNS, "metadata_version"):
            kind = "INTEGER" if name == "metadata_version" else "TEXT"
            self.database.db.execute(f"ALTER TABLE photos ADD COLUMN {name} {kind}")
        # Asked by every search whether there is any; most libraries have none.
        self.database.db.execute("CREATE INDEX photos_places ON photos (id) WHERE city != ''")

    @guarded
    def get(self, ids: Iterable[int]) -> dict[int, tuple[Photo, list[tuple[int, str]]]]:
        """Photos by id, each with the places (root id, path) where it is now."""
        ids = [int(i) for i in ids]
        found: dict[int, tuple[Photo, list[tuple[int, str]]]] = {
            i: (Photo(*values), [])
            for i, *values in map(
                _PHOTO.checked,
                self.database.rows_of(
                    f"SELECT {', '.join(self._columns())} FROM photos WHERE id IN ({{marks}})",
                    ids,
                ),
            )
        }
        places = self.database.rows_of(
            "SELECT photo_id, root_id, path FROM files WHERE present AND photo_id IN ({marks}) "
            "AND photo_id IN (SELECT id FROM photos) ORDER BY root_id, path",
            ids,
        )
        for i, root_id, path in map(_PLACE.checked, places):
            found[i][1].append((root_id, from_sql(path)))
        return found

    @guarded
    def ids(self, hashes: Iterable[str]) -> dict[str, int]:
        """The ids of those of the hashes that have an embedding."""
        rows = self.database.rows_of(
            f"SELECT p.id, p.hash FROM photos p JOIN {self.embedded} e ON e.photo_id = p.id "
            "WHERE p.hash IN ({marks})",
            hashes,
        )
        return {digest: i for i, digest in map(_HASH.checked, rows)}

    @guarded
    def id_ranges(self) -> list[range]:
        """The ids of all photos as ranges that hold up to 10,000 photos each, in order."""
        rows = self.database.conn.execute("SELECT id FROM photos ORDER BY id").fetchall()
        ids = id_array(rows, "photos.id").tolist()
        parts = (ids[start : start + _BATCH_SIZE] for start in range(0, len(ids), _BATCH_SIZE))
        return [range(part[0], part[-1] + 1) for part in parts]

    @guarded
    def hashes(self) -> set[str]:
        """The hashes of all photos, including those that are missing from disk."""
        rows = self.database.conn.execute("SELECT id, hash FROM photos").fetchall()
        return {digest for _, digest in map(_HASH.checked, rows)}

    @guarded
    def all_ids(self) -> Ints:
        """The ids of all photos, including those that are missing from disk, int64 [n]."""
        return id_array(self.database.conn.execute("SELECT id FROM photos").fetchall(), "photos.id")

    @guarded
    def missing(self) -> Ints:
        """The ids of the photos that are missing from disk, int64 [n]; fast if they are few."""
        rows = self.database.conn.execute("SELECT id FROM photos WHERE present = 0").fetchall()
        return id_array(rows, "photos.id")

    @guarded
    def matching(self, filters: Filter) -> Ints:
        """The ids of the photos on disk that pass the filters, int64 [n], one for each file."""
        conditions, values = ["f.present", "f.photo_id IS NOT NULL"], list[Any]()
        if filters.folders:
            folders = [below(*folder) for folder in filters.folders]
            conditions.append("(" + " OR ".join(f"({condition})" for condition, _ in folders) + ")")
            values += [value for _, some in folders for value in some]
        if filters.after:
            conditions.append(f"{TAKEN} >= ?")
            values.append(filters.after)
        if filters.before:
            conditions.append(f"{TAKEN} < ?")
            values.append(filters.before)
        if filters.cameras:
            conditions.append(f"p.camera IN ({','.join('?' * len(filters.cameras))})")
            values += filters.cameras
        if filters.captioned is not None:
            tables = {"captions": _CAPTIONED, "notes": _NOTED}
            known = [sql for table, sql in tables.items() if self.database.has_table(table)]
            some = f"({' OR '.join(known or ['0'])})"
            conditions.append(some if filters.captioned else f"NOT {some}")
        rows = self.database.conn.execute(
            "SELECT f.photo_id FROM files f JOIN photos p ON p.id = f.photo_id WHERE "
            + " AND ".join(conditions),
            values,
        ).fetchall()
        ids = id_array(rows, "files.photo_id")
        if filters.near is not None:
            ids = np.intersect1d(ids, photos_near(self.database, *filters.near))
        if filters.place:
            ids = np.intersect1d(ids, photos_in(self.database, filters.place))
        return ids

    def _columns(self) -> list[str]:
        new = NEW_COLUMNS if self.database.format >= FACTS_SINCE else dict[str, Any]()
        return [*COLUMNS, *(name if name in new else "NULL" for name in NEW_COLUMNS)]

    def insert(self, photos: Sequence[Photo]) -> list[int]:
        """Add photos; returns their ids, which are higher than any before."""
        conn = self.database.conn
        last = conn.execute("SELECT seq FROM sqlite_sequence WHERE name = 'photos'").fetchone()
        first = 1 + (int(last[0]) if last else 0)
        ids = list(range(first, first + len(photos)))
        names = [field.name for field in fields(Photo)]
        columns = ", ".join(("id", *names, "metadata_version"))
        conn.executemany(
            f"INSERT INTO photos ({columns}) VALUES (?, ?{', ?' * len(names)})",
            [
                (i, *(getattr(photo, name) for name in names), METADATA_VERSION)
                for i, photo in zip(ids, photos, strict=True)
            ],
        )
        return ids

    @guarded
    def next_ids(self, after: int, most: int) -> list[int]:
        """The ids of the next photos on disk that have an embedding, above `after`, in order."""
        rows = self.database.conn.execute(
            f"SELECT p.id FROM photos p JOIN {self.embedded} e ON e.photo_id = p.id "
            "WHERE p.present AND p.id > ? ORDER BY p.id LIMIT ?",
            [after, most],
        ).fetchall()
        return [int(i) for i in id_array(rows, "photos.id")]

    @guarded
    def update_present(self, ids: Sequence[int]) -> None:
        """Bring `present` of these photos in line with their files."""
        with self.database.transaction():
            self.database.conn.executemany(
                "UPDATE photos SET present = EXISTS "
                "(SELECT 1 FROM files f WHERE f.photo_id = photos.id AND f.present) WHERE id = ?",
                [(photo_id,) for photo_id in ids],
            )

    def update_all_present(self) -> None:
        """Bring `present` of all photos in line with their files."""
        self.database.conn.execute(
            "UPDATE photos SET present = NOT present WHERE present != EXISTS "
            "(SELECT 1 FROM files f WHERE f.photo_id = photos.id AND f.present)"
        )
