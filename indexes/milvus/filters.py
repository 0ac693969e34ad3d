"""Filters in Milvus: the numbers that a photo has for them, and the condition of a search.

A condition lets through every photo that passes the filter, and few others: the mirror decides
about each hit. Folders, cameras and places are hashes, so that they take little room and any name
is possible.
"""

import calendar
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from indexes.catalogue import Catalogue
from indexes.milvus.collection import FOLDERS, PLACES
from indexes.paths import from_sql
from indexes.photos import Filter
from indexes.places import fold_place

_DEPTH = 24  # of folders that are told apart
_DAY = 86_400
_NOWHERE = 999.0  # degrees
_UNKNOWN = 0
_KM_PER_DEGREE = 111.0


def scalars(catalogue: Catalogue, ids: Sequence[int]) -> dict[int, dict[str, Any]]:
    """The numbers of these photos, by id."""
    rows = catalogue.database.rows_of(
        "SELECT id, taken, camera, latitude, longitude, city, region, country FROM photos "
        "WHERE id IN ({marks})",
        ids,
    )
    roots = {i: absolute for i, _, absolute in catalogue.roots.all()}
    folders: dict[int, dict[int, None]] = {}
    places = catalogue.database.rows_of(
        "SELECT photo_id, root_id, path FROM files WHERE present AND photo_id IN ({marks})", ids
    )
    for photo_id, root_id, path in places:
        of_photo = folders.setdefault(photo_id, {})
        of_photo.update(dict.fromkeys(_folders_of(roots[root_id], from_sql(path))))
    return {
        i: {
            "taken": _seconds(taken) if taken else _UNKNOWN,
            "camera": hashed("camera", camera) if camera else _UNKNOWN,
            "latitude": _NOWHERE if latitude is None or longitude is None else latitude,
            "longitude": _NOWHERE if latitude is None or longitude is None else longitude,
            "places": [hashed("place", fold_place(name)) for name in names if name][:PLACES],
            "folders": _bounded(folders.get(i, {})),
        }
        for i, taken, camera, latitude, longitude, *names in rows
    }


def condition(filters: Filter, catalogue: Catalogue) -> str:
    """What every photo that passes a filter fulfils, as Milvus takes it; '' for nothing."""
    parts = []
    roots = {i: absolute for i, _, absolute in catalogue.roots.all()}
    if filters.folders:
        wanted = [_folder(roots.get(i, ""), path) for i, path in filters.folders]
        parts.append(f"array_contains_any(folders, {[*wanted, _MANY]})")
    after, before = (_seconds(when or "") for when in (filters.after, filters.before))
    if after or before:
        # A day around: times may have other forms. The time of a file stands in for an unknown one.
        some = [f"taken >= {after - _DAY}"] if after else []
        some += [f"taken <= {before + _DAY}"] if before else []
        parts.append(f"taken == {_UNKNOWN} or ({' and '.join(some)})")
    if filters.cameras:
        parts.append(f"camera in {[hashed('camera', name) for name in filters.cameras]}")
    if filters.near is not None:
        latitude, _, km = filters.near
        reach = km / _KM_PER_DEGREE + 1e-6
        parts.append(f"latitude >= {latitude - reach} and latitude <= {latitude + reach}")
    if filters.place:
        names = [hashed("place", fold_place(name)) for name in filters.place]
        parts.append(f"array_contains_all(places, {names})")
    return " and ".join(f"({part})" for part in parts)


def hashed(kind: str, name: str) -> int:
    """A name as a number of 63 bits, never 0."""
    from blake3 import blake3

    digest = blake3(f"{kind}\0{name}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "little") >> 1 or 1


_MANY = 0
"""Stands for all folders of a photo that is in more than can be listed."""


def _folders_of(root: str, path: str) -> Iterable[int]:
    parts = path.split("/")
    for depth in range(min(len(parts), _DEPTH) + 1):
        yield _folder(root, "/".join(parts[:depth]))


def _folder(root: str, path: str) -> int:
    return hashed("folder", f"{root}\0{'/'.join(path.split('/')[:_DEPTH])}")


def _bounded(folders: Mapping[int, None]) -> list[int]:
    return list(folders) if len(folders) <= FOLDERS else [*list(folders)[: FOLDERS - 1], _MANY]


def _seconds(taken: str) -> int:
    """A local time as seconds; it is only compared with others."""
    text = taken[:19]
    for layout in ("%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d"):
        try:
            return calendar.timegm(time.strptime(text, layout)) or 1
        except ValueError:
            continue
    return _UNKNOWN
