"""The photos in the catalogue: one row for each content hash, wherever its files are.

Only SQL lives here. A photo's embeddings are in `indexes.embeddings`, its files in `indexes.files`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

from indexes.arrays import Ints
from indexes.database import Database, guarded
from indexes.paths import below, from_sql
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
"""What the columns that make a `Photo` may hold, besides `id`."""
_PHOTO = Columns("photos", COLUMNS)
_PLACE = Columns("files", {"photo_id": ID, "root_id": ID, "path": PATH})
_HASH = Columns("photos", {"id": ID, "hash": TEXT})


@dataclass(frozen=True)
class Photo:
    """The content of a photo. Sizes in pixels, `taken` as local ISO 8601 time."""

    hash: str
    width: int
    height: int
    format: str
    taken: str | None = None
    camera: str | None = None
    latitude: float | None = None
    longitude: float | None = None


@dataclass(frozen=True)
class Filter:
    """Which photos a search may find. Folders are (root id, path in it, '' for the whole root);
    a photo has to be in one of them. Times are local ISO 8601: `after` <= taken < `before`."""

    folders: tuple[tuple[int, str], ...] = ()
    after: str | None = None
    before: str | None = None


@dataclass(frozen=True)
class Photos:
    """The table `photos`."""

    database: Database

    def create_table(self) -> None:
        # AUTOINCREMENT, which sqlite-utils does not offer: the id of a forgotten photo must never
        # come back, since vector files on disk may still carry it.
        self.database.db.execute(
            """CREATE TABLE photos (
                id INTEGER PRIMARY KEY AUTOINCREMENT, hash TEXT NOT NULL UNIQUE,
                width INTEGER, height INTEGER, format TEXT, taken TEXT, camera TEXT,
                latitude REAL, longitude REAL, present INTEGER NOT NULL DEFAULT 1)"""
        )
        self.database.db.execute("CREATE INDEX photos_absent ON photos (id) WHERE present = 0")

    @guarded
    def get(self, ids: Iterable[int]) -> dict[int, tuple[Photo, list[tuple[int, str]]]]:
        """Photos by id, each with the places (root id, path) where it is now."""
        ids = [int(i) for i in ids]
        found: dict[int, tuple[Photo, list[tuple[int, str]]]] = {
            i: (Photo(*values), [])
            for i, *values in map(
                _PHOTO.checked,
                self.database.rows_of(
                    "SELECT id, hash, width, height, format, taken, camera, latitude, longitude "
                    "FROM photos WHERE id IN ({marks})",
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
            "SELECT p.id, p.hash FROM photos p JOIN embeddings e ON e.photo_id = p.id "
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
    def missing(self) -> Ints:
        """The ids of the photos that are missing from disk, int64 [n]; fast if they are few."""
        rows = self.database.conn.execute("SELECT id FROM photos WHERE present = 0").fetchall()
        return id_array(rows, "photos.id")

    @guarded
    def matching(self, filters: Filter) -> Ints:
        """The ids of the photos on disk that pass the filters, int64 [n]."""
        conditions, values = ["f.present", "f.photo_id IS NOT NULL"], list[Any]()
        if filters.folders:
            folders = [below(*folder) for folder in filters.folders]
            conditions.append("(" + " OR ".join(f"({condition})" for condition, _ in folders) + ")")
            values += [value for _, some in folders for value in some]
        # The time of the file stands in for a missing time of exposure.
        taken = (
            "coalesce(p.taken, strftime('%Y-%m-%dT%H:%M:%S', f.mtime_ns / 1000000000, "
            "'unixepoch', 'localtime'))"
        )
        if filters.after:
            conditions.append(f"{taken} >= ?")
            values.append(filters.after)
        if filters.before:
            conditions.append(f"{taken} < ?")
            values.append(filters.before)
        rows = self.database.conn.execute(
            "SELECT DISTINCT f.photo_id FROM files f JOIN photos p ON p.id = f.photo_id WHERE "
            + " AND ".join(conditions),
            values,
        ).fetchall()
        return id_array(rows, "files.photo_id")

    def insert(self, photo: Photo) -> int:
        """Add a photo; returns its id."""
        return cast(int, self.database.db.table("photos").insert(asdict(photo)).last_pk)

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
