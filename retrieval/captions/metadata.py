"""Texts that a photo file holds about its photo: titles, descriptions, keywords in EXIF, IPTC, XMP.

Cameras and programs write them. They are not trusted: numbers and lengths are bounded, and what
cameras write into every photo is left out. Dates and places are facts, which
`retrieval.photos.exif` reads.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from PIL import ExifTags
from PIL.ImageFile import ImageFile

from retrieval.photos.encodings import decode_jis, decode_text, decode_utf16
from retrieval.photos.exif import exif_text, read_exif
from retrieval.photos.iptc import Iptc, read_iptc
from retrieval.photos.xmp import Xmp, extension_of, packet_of, read_xmp

_MAX_TEXTS = 20  # of one photo
_MAX_LENGTH = 2000  # characters of a text
# What cameras and programs write into every photo.
_MEANINGLESS = re.compile(
    r"(olympus|sony|kodak|minolta|samsung|konica)?\W*(digital|dsc|dcim|camera|still)[\W\d]*"
    r"(camera|dsc|image)?\W*|screenshot|untitled|default|exif_jpeg\S*|ascii|charset=\S+|[^\w\u2190-\U0001ffff]*",
    re.IGNORECASE,
)
_SETTING = re.compile(r"\w+=[^\s=]*")
_WINDOWS_TEXTS = (0x9C9B, 0x9C9F, 0x9C9C, 0x9C9E)  # title, subject, comment, keywords
_USER_COMMENT = 0x9286
_CODE = 8  # bytes before a comment, which name its encoding


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
    return meaningful(found)[:_MAX_TEXTS]


def texts_of(source: Xmp | Iptc) -> list[str]:
    """Titles, descriptions, then all keywords and all names of the place as a text each."""
    return meaningful([*source.texts, ", ".join(source.keywords), ", ".join(source.places)])


def meaningful(texts: Iterable[str]) -> list[str]:
    """The different texts without their padding; without what cameras write into every photo."""
    shown = (text.strip("\0 \r\n\t")[:_MAX_LENGTH] for text in texts)
    return list(dict.fromkeys(text for text in shown if not _is_meaningless(text)))


def _is_meaningless(text: str) -> bool:
    """Whether a text says nothing about the photo: one of every photo, or settings of a program."""
    return bool(_MEANINGLESS.fullmatch(text)) or all(
        _SETTING.fullmatch(line.strip()) for line in text.splitlines()
    )


def _exif(image: ImageFile) -> Iterator[str]:
    exif = read_exif(image)
    yield exif_text(exif.get(ExifTags.Base.ImageDescription))
    for tag in _WINDOWS_TEXTS:
        value = exif.get(tag)
        if isinstance(value, bytes | tuple):
            yield _to_nul(decode_utf16(bytes(value))).replace(";", ", ")
    comment = exif.get_ifd(ExifTags.IFD.Exif).get(_USER_COMMENT)
    yield _user_comment(comment, exif.endian) if isinstance(comment, bytes) else exif_text(comment)


def _user_comment(comment: bytes, endian: Any) -> str:
    """EXIF's UserComment: eight bytes that name its encoding, and a text in that."""
    code, text = comment[:_CODE].rstrip(b"\0 ").upper(), comment[_CODE:]
    if code == b"UNICODE":
        return _to_nul(decode_utf16(text, "utf-16-le" if endian == "<" else "utf-16-be"))
    if code == b"JIS":
        return _to_nul(decode_jis(text))
    # Without a name of an encoding it may be any, and the text may begin at once.
    return _to_nul(decode_text(text if code in (b"ASCII", b"") else comment))


def _to_nul(text: str) -> str:
    return text.lstrip("\0").partition("\0")[0]


def _iptc(image: ImageFile) -> Iterator[str]:
    yield from texts_of(read_iptc(image))


def _xmp(image: ImageFile) -> Iterator[str]:
    for packet in (packet_of(image), extension_of(image)):
        if packet is not None:
            yield from texts_of(read_xmp(packet))
