"""What people browse photos by: folders, months, cameras, and the photos in order of date.

Reads for pages and programs that show an index as it is. Searching is the index's; nothing is
written here.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from indexes.arrays import Ints
from indexes.database import Database, guarded
from indexes.paths import from_sql
from indexes.photos import TAKEN
from indexes.places import FACTS_SINCE
from indexes.rows import COUNT, ID, PATH, TEXT, Columns, id_array

_FILE = Columns("files", {"root_id": ID, "path": PATH})
_MONTH = Columns("photos", {"taken": TEXT, "count": COUNT})
_CAMERA = Columns("photos", {"camera": TEXT, "count": COUNT})
_PLACES = Columns(
    "photos",
    {
        "id": ID,
        "city": TEXT.optional(),
        "region": TEXT.optional(),
        "country": TEXT.optional(),
        "count": COUNT,
    },
)
_DATE = Columns("photos", {"id": ID, "taken": TEXT.optional()})
_CAPTION = Columns("captions", {"photo_id": ID, "text": TEXT, "origin": PATH})
_FIRST = Columns("captions", {"photo_id": ID, "text": TEXT})
_OF_PHOTOS = (
    "FROM files f JOIN photos p ON p.id = f.photo_id WHERE f.present AND f.photo_id IS NOT NULL"
)


@dataclass(frozen=True)
class Browse:
    """Reads over all photos that are on disk."""

    database: Database

    @guarded
    def folders(self) -> dict[tuple[int, str], int]:
        """How many photo files each folder has, those in its subfolders included.

        Folders are (root id, path in it), '' for the root itself.
        """
        rows = self.database.conn.execute(
            "SELECT root_id, path FROM files WHERE present AND photo_id IS NOT NULL"
        ).fetchall()
        direct: Counter[tuple[int, str]] = Counter()
        for root_id, path in map(_FILE.checked, rows):
            direct[root_id, from_sql(path).rpartition("/")[0]] += 1
        total: Counter[tuple[int, str]] = Counter()
        for (root_id, folder), count in direct.items():
            while True:
                total[root_id, folder] += count
                if not folder:
                    break
                folder = folder.rpartition("/")[0]
        return dict(total)

    @guarded
    def months(self) -> dict[str, int]:
        """How many photos were taken in each month (`2024-05`), in order of time.

        The time of the file stands in for a missing time of exposure.
        """
        rows = self.database.conn.execute(
            f"SELECT substr({TAKEN}, 1, 7) AS month, count(DISTINCT p.id) {_OF_PHOTOS} "
            "AND month IS NOT NULL GROUP BY month ORDER BY month"
        ).fetchall()
        return {month: count for month, count in map(_MONTH.checked, rows)}

    @guarded
    def cameras(self) -> dict[str, int]:
        """How many photos each camera took, most first."""
        rows = self.database.conn.execute(
            "SELECT p.camera, count(*) AS n FROM photos p WHERE p.present AND p.camera IS NOT NULL "
            "GROUP BY p.camera ORDER BY n DESC, p.camera"
        ).fetchall()
        return {camera: count for camera, count in map(_CAMERA.checked, rows)}

    @guarded
    def places(self) -> dict[str, int]:
        """How many photos were taken in each city, region and country, most first."""
        if self.database.format < FACTS_SINCE:
            return {}
        count: Counter[str] = Counter()
        rows = self.database.conn.execute(
            "SELECT id, city, region, country, count(*) FROM photos "
            "WHERE present AND country IS NOT NULL GROUP BY city, region, country"
        ).fetchall()
        for _, *names, photos in map(_PLACES.checked, rows):
            for name in set(filter(None, names)):
                count[name] += photos
        return dict(count.most_common())

    @guarded
    def newest_first(self) -> Ints:
        """The ids of all photos on disk, int64 [n], the latest first."""
        rows = self.database.conn.execute(
            f"SELECT p.id, max({TAKEN}) AS latest {_OF_PHOTOS} GROUP BY p.id "
            "ORDER BY latest DESC, p.id DESC"
        ).fetchall()
        return id_array([(i,) for i, _ in rows], "photos.id")

    @guarded
    def dates(self, ids: Sequence[int]) -> dict[int, str]:
        """When each of these photos was taken, if that is known, by photo id: ISO 8601 times."""
        rows = self.database.rows_of(
            f"SELECT p.id, max({TAKEN}) {_OF_PHOTOS} AND p.id IN ({{marks}}) GROUP BY p.id", ids
        )
        return {i: taken for i, taken in map(_DATE.checked, rows) if taken is not None}

    @guarded
    def captions(self, ids: Sequence[int]) -> dict[int, list[tuple[str, str]]]:
        """(text, the file it was read from) of the different captions of each photo, by photo id.

        The file is a path in the indexed folder, or a path elsewhere.
        """
        if not self.database.has_table("captions"):
            return {}
        rows = self.database.rows_of(
            "SELECT f.photo_id, c.text, c.origin FROM files f JOIN captions c "
            "ON c.root_id = f.root_id AND c.path = f.path WHERE f.present "
            "AND f.photo_id IN ({marks}) ORDER BY f.photo_id, c.root_id, c.path, c.position",
            ids,
        )
        found: dict[int, dict[str, str]] = {}
        for photo_id, text, origin in map(_CAPTION.checked, rows):
            name = origin if isinstance(origin, str) else origin.decode("utf-8", "replace")
            found.setdefault(photo_id, {}).setdefault(text, name)
        return {i: list(texts.items()) for i, texts in found.items()}

    @guarded
    def first_captions(self, ids: Sequence[int]) -> dict[int, str]:
        """The first caption of each photo that has one, by photo id."""
        if not self.database.has_table("captions"):
            return {}
        rows = self.database.rows_of(
            "SELECT f.photo_id, c.text FROM files f JOIN captions c "
            "ON c.root_id = f.root_id AND c.path = f.path WHERE f.present "
            "AND f.photo_id IN ({marks}) AND c.position = 0",
            ids,
        )
        return {photo_id: text for photo_id, text in map(_FIRST.checked, rows)}
