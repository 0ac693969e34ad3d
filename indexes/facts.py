"""When and where photos were taken, as far as it can change while the photo stays the same.

Better ways to read metadata, the name of a file and what lies beside it change these columns of the
table `photos`. Only SQL lives here.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass

from indexes.database import Database, guarded
from indexes.places import FACTS_SINCE
from indexes.rows import COUNT, ID, NUMBER, TEXT, Columns

METADATA_VERSION = 1
"""How the metadata of photos is read now. Photos that were read before it rose are read again."""
_FACTS = Columns(
    "photos",
    {
        "id": ID,
        "taken": TEXT.optional(),
        "taken_offset": TEXT.optional(),
        "taken_source": TEXT.optional(),
        "latitude": NUMBER.optional(),
        "longitude": NUMBER.optional(),
        "place_source": TEXT.optional(),
    },
)
_SELECT = (
    "SELECT id, taken, taken_offset, taken_source, latitude, longitude, place_source FROM photos "
)
_ID = Columns("photos", {"id": ID})
_POINT = Columns("photos", {"id": ID, "latitude": NUMBER, "longitude": NUMBER})
_COUNT = Columns("photos", {"taken_source": TEXT, "photos": COUNT})


@dataclass(frozen=True, slots=True)
class Facts:
    """When and where a photo was taken, as `indexes.photos.Photo` has it."""

    taken: str | None = None
    taken_offset: str | None = None
    taken_source: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    place_source: str | None = None


@dataclass(frozen=True)
class FactsOfPhotos:
    """The columns of the table `photos` that `Facts` has, since format 4 all of them."""

    database: Database

    @guarded
    def outdated(self) -> set[int]:
        """The ids of the photos whose metadata was read before METADATA_VERSION rose to this."""
        rows = self.database.conn.execute(
            "SELECT id FROM photos WHERE metadata_version IS NOT ?", [METADATA_VERSION]
        ).fetchall()
        return {i for (i,) in _ID.all_checked(rows)}

    @guarded
    def get(self, ids: Iterable[int]) -> dict[int, Facts]:
        """The facts of these photos, by id."""
        rows = self.database.rows_of(f"{_SELECT}WHERE id IN ({{marks}})", ids)
        return {i: Facts(*facts) for i, *facts in _FACTS.all_checked(rows)}

    @guarded
    def open_to(self, sources: Sequence[str]) -> dict[int, Facts]:
        """The facts of the photos without a time, or whose time or place is from these sources."""
        marks = ", ".join("?" * len(sources))
        rows = self.database.conn.execute(
            f"{_SELECT}WHERE taken IS NULL OR taken_source IN ({marks}) "
            f"OR place_source IN ({marks})",
            [*sources, *sources],
        ).fetchall()
        return {i: Facts(*facts) for i, *facts in _FACTS.all_checked(rows)}

    @guarded
    def put(self, facts: Mapping[int, Facts]) -> None:
        """Replace the facts of these photos; a place that changes loses its names."""
        with self.database.transaction():
            self.database.conn.executemany(
                "UPDATE photos SET city = NULL, region = NULL, country = NULL "
                "WHERE id = ? AND (latitude IS NOT ? OR longitude IS NOT ?)",
                [(i, found.latitude, found.longitude) for i, found in facts.items()],
            )
            self.database.conn.executemany(
                "UPDATE photos SET taken = ?, taken_offset = ?, taken_source = ?, latitude = ?, "
                "longitude = ?, place_source = ? WHERE id = ?",
                [(*astuple(found), i) for i, found in facts.items()],
            )

    @guarded
    def put_read_again(self, photos: Mapping[int, tuple[int, int, str | None] | None]) -> None:
        """Record that the metadata of these photos was read just now.

        photos: by id, width, height and camera; None for a photo that stays as it is.
        """
        rows = [(*read, i) for i, read in photos.items() if read is not None]
        with self.database.transaction():
            self.database.conn.executemany(
                "UPDATE photos SET width = ?, height = ?, camera = ? WHERE id = ?", rows
            )
            self.database.conn.executemany(
                "UPDATE photos SET metadata_version = ? WHERE id = ?",
                [(METADATA_VERSION, i) for i in photos],
            )

    # Names of places ---------------------------------------------------------------------------

    @guarded
    def without_names(self) -> dict[int, tuple[float, float]]:
        """Latitude and longitude, by id, of the photos for whose place no name was looked for."""
        rows = self.database.conn.execute(
            "SELECT id, latitude, longitude FROM photos "
            "WHERE city IS NULL AND latitude IS NOT NULL AND longitude IS NOT NULL"
        ).fetchall()
        return {i: (latitude, longitude) for i, latitude, longitude in _POINT.all_checked(rows)}

    @guarded
    def put_names(self, names: Mapping[int, tuple[str, str, str]]) -> None:
        """Record city, region and country of these photos; '' where there is none."""
        with self.database.transaction():
            self.database.conn.executemany(
                "UPDATE photos SET city = ?, region = ?, country = ? WHERE id = ?",
                [(*place, i) for i, place in names.items()],
            )

    @guarded
    def sources(self) -> dict[str, int]:
        """How many photos on disk have their time from each source, the most frequent first.

        Without a time: ''. Empty for formats that do not know sources.
        """
        if self.database.format < FACTS_SINCE:
            return {}
        rows = self.database.conn.execute(
            "SELECT coalesce(taken_source, ''), count(*) AS photos FROM photos WHERE present "
            "GROUP BY taken_source ORDER BY photos DESC, taken_source"
        ).fetchall()
        return dict(_COUNT.all_checked(rows))

    @guarded
    def count_places(self) -> int:
        """How many photos on disk have coordinates."""
        query = "SELECT count(*) FROM photos WHERE present AND longitude IS NOT NULL"
        return int(self.database.conn.execute(query).fetchone()[0])
