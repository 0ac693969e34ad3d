"""Text files in whatever encoding they were written: as lines, as one text, or from bytes.

A byte order mark decides; else zero bytes tell UTF-16; else a line is UTF-8 if it can be, and
Windows' cp1252 if it cannot. Statistics over letters, as detection libraries have them, guess wrong
on short lists, so there are none. What the text says is for others to find out.
"""

import codecs
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from retrieval.captions.rows import Note, unknown_format
from retrieval.photos.files import open_regular

LONGEST_LINE = 1 << 24  # characters
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16's, which it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SAMPLE = 1 << 16  # bytes


def find_encoding(sample: bytes) -> str:
    """The encoding of a text that begins with these bytes; utf-8 if its lines have to tell."""
    for mark, name in _MARKS:
        if sample.startswith(mark):
            return name
    zeros = [sample[start::2].count(0) for start in (0, 1)]
    if sum(zeros) < len(sample) // 20 or not sum(zeros):
        return "utf-8"  # zeros in it are damage, not half of its characters
    return "utf-16-le" if zeros[1] > zeros[0] else "utf-16-be"


def decode_text(data: bytes) -> str:
    """A whole text from its bytes. Never fails: what is no character becomes U+FFFD."""
    encoding = find_encoding(data[:_SAMPLE])
    if not encoding.startswith("utf-8"):
        return data.decode(encoding, "replace")
    text = data.decode(encoding, "surrogateescape")
    return "".join(_without_escapes(line) for line in re.split(r"(?<=[\r\n])", text))


class TextLines:
    """The lines of a file with their numbers, without line ends; they end with LF, CRLF or CR.

    A line that is too long to be one is given as None. The file is read once for each iteration, a
    piece at a time. follow: whether it may be a link; if not, reading raises PhotoError for one.
    """

    def __init__(self, file: Path, follow: bool = True) -> None:
        self.file, self._follow = file, follow
        self._utf8 = self._other = self._first = 0

    def __iter__(self) -> Iterator[tuple[int, str | None]]:
        self._utf8 = self._other = self._first = 0
        with self._open() as source:
            sample = source.read(_SAMPLE)
            source.seek(0)
            encoding = find_encoding(sample)
            errors = "surrogateescape" if encoding.startswith("utf-8") else "replace"
            text = io.TextIOWrapper(source, encoding, errors)
            number = 0
            try:
                while line := text.readline(LONGEST_LINE + 1):
                    number += 1
                    if len(line) > LONGEST_LINE:
                        while line and not line.endswith("\n"):
                            line = text.readline(LONGEST_LINE)
                        yield number, None
                    else:
                        yield number, self._decoded(number, line.rstrip("\n"))
            except UnicodeError as error:  # a mark of UTF-16 that nothing follows
                raise unknown_format(self.file, f"not text: {error}") from None

    def notes(self) -> list[Note]:
        """What there is to say about the encoding, after all lines were read."""
        if not (self._utf8 and self._other):
            return []
        others = f" and {self._other - 1:,} more" if self._other > 1 else ""
        return [
            Note(
                f"{self.file}, line {self._first}{others}",
                "the line is not UTF-8 as others are; it was read as Windows text (cp1252)",
            )
        ]

    def first(self) -> str:
        """The first line with anything in it; '' for a file without any."""
        return next((line for _, line in self if line is None or line.strip()), "") or ""

    def _open(self) -> BinaryIO:
        return self.file.open("rb") if self._follow else open_regular(self.file)

    def _decoded(self, number: int, line: str) -> str:
        if line.isascii():
            return line
        decoded = _without_escapes(line)
        if decoded is line:
            self._utf8 += 1
        else:
            self._other += 1
            self._first = self._first or number
        return decoded


def _without_escapes(line: str) -> str:
    """A line that was decoded as UTF-8 with surrogate escapes; as cp1252 if it has any."""
    try:
        line.encode()
        return line
    except UnicodeEncodeError:
        return line.encode("utf-8", "surrogateescape").decode("cp1252", "replace")
