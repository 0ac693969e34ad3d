"""What a photo's header and EXIF say: its size, when and where it was taken, and by which camera.

What is missing or makes no sense is None; a broken EXIF block never makes a photo unreadable, and
reading it decodes no pixels.
Titles and descriptions are captions: `retrieval.captions.metadata` reads them.
"""

import math
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from PIL import ExifTags, Image

_LONGEST_NAME = 80  # characters of a maker's or a camera's name
_TURNS = {  # by the value of Orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TURNED = (5, 6, 7, 8)  # values of Orientation that swap width and height


@dataclass(frozen=True)
class PhotoFacts:
    """What is known of a photo besides its pixels and its hash.

    width, height: in pixels, upright; format: as Pillow names it; taken: local time in ISO 8601,
    without a time zone; latitude, longitude: in degrees, both or neither.
    """

    width: int
    height: int
    format: str
    taken: str | None = None
    camera: str | None = None
    latitude: float | None = None
    longitude: float | None = None


def read_facts(image: Image.Image) -> PhotoFacts:
    """The facts of an image that was opened, and perhaps not decoded."""
    facts = PhotoFacts(*image.size, format=image.format or "")
    try:
        exif = read_exif(image)
        if exif.get(ExifTags.Base.Orientation) in _TURNED:
            facts = replace(facts, width=image.height, height=image.width)
        details = exif.get_ifd(ExifTags.IFD.Exif)
        gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
        taken = (
            details.get(ExifTags.Base.DateTimeOriginal)
            or details.get(ExifTags.Base.DateTimeDigitized)
            or exif.get(ExifTags.Base.DateTime)
        )
        facts = replace(facts, taken=_taken(taken))
        make, model = exif.get(ExifTags.Base.Make), exif.get(ExifTags.Base.Model)
        facts = replace(facts, camera=_camera(make, model))
        latitude = _degrees(gps.get(2), gps.get(1), 90.0)
        longitude = _degrees(gps.get(4), gps.get(3), 180.0)
        if latitude is not None and longitude is not None:
            facts = replace(facts, latitude=latitude, longitude=longitude)
    except Exception:  # noqa: S110 - EXIF is an extra; a photo with a broken one is a photo
        pass
    return facts


def read_exif(image: Image.Image) -> Image.Exif:
    """The EXIF of an open image; raises whatever Pillow raises if it is broken.

    For a PNG without EXIF, Pillow's own method decodes all pixels to look behind them. `open_image`
    has looked there.
    """
    return Image.Image.getexif(image)


def turn_upright(image: Image.Image) -> Image.Image:
    """A decoded image as its EXIF says that it is to be seen; as it is if that cannot be read."""
    try:
        turn = _TURNS.get(read_exif(image).get(ExifTags.Base.Orientation, 1))
    except Exception:  # a photo with a broken EXIF block is a photo
        return image
    return image if turn is None else image.transpose(turn)


def _taken(value: object) -> str | None:
    """EXIF's 'YYYY:MM:DD HH:MM:SS' as ISO 8601, without a time zone, as cameras write it."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.strptime(value.strip("\0 ")[:19], "%Y:%m:%d %H:%M:%S")
    except ValueError:
        return None
    return moment.isoformat()


def _camera(make: object, model: object) -> str | None:
    """Maker and model in one name; many models' names begin with their maker's."""
    texts = [
        "".join(c for c in str(v) if c.isprintable()).strip()[:_LONGEST_NAME]
        if isinstance(v, str)
        else ""
        for v in (make, model)
    ]
    if texts[0] and texts[1].lower().startswith(texts[0].lower()):
        texts[0] = ""
    return " ".join(t for t in texts if t) or None


def _degrees(parts: Any, side: object, limit: float) -> float | None:
    """Degrees, minutes and seconds to decimal degrees, negative to the south and west."""
    if not parts or len(parts) != 3:
        return None
    degrees, minutes, seconds = (float(part) for part in parts)
    value = degrees + minutes / 60 + seconds / 3600
    if not math.isfinite(value) or not 0 <= value <= limit:
        return None
    return round(-value if str(side).strip("\0 ").upper() in ("S", "W") else value, 6)
