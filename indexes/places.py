"""Where the photos in the catalogue were taken: those near a point, and names of places.

Only SQL and geometry live here. Which name a point has is found by whoever fills the columns.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from indexes.arrays import Ints
from indexes.database import Database
from indexes.rows import ID, NUMBER, TEXT, Columns

FACTS_SINCE = 4
"""The format since which photos have names of places, and sources of what is known of them."""
_POINT = Columns("photos", {"id": ID, "latitude": NUMBER, "longitude": NUMBER})
_NAMED = Columns(
    "photos",
    {"id": ID, "city": TEXT.optional(), "region": TEXT.optional(), "country": TEXT.optional()},
)
_MOST_NAMES = 32  # that a filter asks for
_EARTH = 6371.0  # km, its mean radius
_KM_PER_DEGREE = 111.0  # of latitude, at least
# Letters that Unicode does not take apart.
_PLAIN = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ı": "i"}
)


def fold_place(name: str) -> str:
    """A name of a place as names are compared: without case, accents and outer space."""
    parts = unicodedata.normalize("NFKD", name.strip().casefold())
    return "".join(c for c in parts if not unicodedata.combining(c)).translate(_PLAIN)


def photos_near(database: Database, latitude: float, longitude: float, km: float) -> Ints:
    """The ids of the photos within `km` of a point in degrees, int64 [n]; haversine."""
    reach = km / _KM_PER_DEGREE
    rows = database.conn.execute(
        "SELECT id, latitude, longitude FROM photos WHERE longitude IS NOT NULL "
        "AND latitude BETWEEN ? AND ?",
        [latitude - reach, latitude + reach],
    ).fetchall()
    ids = np.array([i for i, *_ in _POINT.all_checked(rows)], np.int64)  # too long for float64
    points = np.array([point for _, *point in rows], np.float64).reshape(-1, 2)
    there, here = np.radians(points), np.radians([latitude, longitude])
    north, east = np.sin((there - here) / 2).T ** 2
    chord = np.clip(north + np.cos(here[0]) * np.cos(there[:, 0]) * east, 0, 1)
    near: Ints = ids[2 * _EARTH * np.arcsin(np.sqrt(chord)) <= km]
    return near


def photos_in(database: Database, names: Sequence[str]) -> Ints:
    """The ids of the photos of which a city, region or country has each of the names, int64 [n]."""
    wanted = {fold_place(name) for name in names[:_MOST_NAMES]}
    matches: dict[tuple[str | None, ...], bool] = {}
    ids = []
    for photo_id, *place in _named(database):
        key = tuple(place)
        if key not in matches:
            matches[key] = wanted <= {fold_place(name) for name in key if name}
        if matches[key]:
            ids.append(photo_id)
    return np.array(ids, np.int64)


def any_place(database: Database) -> bool:
    """Whether the place of any photo has a name."""
    if database.format < FACTS_SINCE:
        return False
    query = "SELECT 1 FROM photos WHERE city != '' LIMIT 1"
    return database.conn.execute(query).fetchone() is not None


def words_of_places(database: Database, ids: range) -> dict[int, str]:
    """The names of the place of each photo with one of these ids, as one text."""
    return {i: ", ".join(filter(None, place)) for i, *place in _named(database, ids)}


def _named(database: Database, ids: range | None = None) -> Iterable[list[Any]]:
    """(photo id, city, region, country) of the photos whose place has a name."""
    if database.format < FACTS_SINCE:
        return []
    some = "" if ids is None else f" AND id BETWEEN {ids.start} AND {ids.stop - 1}"
    query = f"SELECT id, city, region, country FROM photos WHERE city != ''{some}"
    return _NAMED.all_checked(database.conn.execute(query).fetchall())
