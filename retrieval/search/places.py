"""Filters by place: names or coordinates as users write them, turned into what an index knows."""

import re
from functools import lru_cache

from indexes.places import fold_place
from retrieval.errors import QueryError

_COORDINATES = re.compile(
    r"\s*(-?\d{1,3}(?:\.\d+)?)\s*°?\s*[,;\s]\s*(-?\d{1,3}(?:\.\d+)?)\s*°?\s*", re.ASCII
)

_LONGEST_CODE = 3  # letters of a country's code


@lru_cache(maxsize=64)  # a search asks twice
def point(near: str) -> tuple[float, float]:
    """Latitude and longitude, in degrees, of `48.2,16.37` or of a place; raises QueryError."""
    written = _COORDINATES.fullmatch(near)
    if written:
        latitude, longitude = float(written[1]), float(written[2])
        if abs(latitude) <= 90 and abs(longitude) <= 180:
            return latitude, longitude
        raise QueryError(
            f"{near} is no place on Earth: write the latitude (-90 to 90), then the longitude "
            "(-180 to 180), as in --near 48.2,16.37."
        )
    from retrieval.photos import place_names  # slow to read; most searches do not need them

    found = place_names.find_place(near) if place_names.available() else None
    if found is None:
        raise QueryError(
            f"No city called {near!r} is known. Write its English name, as in --near Vienna, or "
            "its coordinates, as in --near 48.2,16.37. For a region or country use --place."
        )
    return found.latitude, found.longitude


def names(place: str) -> tuple[str, ...]:
    """The names that a place has to have all of, as in `Vienna, Austria`; raises QueryError."""
    parts = [part.strip() for part in place.split(",") if fold_place(part)]
    if not parts:
        raise QueryError("The place is empty. Name one, as in --place Austria.")
    if any(len(part) <= _LONGEST_CODE for part in parts):
        from retrieval.photos.place_names import country_of

        parts = [(len(part) <= _LONGEST_CODE and country_of(part)) or part for part in parts]
    return tuple(parts)
