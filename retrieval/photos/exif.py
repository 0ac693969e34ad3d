"""What a photo's EXIF says: when and where it was taken, by which camera, and which side is up.

What is missing or makes no sense is None; a broken EXIF block never makes a photo unreadable.
"""

import math
from typing import Any

from PIL import (  # noqa: F401
    AvifImagePlugin,
    ExifTags,
    Image,
    ImageOps,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

# What the file says of itself ------------------------------------------------------------------


def read_facts(image: Image.Image) -> dict[str, Any]:
    """The fields of `Photo` but for the hash; what is missing or makes no sense is None."""
    width, height = image.size
    facts: dict[str, Any] = {"format": image.format or "", "taken": None, "camera": None}
    facts.update(latitude=None, longitude=None)
    try:
        exif = image.getexif()
        if exif.get(ExifTags.Base.Orientation) in (5, 6, 7, 8):
            width, height = height, width
        details = exif.get_ifd(ExifTags.IFD.Exif)
        place = exif.get_ifd(ExifTags.IFD.GPSInfo)
        facts["taken"] = _taken(
            details.get(ExifTags.Base.DateTimeOriginal)
            or details.get(ExifTags.Base.DateTimeDigitized)
            or exif.get(ExifTags.Base.DateTime)
        )
        facts["camera"] = _camera(exif.get(ExifTags.Base.Make), exif.get(ExifTags.Base.Model))
        latitude = _degrees(place.get(2), place.get(1), 90.0)
        longitude = _degrees(place.get(4), place.get(3), 180.0)
        if latitude is not None and longitude is not None:
            facts.update(latitude=latitude, longitude=longitude)
    except Exception:  # noqa: S110 - EXIF is an extra; a photo with a broken one is a photo
        pass
    facts.update(width=width, height=height)
    return facts


def _taken(value: object) -> str | None:
    """EXIF's 'YYYY:MM:DD HH:MM:SS' as ISO 8601, without a time zone, as cameras write it."""
    from datetime import datetime

    if not isinstance(value, str):
        return None
    try:
        moment = datetime.strptime(value.strip("\0 ")[:19], "%Y:%m:%d %H:%M:%S")
    except ValueError:
        return None
    return moment.isoformat()


def _camera(make: object, model: object) -> str | None:
    texts = [
        "".join(c for c in str(v) if c.isprintable()).strip()[:80] if isinstance(v, str) else ""
        for v in (make, model)
    ]
    if texts[0] and texts[1].lower().startswith(texts[0].lower()):
        texts[0] = ""
    return " ".join(t for t in texts if t) or None


def _degrees(parts: Any, side: object, most: float) -> float | None:
    """Degrees, minutes and seconds to decimal degrees, negative to the south and west."""
    if not parts or len(parts) != 3:
        return None
    degrees, minutes, seconds = (float(part) for part in parts)
    value = degrees + minutes / 60 + seconds / 3600
    if not math.isfinite(value) or not 0 <= value <= most:
        return None
    return round(-value if str(side).strip("\0 ").upper() in ("S", "W") else value, 6)
