"""What a photo file says of itself: titles, descriptions and keywords in EXIF, IPTC and XMP.

Cameras and programs write them, and nothing of it is believed: sizes are bounded, XML with a
document type is refused, and what cameras put there by themselves is left out.
"""

import re
from collections.abc import Iterator
from typing import BinaryIO
from xml.etree import ElementTree

from PIL import ExifTags, Image, IptcImagePlugin

LARGEST = 1 << 20  # bytes of XMP
_MOST = 20  # texts of one photo
_LONGEST = 2000  # characters
# What cameras and programs write without being asked.
_EMPTY = re.compile(
    r"(olympus|sony|kodak|minolta|samsung|konica)?\W*(digital|dsc|dcim|camera|still)[\W\d]*"
    r"(camera|dsc|image)?\W*|screenshot|untitled|default|exif_jpeg\S*|ascii|charset=\S+|\W*",
    re.IGNORECASE,
)
_RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
_DC = "{http://purl.org/dc/elements/1.1/}"
_XP = {0x9C9B: "title", 0x9C9F: "subject", 0x9C9C: "comment", 0x9C9E: "keywords"}
_USER_COMMENT = 0x9286
_IPTC = ((2, 5), (2, 105), (2, 120))  # title, headline, caption
_IPTC_KEYWORDS = (2, 25)


def embedded_texts(file: BinaryIO, formats: tuple[str, ...]) -> list[str]:
    """The texts in a photo file, each once, unclean; the file is left at its start.

    formats: Pillow's names of those that may be opened. Never raises: they are an extra.
    """
    found: dict[str, None] = {}
    try:
        file.seek(0)
        with Image.open(file, formats=formats) as image:
            for texts in (_exif(image), _iptc(image), _in_xmp(image)):
                try:
                    for text in texts:
                        found[text] = None
                except Exception:  # noqa: S112 - one broken part says nothing of the others
                    continue
    except Exception:  # noqa: S110 - what is wrong with a photo is told when it is decoded
        pass
    finally:
        file.seek(0)
    return [text for text in map(_telling, found) if text][:_MOST]


def xmp_texts(data: bytes) -> list[str]:
    """Title, description and keywords (as one text) of an XMP packet; raises ValueError."""
    if len(data) > LARGEST:
        raise ValueError(f"longer than {LARGEST:,} bytes")
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data or b"\0" in data:
        raise ValueError("XML with a document type, or in an encoding that hides one")
    try:
        tree = ElementTree.fromstring(data.strip(b"\0 \r\n\t"))  # noqa: S314 - see above
    except ElementTree.ParseError as error:
        raise ValueError(f"not XML: {error}") from error
    texts = []
    for name in ("title", "description"):
        items = tree.findall(f".//{_DC}{name}//{_RDF}li")
        texts += [item.text or "" for item in items]
        texts += [of.attrib[f"{_DC}{name}"] for of in tree.iter() if f"{_DC}{name}" in of.attrib]
    keywords = [item.text or "" for item in tree.findall(f".//{_DC}subject//{_RDF}li")]
    texts.append(", ".join(word for word in keywords if word))
    return list(dict.fromkeys(text for text in map(_telling, texts) if text))


def _telling(text: str) -> str:
    text = text.strip("\0 \r\n\t")[:_LONGEST]
    return "" if _EMPTY.fullmatch(text) else text


def _exif(image: Image.Image) -> Iterator[str]:
    exif = image.getexif()
    yield _text(exif.get(ExifTags.Base.ImageDescription))
    for tag in _XP:
        value = exif.get(tag)
        if isinstance(value, bytes | tuple):
            yield bytes(value).decode("utf-16-le", "ignore").replace(";", ", ")
    comment = exif.get_ifd(ExifTags.IFD.Exif).get(_USER_COMMENT)
    if isinstance(comment, bytes) and comment[:8].rstrip(b"\0") in (b"ASCII", b"UNICODE", b""):
        code = "utf-16" if comment.startswith(b"UNICODE") else "utf-8"
        yield comment[8:].decode(code, "ignore")


def _iptc(image: Image.Image) -> Iterator[str]:
    said = IptcImagePlugin.getiptcinfo(image) or {}  # type: ignore[arg-type]
    for tag in _IPTC:
        yield _text(said.get(tag))
    words = said.get(_IPTC_KEYWORDS, [])
    yield ", ".join(_text(word) for word in (words if isinstance(words, list) else [words]))


def _in_xmp(image: Image.Image) -> Iterator[str]:
    data = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    if data:
        yield from xmp_texts(data.encode() if isinstance(data, str) else bytes(data))


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else ""
