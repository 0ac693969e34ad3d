"""XMP packets, inside photo files and beside them: texts, keywords, names of places, dates.

A packet is read as a stream, in bounded time and memory; XML with a document type is refused.
Which texts become captions is decided in `retrieval.captions`.
"""

import io
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO
from xml.etree.ElementTree import ParseError
from xml.parsers.expat import errors

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser
from PIL import Image

from retrieval.photos.dates import FoundDate
from retrieval.photos.encodings import decode_text
from retrieval.photos.location import Coordinates, from_texts

MAX_XMP = 16 << 20  # bytes
_MAX_REPAIRED = 1 << 20  # bytes of a packet that is read again, as a whole
_MAX_TEXT, _MAX_TEXTS = 10_000, 1000  # characters of a text; texts of a kind
# A packet of a megabyte is parsed in milliseconds, but names with endless namespaces take half a
# minute.
_SECONDS, _SECONDS_PER_BYTE = 1.0, 0.25 / (1 << 20)  # of a core
_PIECE = 4096  # bytes
_LEADING_SPACE = re.compile(rb"\A(?:(?:[ \t\r\n]\0)+|(?:\0[ \t\r\n])+|[ \t\r\n]+)")  # UTF-16 or not
# What a second attempt takes out: a declaration of the wrong encoding, characters that XML has not,
# and what follows the packet.
_DECLARATION = re.compile(r"\A\s*<\?xml[^>]*\?>")
_NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_BEHIND = re.compile(
    r"(</(?:\w+:)?(?:xmpmeta|xapmeta|RDF)>)(?!.*</(?:\w+:)?(?:xmpmeta|xapmeta)>).*"
)
_REPAIRABLE = tuple(
    errors.codes[name]
    for name in (
        errors.XML_ERROR_INVALID_TOKEN,
        errors.XML_ERROR_PARTIAL_CHAR,
        errors.XML_ERROR_INCORRECT_ENCODING,
        errors.XML_ERROR_JUNK_AFTER_DOC_ELEMENT,
        errors.XML_ERROR_MISPLACED_XML_PI,
    )
)
_EXTENSION = b"http://ns.adobe.com/xmp/extension/\0"

_LI = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}li"
_DC = "http://purl.org/dc/elements/1.1/"
_EXIF = "http://ns.adobe.com/exif/1.0/"
_TIFF = "http://ns.adobe.com/tiff/1.0/"
_XMP = "http://ns.adobe.com/xap/1.0/"
_PHOTOSHOP = "http://ns.adobe.com/photoshop/1.0/"
_IPTC_CORE = "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/"
_IPTC_EXT = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_TITLE, _DESCRIPTION, _KEYWORD, _PLACE = "title", "description", "keyword", "place"
_BELOW, _SLASH = "|", "/"  # a tag after those above it, with this between them
# By namespace and name: what a property is, in the order of its texts.
_PROPERTIES = {
    f"{{{namespace}}}{name}": kind
    for kind, namespace, names in (
        (_TITLE, _DC, "title"),
        (_TITLE, _PHOTOSHOP, "Headline"),
        (_DESCRIPTION, _DC, "description"),
        (_DESCRIPTION, _TIFF, "ImageDescription"),
        (_DESCRIPTION, _EXIF, "UserComment"),
        (_DESCRIPTION, _IPTC_CORE, "AltTextAccessibility ExtDescrAccessibility"),
        (_KEYWORD, _DC, "subject"),
        (_KEYWORD, _IPTC_EXT, "PersonInImage"),
        (_KEYWORD, "http://www.metadataworkinggroup.com/schemas/regions/", "Name"),
        (_KEYWORD, "http://ns.microsoft.com/photo/1.2/t/Region#", "PersonDisplayName"),
        (_BELOW, "http://ns.adobe.com/lightroom/1.0/", "hierarchicalSubject"),
        (_BELOW, "http://ns.mediapro.com/mediapro/1.0/", "CatalogSets"),
        (_SLASH, "http://www.digikam.org/ns/1.0/", "TagsList"),
        (_SLASH, "http://ns.microsoft.com/photo/1.0/", "LastKeywordXMP"),
        (_PLACE, _IPTC_CORE, "Location"),
        (_PLACE, _PHOTOSHOP, "City State Country"),
    )
    for name in names.split()
}
# Where dates are looked for, in this order.
_DATES = {
    f"{{{namespace}}}{name}": f"XMP {prefix}:{name}"
    for prefix, namespace, name in (
        ("exif", _EXIF, "DateTimeOriginal"),
        ("exif", _EXIF, "DateTimeDigitized"),
        ("photoshop", _PHOTOSHOP, "DateCreated"),
        ("xmp", _XMP, "CreateDate"),
    )
}
# Each with its reference, which Apple writes on its own.
_LATITUDE = (f"{{{_EXIF}}}GPSLatitude", f"{{{_EXIF}}}GPSLatitudeRef")
_LONGITUDE = (f"{{{_EXIF}}}GPSLongitude", f"{{{_EXIF}}}GPSLongitudeRef")
_PLACE_ORDER = tuple(name for name, kind in _PROPERTIES.items() if kind == _PLACE)
_KNOWN = {*_PROPERTIES, *_DATES, *_LATITUDE, *_LONGITUDE}


