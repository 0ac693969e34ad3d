"""The IPTC block of JPEG and TIFF files (IIM): texts, keywords, names of places, dates.

Older programs write it, each in the encoding of its machine. Which texts become captions is decided
in `retrieval.captions`.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from retrieval.photos.dates import FoundDate
from retrieval.photos.encodings import decode_text

_IN_PHOTOSHOP, _IN_TIFF = 0x0404, 33723  # where the block is
_MARKER, _HEADER, _LONG = b"\x1c", 5, 0x8000
_RECORD = 2  # of what is about the picture
_TITLE, _HEADLINE, _CAPTION, _KEYWORDS = 5, 105, 120, 25
_PLACES = (92, 90, 95, 101)  # sublocation, city, state, country
_CREATED, _DIGITIZED = (55, 60), (62, 63)  # date and time


@dataclass(frozen=True)
class Iptc:
    """What an IPTC block says. fields: the values of each data set of record 2, as bytes."""

    fields: Mapping[int, list[bytes]] = field(default_factory=dict)

    @property
    def texts(self) -> list[str]:
        """Title, headline and caption."""
        return list(self._texts((_TITLE, _HEADLINE, _CAPTION)))

    @property
    def keywords(self) -> list[str]:
        return list(self._texts((_KEYWORDS,)))

    @property
    def places(self) -> list[str]:
        """Names of the place, the smallest first."""
        return list(self._texts(_PLACES))

    @property
    def dates(self) -> list[FoundDate]:
        """When the photo was made, then when it was digitised, as far as they are there."""
        found = []
        for name, (date, time) in (("DateCreated", _CREATED), ("DigitalCreation", _DIGITIZED)):
            if day := self._first(date):
                found.append(FoundDate(f"IPTC {name}", f"{day} {self._first(time)}"))
        return found

    def _texts(self, data_sets: Iterable[int]) -> Iterator[str]:
        # The marker of UTF-8 is not asked: programs forget it, and other bytes are hardly UTF-8.
        for number in data_sets:
            yield from (decode_text(value) for value in self.fields.get(number, ()))

    def _first(self, number: int) -> str:
        return next((v.decode("latin-1").strip("\0 ") for v in self.fields.get(number, ())), "")


def read_iptc(image: Image.Image) -> Iptc:
    """The IPTC block of an open image, as far as it is whole."""
    fields: dict[int, list[bytes]] = {}
    for record, number, value in _data_sets(_block(image)):
        if record == _RECORD and value:
            fields.setdefault(number, []).append(value)
    return Iptc(fields)


def _block(image: Image.Image) -> bytes:
    if photoshop := image.info.get("photoshop"):  # of a JPEG file
        return bytes(photoshop.get(_IN_PHOTOSHOP) or b"")
    if isinstance(image, TiffImageFile):
        value = image.tag_v2.get(_IN_TIFF, b"")
        if isinstance(value, tuple):  # programs call the block one of whole numbers
            order = "little" if image.tag_v2.prefix == b"II" else "big"
            return b"".join(number.to_bytes(4, order) for number in value)
        return bytes(value)
    return b""


def _data_sets(block: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Each data set of a block as (record, number, value), up to the first that is broken.

    IPTC-NAA Information Interchange Model 4.2, 1.5: a marker, the record, the number and the
    length, which may be that of the length that follows.
    """
    at = 0
    while block[at : at + 1] == _MARKER and at + _HEADER <= len(block):
        record, number, length = struct.unpack_from(">BBH", block, at + 1)
        at += _HEADER
        if length & _LONG:
            width = length & ~_LONG
            length, at = int.from_bytes(block[at : at + width]), at + width
        yield record, number, block[at : at + length]
        at += length
