"""Texts that a photo file holds about its photo: titles, descriptions, keywords in EXIF, IPTC, XMP.

Cameras and programs write them. They are not trusted: sizes are bounded, XML with a document type
is refused, and what cameras write into every photo is left out. Dates and places are facts, which
`retrieval.photos.exif` reads.
"""

import re
from collections.abc import Iterator

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import ParseError, fromstring
from PIL import ExifTags, IptcImagePlugin
from PIL.ImageFile import ImageFile

MAX_XMP = 1 << 20  # bytes
_MAX_TEXTS = 20  # of one photo
_MAX_LENGTH = 2000  # characters of a text
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

    PNG may have metadata after its pixels: such a file is decoded for it. Never raises: texts are
    an extra.
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

    Raises ValueError for what is too long, is not XML or has a document type.
    """
    if len(data) > MAX_XMP:
        raise ValueError(f"longer than {MAX_XMP:,} bytes")
    try:
        # The declaration has to come first. What follows the packet does no harm, and is left:
        # the last byte of a line feed in UTF-16-BE is half a character.
        tree = fromstring(_LEADING_SPACE.sub(b"", data), forbid_dtd=True)
    except DefusedXmlException as error:
        raise ValueError("XML with a document type or entities") from error
    except (ParseError, LookupError) as error:  # LookupError: an encoding that Python lacks
        raise ValueError(f"not XML: {error}") from error
    texts = []
    for name in ("title", "description"):
        items = tree.findall(f".//{_DC}{name}//{_RDF}li")
        texts += [item.text or "" for item in items]
        texts += [of.attrib[f"{_DC}{name}"] for of in tree.iter() if f"{_DC}{name}" in of.attrib]
    keywords = [item.text or "" for item in tree.findall(f".//{_DC}subject//{_RDF}li")]
    texts.append(", ".join(word for word in keywords if word))
    return list(dict.fromkeys(text for text in map(_meaningful, texts) if text))


def _meaningful(text: str) -> str:
    """A text without its padding; '' if cameras write it into every photo."""
    text = text.strip("\0 \r\n\t")[:_MAX_LENGTH]
    return "" if _MEANINGLESS.fullmatch(text) else text


def _exif(image: ImageFile) -> Iterator[str]:
    exif = image.getexif()
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
