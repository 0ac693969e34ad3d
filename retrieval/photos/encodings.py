"""Text from bytes whose encoding nobody wrote down, or wrote down wrongly.

Metadata and small text files only: each function takes all the bytes of one text. What a text says
is not judged here. Texts in several legacy encodings at once are not recognised: what is neither
Unicode nor marked is read as Windows-1252.
"""

import codecs
import unicodedata

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_LATIN = 0x250  # code points below it belong to Latin script, digits and signs
_SAMPLE = 2000  # characters that tell the byte order
_SPACE = "\r\n\t"
_NO_TEXT = ("Cn", "Co", "Cs", "Cc")  # unassigned, private, half a character, control


def decode_text(data: bytes) -> str:
    """Bytes as text: by their byte order mark, as UTF-8, as UTF-16, else as Windows-1252."""
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "ignore")
    if _has_two_bytes(data):
        return decode_utf16(data)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        # A field of limited length may end within a character; one before it tells UTF-8.
        cut = error.reason == "unexpected end of data" and not data[: error.start].isascii()
        return data[: error.start].decode() if cut else _windows(data)


def decode_utf16(data: bytes, order: str = "utf-16-le") -> str:
    """UTF-16 by its byte order mark, else in the order that gives text; `order` if both do.

    Programs write the order of their machine, whatever the file around it has, and some write UTF-8
    where UTF-16 belongs.
    """
    for mark, encoding in _BOMS[1:]:
        if data.startswith(mark):
            return data[2:].decode(encoding, "ignore")
    if (text := _as_utf8(data)) is not None:
        return text
    other = "utf-16-be" if order == "utf-16-le" else "utf-16-le"
    return max((data.decode(name, "ignore") for name in (order, other)), key=_likeness)


def decode_jis(data: bytes) -> str:
    """Japanese text as the JIS code of EXIF names it: ISO-2022-JP, with or without its escapes."""
    if b"\x1b" not in data:
        pairs = data.rstrip(b"\0")
        if pairs and len(pairs) % 2 == 0 and all(0x21 <= byte <= 0x7E for byte in pairs):
            try:
                return (b"\x1b$B" + pairs).decode("iso2022_jp")
            except UnicodeDecodeError:
                pass
    for encoding in ("iso2022_jp", "utf-8", "shift_jis", "euc_jp"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return decode_text(data)


def _has_two_bytes(data: bytes) -> bool:
    """Whether every other byte is often zero and those between hardly: UTF-16 of Latin letters."""
    if b"\0" not in data:
        return False
    sample = data[: 2 * _SAMPLE]
    few, many = sorted((sample[::2].count(0), sample[1::2].count(0)))
    return many > len(sample) / 8 and few < many / 8


def _as_utf8(data: bytes) -> str | None:
    """What should be UTF-16 as UTF-8, if that is what it is.

    In UTF-16 every other byte is mostly one and the same, or a control character.
    """
    data = data.rstrip(b"\0")
    if len(set(data[::2])) < 2 or len(set(data[1::2])) < 2:
        return None
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    return None if any(c < " " and c not in _SPACE for c in text) else text


def _windows(data: bytes) -> str:
    """Windows-1252, which has all of Latin-1's letters; its five unused bytes as in Latin-1."""
    try:
        return data.decode("cp1252")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _likeness(text: str) -> tuple[int, int, int]:
    """How much UTF-16 of one byte order looks like text; the higher tuple is the likelier."""
    sample = [c for c in text[:_SAMPLE] if c != "\0"]
    strange = sum(unicodedata.category(c) in _NO_TEXT and c not in _SPACE for c in sample)
    latin = sum(ord(c) < _LATIN for c in sample)
    rows = len({ord(c) >> 8 for c in sample})  # the letters of a script lie together
    return latin - strange, -strange, -rows
