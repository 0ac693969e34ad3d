"""Where a photo was taken: coordinates as EXIF, XMP and export files write them, in degrees.

Names of places are not known here: see `place_names`.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

Coordinates = tuple[float, float]
"""Latitude and longitude in degrees, negative to the south and west."""
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?", re.ASCII)
_DECIMALS = 6  # a tenth of a metre
# Also Zuid, Zapad, Jih; Ouest, Oeste, Ovest, while Ost is German for east.
_SOUTH_OR_WEST = ("S", "W", "Z", "J", "OU", "OE", "OV", "Ю", "З", "南", "西")
_LATITUDE_REF, _LATITUDE, _LONGITUDE_REF, _LONGITUDE = 1, 2, 3, 4  # tags of EXIF's GPS block


def from_exif(gps: Mapping[int, Any]) -> Coordinates | None:
    """The coordinates of EXIF's GPS block; None if it has none."""
    return coordinates(
        _degrees(gps.get(_LATITUDE), gps.get(_LATITUDE_REF)),
        _degrees(gps.get(_LONGITUDE), gps.get(_LONGITUDE_REF)),
    )


def from_texts(latitude: str, longitude: str) -> Coordinates | None:
    """Coordinates as XMP has them, `48,12.5N` or `48,12,30N`, or as decimals; None if bad."""
    return coordinates(
        *(
            _degrees([float(n) for n in _NUMBER.findall(text)], text.strip(" \0\r\n\t")[-1:])
            for text in (latitude[:80], longitude[:80])
        )
    )


def coordinates(latitude: object, longitude: object) -> Coordinates | None:
    """Two numbers as coordinates; None if they are none, or 0, 0, which stands for unknown."""
    if not isinstance(latitude, int | float) or not isinstance(longitude, int | float):
        return None
    if not (abs(latitude) <= 90 and abs(longitude) <= 180):  # NaN is not, either
        return None
    place = (round(float(latitude), _DECIMALS), round(float(longitude), _DECIMALS))
    return None if place == (0, 0) else place


def _degrees(parts: Any, side: object) -> float | None:
    """Degrees, with minutes and seconds where there are, as one number with a sign."""
    if parts is None:
        return None
    if isinstance(parts, str | bytes):
        parts = _NUMBER.findall(parts.decode("latin-1") if isinstance(parts, bytes) else parts)
    values = [float(part) for part in (parts if isinstance(parts, Iterable) else [parts])]
    if not 1 <= len(values) <= 3 or not math.isfinite(values[0]):
        return None
    # What is written as 0/0 after the degrees is not known.
    rest = [value if math.isfinite(value) else 0.0 for value in values[1:]]
    size = abs(values[0]) + sum(abs(v) / unit for v, unit in zip(rest, (60, 3600), strict=False))
    negative = _is_negative(side)
    if negative is None:
        negative = math.copysign(1, values[0]) < 0
    return -size if negative else size


def _is_negative(side: object) -> bool | None:
    """Whether a reference names the south or west, in any spelling; None if it names no side."""
    if isinstance(side, bytes):
        side = side.decode("latin-1")
    text = side.strip("\0 \t\r\n").upper() if isinstance(side, str) else ""
    if text.startswith(_SOUTH_OR_WEST):
        return True
    return False if text.startswith(("N", "E", "O")) else None
