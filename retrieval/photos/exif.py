"""What a photo's header and metadata say: its size, when and where it was taken, by which camera.

What is missing or makes no sense is None; broken metadata never makes a photo unreadable, and
reading it decodes no pixels. Titles and descriptions are captions: `retrieval.captions.metadata`
reads them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from PIL import ExifTags, Image

from retrieval.photos.encodings import decode_text

if TYPE_CHECKING:  # a search decodes photos, too, and needs no facts of them
    from retrieval.photos.dates import FoundDate
    from retrieval.photos.location import Coordinates
    from retrieval.photos.xmp import Xmp

Result = TypeVar("Result")
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
_GPS_DATE, _GPS_TIME = 29, 7
_GPS_LATITUDE = b"GPSLatitude"  # in a packet of XMP; most have none
_TURNED = (5, 6, 7, 8)  # values of Orientation that swap width and height


@dataclass(frozen=True)
class PhotoFacts:
    """What is known of a photo besides its pixels and its hash.

    width, height: in pixels, upright; format: as Pillow names it; taken, taken_offset,
    taken_source: when it was taken, as `retrieval.photos.dates.Taken` has it; latitude, longitude:
    in degrees, both or neither; place_source: where they were found.
    """

    width: int
    height: int
    format: str
    taken: str | None = None
    camera: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    taken_offset: str | None = None
    taken_source: str | None = None
    place_source: str | None = None


def read_facts(image: Image.Image) -> PhotoFacts:
    """The facts of an image that was opened, and perhaps not decoded."""
    from retrieval.photos.dates import first_valid
    from retrieval.photos.location import from_exif

    facts = PhotoFacts(*image.size, format=image.format or "")
    exif = _tried(lambda: read_exif(image), Image.Exif())
    if exif.get(ExifTags.Base.Orientation) in _TURNED:
        facts = replace(facts, width=image.height, height=image.width)
    make, model = exif.get(ExifTags.Base.Make), exif.get(ExifTags.Base.Model)
    facts = replace(facts, camera=_tried(lambda: _camera(make, model), None))
    gps = _tried(lambda: dict(exif.get_ifd(ExifTags.IFD.GPSInfo)), dict[int, Any]())
    taken = first_valid(_dates(image, exif, gps))
    if taken is not None:
        facts = replace(
            facts, taken=taken.time, taken_offset=taken.offset, taken_source=taken.source
        )
    place, source = _tried(lambda: from_exif(gps), None), "EXIF"
    if place is None:
        place, source = _tried(lambda: _xmp_place(image), None), "XMP"
    if place is not None:
        latitude, longitude = place
        facts = replace(facts, latitude=latitude, longitude=longitude, place_source=source)
    return facts


def _dates(image: Image.Image, exif: Image.Exif, gps: dict[int, Any]) -> Iterator["FoundDate"]:
    """All that may say when a photo was taken, the best first. XMP is read only if it is asked."""
    from retrieval.photos.dates import FoundDate
    from retrieval.photos.iptc import Iptc, read_iptc
    from retrieval.photos.xmp import Xmp

    tags = ExifTags.Base
    details = _tried(lambda: dict(exif.get_ifd(ExifTags.IFD.Exif)), dict[int, Any]())
    for name, offset in (
        ("Original", tags.OffsetTimeOriginal),
        ("Digitized", tags.OffsetTimeDigitized),
    ):
        text = details.get(tags[f"DateTime{name}"])
        yield FoundDate(f"EXIF DateTime{name}", text, details.get(offset))
    yield from _tried(lambda: _read_xmp(image), Xmp()).dates
    yield from _tried(lambda: read_iptc(image), Iptc()).dates
    yield FoundDate("EXIF DateTime", exif.get(tags.DateTime), details.get(tags.OffsetTime))
    yield FoundDate("GPS", _tried(lambda: _gps_date(gps), None))


def _gps_date(gps: dict[int, Any]) -> str | None:
    """The date of the satellites, in UTC; without the time if that is missing."""
    date = gps.get(_GPS_DATE)
    date = date.decode("latin-1") if isinstance(date, bytes) else date
    if not isinstance(date, str):
        return None
    day = date.strip("\0 ")
    try:
        hour, minute, second = (int(float(part)) for part in gps[_GPS_TIME])
    except (KeyError, ValueError, TypeError, OverflowError):
        return day
    return f"{day} {hour:02}:{minute:02}:{second:02}Z"


def _read_xmp(image: Image.Image) -> "Xmp":
    from retrieval.photos.xmp import Xmp, packet_of, read_xmp

    packet = packet_of(image)
    return Xmp() if packet is None else read_xmp(packet)


def _xmp_place(image: Image.Image) -> "Coordinates | None":
    from retrieval.photos.xmp import packet_of, read_xmp

    packet = packet_of(image)
    if packet is None or _GPS_LATITUDE not in packet.replace(b"\0", b""):
        return None
    return read_xmp(packet).coordinates


def _tried(read: Callable[[], Result], otherwise: Result) -> Result:
    """What `read` returns; `otherwise` if it fails: a photo with broken metadata is a photo."""
    try:
        return read()
    except Exception:
        return otherwise


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


def exif_text(value: object) -> str:
    """A text of EXIF in the encoding that it was written in; '' if it is none.

    Pillow reads texts as Latin-1; most programs write UTF-8.
    """
    if isinstance(value, str):
        try:
            value = value.encode("latin-1")
        except UnicodeEncodeError:
            return str(value)
    return decode_text(value.partition(b"\0")[0]) if isinstance(value, bytes) else ""


def _camera(make: object, model: object) -> str | None:
    """Maker and model in one name; many models' names begin with their maker's."""
    texts = [
        "".join(c for c in exif_text(v) if c.isprintable()).strip()[:_LONGEST_NAME]
        for v in (make, model)
    ]
    if texts[0] and texts[1].lower().startswith(texts[0].lower()):
        texts[0] = ""
    return " ".join(t for t in texts if t) or None