@dataclass(frozen=True)
class Xmp:
    """What a packet says. found: the texts of each known property, as they are written."""

    found: Mapping[str, list[str]] = field(default_factory=dict)

    @property
    def texts(self) -> list[str]:
        """Titles, then descriptions."""
        return [*self._of(_TITLE), *self._of(_DESCRIPTION)]

    @property
    def keywords(self) -> list[str]:
        """Keywords and names of people, each once; those in a tree of tags with all above them."""
        paths = [path.split(separator) for separator in "|/" for path in self._of(separator)]
        return _each_once([*self._of(_KEYWORD), *(word for path in paths for word in path)])

    @property
    def places(self) -> list[str]:
        """Names of the place, the smallest first."""
        return _each_once([name for key in _PLACE_ORDER for name in self.found.get(key, ())])

    @property
    def dates(self) -> list[FoundDate]:
        """The dates that may tell when the photo was taken, the best first."""
        return [
            FoundDate(source, text)
            for name, source in _DATES.items()
            for text in self.found.get(name, ())[:1]
        ]

    @property
    def coordinates(self) -> Coordinates | None:
        latitude, longitude = (
            "".join(text[0] for text in map(self.found.get, names) if text)
            for names in (_LATITUDE, _LONGITUDE)
        )
        return from_texts(latitude, longitude)

    def _of(self, kind: str) -> Iterator[str]:
        for name, its_kind in _PROPERTIES.items():
            if its_kind == kind:
                yield from self.found.get(name, ())


def read_xmp(source: BinaryIO | bytes) -> Xmp:
    """What an XMP packet says: a file, which may be large, or bytes.

    Raises ValueError for what is too long, is not XML, has a document type or takes too long;
    OSError.
    """
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        return _parse(file)
    except ParseError as error:
        if error.code not in _REPAIRABLE:
            raise ValueError(f"not XML: {error}") from error
        wrong = error
    file.seek(0)
    data = file.read(_MAX_REPAIRED + 1)
    if len(data) > _MAX_REPAIRED:
        raise ValueError(f"not XML: {wrong}") from wrong
    text = _DECLARATION.sub("", decode_text(data).lstrip("\ufeff"))
    text = _BEHIND.sub(r"\1", _NOT_IN_XML.sub(" ", text).replace("\n", " "))
    try:
        return _parse(io.BytesIO(text.encode()))
    except ParseError as error:
        raise ValueError(f"not XML: {error}") from error


def packet_of(image: Image.Image) -> bytes | None:
    """The XMP packet of an open image; None if it has none."""
    packet = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    return packet.encode() if isinstance(packet, str) else bytes(packet) if packet else None


def extension_of(image: Image.Image) -> bytes | None:
    """The second packet of a JPEG file, which has what does not fit into the first; None if none.

    Adobe, XMP Specification Part 3, 1.1.3.1: a GUID, the whole length, and the offset of each part.
    """
    parts: dict[int, bytes] = {}
    for name, data in getattr(image, "applist", ()):
        if name == "APP1" and data.startswith(_EXTENSION):
            body = data[len(_EXTENSION) :]
            parts[int.from_bytes(body[36:40])] = body[40:]
    packet = b"".join(parts[offset] for offset in sorted(parts))
    return packet if 0 < len(packet) <= MAX_XMP else None


def _parse(file: BinaryIO) -> Xmp:
    """Parse a packet piece by piece; raises ParseError and ValueError."""
    texts = _Texts()
    parser = DefusedXMLParser(target=texts, forbid_dtd=True)
    started, read = time.thread_time(), 0
    try:
        while piece := file.read(_PIECE):
            # The declaration has to come first. What follows the packet does no harm, and is left:
            # the last byte of a line feed in UTF-16-BE is half a character.
            parser.feed(piece if read else _LEADING_SPACE.sub(b"", piece))
            read += len(piece)
            if read > MAX_XMP:
                raise ValueError(f"longer than {MAX_XMP:,} bytes")
            if time.thread_time() - started > _SECONDS + read * _SECONDS_PER_BYTE:
                raise ValueError("too complex")
        parser.close()
    except DefusedXmlException as error:
        raise ValueError("XML with a document type or entities") from error
    except (ValueError, ParseError, OSError):
        raise
    except Exception as error:  # whatever the codec raises that the file names as its encoding
        raise ValueError(f"not XML: {error}") from error
    return Xmp(texts.found)


class _Texts:
    """Collects the known properties while a packet is parsed: attributes, elements and lists."""

    def __init__(self) -> None:
        self.found: dict[str, list[str]] = {}
        self._open: list[str] = []  # the known properties around the current place, innermost last
        self._text: list[str] | None = None  # of the item or property that is open
        self._length = 0

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        self._end_text()
        if tag in _KNOWN:
            self._open.append(tag)
            self._begin_text()
        elif tag == _LI and self._open:
            self._begin_text()
        for name in _KNOWN.intersection(attributes):
            self._add(name, attributes[name])

    def data(self, text: str) -> None:
        if self._text is not None and self._length < _MAX_TEXT:
            self._text.append(text[:_MAX_TEXT])
            self._length += len(text)

    def end(self, tag: str) -> None:
        self._end_text()
        if self._open and tag == self._open[-1]:
            self._open.pop()

    def close(self) -> None:
        pass

    def _begin_text(self) -> None:
        self._text, self._length = [], 0

    def _end_text(self) -> None:
        if self._text is not None:
            self._add(self._open[-1], "".join(self._text))
            self._text = None

    def _add(self, name: str, text: str) -> None:
        found = self.found.setdefault(name, [])
        if len(found) < _MAX_TEXTS and (text := text.strip("\0 \r\n\t")[:_MAX_TEXT]):
            found.append(text)


def _each_once(words: list[str]) -> list[str]:
    """The different words, whatever their case, as they are written first."""
    first: dict[str, str] = {}
    for word in (word.strip() for word in words):
        if word:
            first.setdefault(word.casefold(), word)
    return list(first.values())
