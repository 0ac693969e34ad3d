"""Texts that a photo file holds about its photo: titles, descriptions, keywords in EXIF, IPTC, XMP.

Cameras and programs write them. They are not trusted: sizes are bounded, XML with a document type
is refused, and what cameras write into every photo is left out. Dates and places are facts, which
`retrieval.photos.exif` reads.
"""

import re
import time
from collections.abc import Iterator

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser
from PIL import ExifTags, IptcImagePlugin
from PIL.ImageFile import ImageFile

from retrieval.photos.exif import read_exif

MAX_XMP = 1 << 20  # bytes
_MAX_TEXTS = 20  # of one photo
_MAX_LENGTH = 2000  # characters of a text
_MAX_ITEMS = 1000  # of a list in XMP
# A whole packet is parsed in milliseconds, but names with endless namespaces take half a minute.
_XMP_SECONDS, _XMP_PIECE = 1.0, 4096  # of a core; bytes
# What cameras and programs write into every photo.
_MEANINGLESS = re.compile(
    r"(olympus|sony|kodak|minolta|samsung|konica)?\W*(digital|dsc|dcim|camera|still)[\W\d]*"
    r"(camera|dsc|image)?\W*|screenshot|untitled|default|exif_jpeg\S*|ascii|charset=\S+|\W*",
    re.IGNORECASE,
)
_LEADING_SPACE = re.compile(rb"\A(?:(?:[ \t\r\n]\0)+|(?:\0[ \t\r\n])+|[ \t\r\n]+)")  # UTF-16 or not
_RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
_DC = "{http://purl.org/dc/elements/1.1/}"
_WINDOWS_TEXTS = (0x9C9B, 0x9C9F, 0x9C9C, 0x9C9E)  # title, subject, comment, keywords
_USER_COMMENT = 0x9286
_IPTC = ((2, 5), (2, 105), (2, 120))  # title, headline, caption
_IPTC_KEYWORDS = (2, 25)


def embedded_texts(image: ImageFile) -> list[str]:
    """The texts in the metadata of an open image, each once, not yet cleaned.

    No pixels are decoded. Never raises: texts are an extra.
    """
    found: dict[str, None] = {}
    for texts in (_exif(image), _iptc(image), _xmp(image)):
        try:
            for text in texts:
                found[text] = None
        except Exception:  # noqa: S112 - one broken part does not spoil the others
            continue
    return [text for text in map(_meaningful, found) if text][:_MAX_TEXTS]


def xmp_texts(data: bytes) -> list[str]:
    """Title, description and keywords (as one text) of an XMP packet.

    Raises ValueError for what is too long, is not XML, has a document type or takes too long.
    """
    if len(data) > MAX_XMP:
        raise ValueError(f"longer than {MAX_XMP:,} bytes")
    texts = _XmpTexts()
    parser = DefusedXMLParser(target=texts, forbid_dtd=True)
    # The declaration has to come first. What follows the packet does no harm, and is left: the last
    # byte of a line feed in UTF-16-BE is half a character.
    data = _LEADING_SPACE.sub(b"", data)
    latest = time.thread_time() + _XMP_SECONDS
    try:
        for start in range(0, len(data), _XMP_PIECE):
            parser.feed(data[start : start + _XMP_PIECE])
            if time.thread_time() > latest:
                raise ValueError("too complex")
        parser.close()
    except DefusedXmlException as error:
        raise ValueError("XML with a document type or entities") from error
    except ValueError:
        raise
    except Exception as error:  # also whatever the codec raises that the file names as its encoding
        raise ValueError(f"not XML: {error}") from error
    keywords = ", ".join(word for word in texts.found["subject"] if word)
    found = [*texts.found["title"], *texts.found["description"], keywords]
    return list(dict.fromkeys(text for text in map(_meaningful, found) if text))


class _XmpTexts:
    """Collects the texts of an XMP packet while it is parsed, in one pass and bounded memory."""

    def __init__(self) -> None:
        self.found: dict[str, list[str]] = {"title": [], "description": [], "subject": []}
        self._open: list[str] = []  # the fields around the current place, innermost last
        self._item: list[str] | None = None  # the text of the list item that is open

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._end_item()
        if tag.startswith(_DC) and tag.removeprefix(_DC) in self.found:
            self._open.append(tag.removeprefix(_DC))
        elif tag == f"{_RDF}li" and self._open:
            self._item = []
        for name in ("title", "description"):
            if f"{_DC}{name}" in attributes:
                self._add(name, attributes[f"{_DC}{name}"])

    def data(self, text: str) -> None:
        if self._item is not None:
            self._item.append(text)

    def end(self, tag: str) -> None:
        self._end_item()
        if self._open and tag == f"{_DC}{self._open[-1]}":
            self._open.pop()

    def close(self) -> None:
        pass

    def _end_item(self) -> None:
        if self._item is not None:
            self._add(self._open[-1], "".join(self._item))
            self._item = None

    def _add(self, field: str, text: str) -> None:
        if len(self.found[field]) < _MAX_ITEMS:
            self.found[field].append(text)


def _meaningful(text: str) -> str:
    """A text without its padding; '' if cameras write it into every photo."""
    text = text.strip("\0 \r\n\t")[:_MAX_LENGTH]
    return "" if _MEANINGLESS.fullmatch(text) else text


def _exif(image: ImageFile) -> Iterator[str]:
    exif = read_exif(image)
    yield _text(exif.get(ExifTags.Base.ImageDescription))
    for tag in _WINDOWS_TEXTS:
        value = exif.get(tag)
        if isinstance(value, bytes | tuple):
            yield bytes(value).decode("utf-16-le", "ignore").replace(";", ", ")
    comment = exif.get_ifd(ExifTags.IFD.Exif).get(_USER_COMMENT)
    if isinstance(comment, bytes) and comment[:8].rstrip(b"\0") in (b"ASCII", b"UNICODE", b""):
        code = "utf-16" if comment.startswith(b"UNICODE") else "utf-8"
        yield comment[8:].decode(code, "ignore")


def _iptc(image: ImageFile) -> Iterator[str]:
    fields = IptcImagePlugin.getiptcinfo(image) or {}
    for tag in _IPTC:
        yield _text(fields.get(tag))
    words = fields.get(_IPTC_KEYWORDS, [])
    yield ", ".join(_text(word) for word in (words if isinstance(words, list) else [words]))


def _xmp(image: ImageFile) -> Iterator[str]:
    data = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    if data:
        yield from xmp_texts(data.encode() if isinstance(data, str) else bytes(data))


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else ""
