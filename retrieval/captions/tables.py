"""Tables of captions: CSV and its relatives as programs and people write them, a row at a time.

The delimiter and the columns are found by the names in the first line, else by which cells name
photos. A caption with commas that nobody quoted is taken whole. How lines become cells: see
`csv_records`.
"""

import ast
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from retrieval.captions.csv_records import DELIMITERS, Cells, read_records, split_cells
from retrieval.captions.rows import (
    Note,
    Problem,
    Row,
    checked_row,
    columns,
    quoted,
    unknown_format,
)
from retrieval.captions.text_lines import LONGEST_LINE, TextLines
from retrieval.photos.walk import PHOTO_SUFFIXES, RAW_SUFFIXES

_SAMPLE = 30  # lines that are looked at where no names tell the columns
_PHOTO = rf"\.(?:{'|'.join(sorted(PHOTO_SUFFIXES | RAW_SUFFIXES))})"
_ENDS_AS_PHOTO = re.compile(rf".{_PHOTO}(#\d+)?[\"'\s]*\Z", re.IGNORECASE)
_NUMBER = re.compile(rf"({_PHOTO})#\d+\Z", re.IGNORECASE)  # of a caption, as Flickr has it
_BADLY_JOINED = re.compile(r"\s*\d+\s{2,}(.+)", re.DOTALL)  # in the kaggle copy of Flickr30k
MORE_CELLS = (
    "the row has more cells than there are columns; delimiters without quotes around them were "
    "taken as part of the caption"
)
_AFTER_QUOTES = (
    "the row has more cells than there are columns; what follows the quotes was left out"
)
_NO_DELIMITER = "a delimiter before the caption is missing; the number before it was left out"
_OPEN_QUOTE = "a quote is not closed; it was taken as a letter of the caption"


@dataclass(frozen=True)
class _Layout:
    """Where things are in a row: the columns, and how many there are; with_header: whether the
    first line names them."""

    delimiter: str
    width: int
    image: int
    captions: tuple[int, ...]
    split: int | None = None
    with_header: bool = True

    def begins_row(self, line: str) -> bool:
        """Whether a line begins a row for certain: a photo's name is where rows have it."""
        cells = line.split(self.delimiter, self.image + 1)
        is_last = self.image == self.width - 1
        return self.image < len(cells) - (not is_last) and names_photo(cells[self.image])


def read_table(lines: TextLines) -> Iterator[Row | Problem | Note]:
    """The rows of a table, and what is wrong with others.

    Raises DataSetError if it is no table of captions.
    """
    layout, start = _find_layout(lines)
    for number, cells in read_records(lines, layout.delimiter, layout.begins_row):
        if number < start:
            continue
        where = f"{lines.file}, line {number}"
        if cells is None:
            yield Problem(where, f"the line is longer than {LONGEST_LINE:,} characters")
            continue
        found = _entry(cells, layout, where)
        if isinstance(found, Problem):
            yield found
            continue
        if found.captions == [""]:
            yield Note(where, "a caption is empty")
            continue
        yield from checked_row(where, found.image, found.captions, found.split)
        if found.note:
            yield Note(where, found.note)


def names_photo(cell: str) -> bool:
    """Whether a text ends like a photo's name."""
    return _ENDS_AS_PHOTO.search(cell) is not None


# Columns -----------------------------------------------------------------------------------------


def _find_layout(lines: TextLines) -> tuple[_Layout, int]:
    """The layout, and the number of the first line below the header, if there is one."""
    listed = ((number, line) for number, line in lines if line is None or line.strip())
    sample = [(n, line) for n, line in islice(listed, _SAMPLE) if line is not None]
    delimiters = DELIMITERS
    declared = re.fullmatch(r'"?sep=(.)"?', sample[0][1].strip(" \r")) if sample else None
    if declared:  # for Excel
        delimiters, sample = declared[1], sample[1:]
    if not sample:
        raise unknown_format(lines.file, "it is empty")
    start, header = sample[0]
    rows = [line for _, line in sample]
    for number, line in sample[:3]:  # there may be a title above the header
        for delimiter in delimiters:
            if layout := _by_names(line, delimiter):
                return layout, number + 1
    for delimiter in delimiters:
        if layout := _by_content(rows, delimiter):
            return layout, start + layout.with_header
    for delimiter in ": ":
        if all(d and names_photo(name) for name, d, _ in (r.partition(delimiter) for r in rows)):
            return _Layout(delimiter, 2, 0, (1,), with_header=False), start
    raise unknown_format(
        lines.file,
        f"its first line names no columns image and caption; it is {quoted(header)}",
    )


def _by_names(header: str, delimiter: str) -> _Layout | None:
    """The columns by their names in the first line."""
    names = [name.strip() for name in split_cells(header, delimiter).values]
    image, captions = columns(tuple(names))
    if image is None or not captions:
        return None
    lower = [name.lower() for name in names]
    return _Layout(
        delimiter,
        len(names),
        names.index(image),
        tuple(i for i, name in enumerate(names) if name in captions),
        lower.index("split") if "split" in lower else None,
        True,
    )


def _by_content(rows: Sequence[str], delimiter: str) -> _Layout | None:
    """The columns by their cells: one names photos, and the caption is the only other.

    The first line is a header if its cell in the column of photos names none. Without a header the
    caption may be one of several columns, the longest.
    """
    cells = [row for row in (split_cells(row, delimiter).values for row in rows) if len(row) > 1]
    if not cells:
        return None
    body = cells[1:] or cells
    widths = [len(row) for row in cells]
    shares = [sum(names_photo(row[i]) for row in body) / len(body) for i in range(min(widths))]
    image = next((i for i, share in enumerate(shares) if share > 0.8), None)
    if image is None:
        return None
    with_header = not names_photo(cells[0][image])
    width = widths[0] if with_header else min(widths)
    lengths = [sum(len(row[i]) for row in cells) for i in range(min(widths))]
    captions = tuple(sorted((i for i in range(min(widths)) if i != image), key=lengths.__getitem__))
    if with_header:
        names = [name.strip() for name in cells[0]]
        known = columns(("image", *names[:image], *names[image + 1 :]))[1]
        if not known:
            return None
        captions = tuple(names.index(name) for name in known)
    return _Layout(
        delimiter, width, image, captions if with_header else captions[-1:], None, with_header
    )


# Rows ------------------------------------------------------------------------------------------


_LIST = re.compile(
    r"""\[\s*(?:'(?:[^'\\]|\\.)*+'|"(?:[^"\\]|\\.)*+")"""
    r"""(?:\s*,\s*(?:'(?:[^'\\]|\\.)*+'|"(?:[^"\\]|\\.)*+"))*+\s*\]""",
    re.DOTALL,
)


@dataclass(frozen=True)
class _Entry:
    """What a row says; note: what is to be said about it."""

    image: str
    captions: list[Any]
    split: str | None
    note: str | None


def _entry(cells: Cells, layout: _Layout, where: str) -> _Entry | Problem:
    values, width, captions = cells.values, layout.width, layout.captions
    note = _OPEN_QUOTE if cells.is_open else None
    if len(values) > width and any(value.strip() for value in values[width:]):
        joined = _join(cells, layout) if len(captions) == 1 else None
        if joined is None:
            return _misfit(where, len(values), width)
        values, more = joined
        note = note or more
    elif len(values) == width - 1 and captions == (width - 1,):
        found = _BADLY_JOINED.fullmatch(values[-1])
        if found:
            values, note = [*values[:-1], "", found[1]], _NO_DELIMITER
    if layout.image >= len(values) or captions[0] >= len(values):
        return _misfit(where, len(values), width)
    split = values[layout.split].strip() if layout.split is not None else None
    texts = [text for i in captions if i < len(values) for text in _in_cell(values[i].strip())]
    if len(captions) > 1:  # of which some are often empty
        texts = [text for text in texts if text] or [""]
    name = _NUMBER.sub(r"\1", values[layout.image].strip())
    return _Entry(name, texts, split or None, note if layout.delimiter in DELIMITERS else None)


def _misfit(where: str, cells: int, width: int) -> Problem:
    return Problem(where, f"the row has {cells:,} cell(s), the header has {width:,}")


def _join(cells: Cells, layout: _Layout) -> tuple[list[str], str] | None:
    """A row with too many cells: those that its name or its caption was split into are joined.

    With what is to be said about it. None if it cannot be told which they are.
    """
    values, delimiter, caption = cells.values, layout.delimiter, layout.captions[0]
    if layout.width == 2 and layout.image == 0:  # a name may have commas, too: NAME.jpg,CAPTION
        end = next((i for i, value in enumerate(values[:-1]) if names_photo(value)), 0)
        name = delimiter.join(cells.raw[: end + 1]) if end else values[0]
        text, note = _caption(cells, end + 1, len(values), delimiter)
        return [name, text], note
    last = caption + 1 + len(values) - layout.width
    text, note = _caption(cells, caption, last, delimiter)
    joined = [*values[:caption], text, *values[last:]]
    # A caption in the middle may as well have lost its right neighbour, unless that is a photo.
    if caption == layout.width - 1 or (
        layout.image > caption and names_photo(joined[layout.image])
    ):
        return joined, note
    return None


def _caption(cells: Cells, start: int, end: int, delimiter: str) -> tuple[str, str]:
    """The cells from `start` to `end` as one, with what is to be said about it.

    A cell that is quoted because the delimiter is in it is whole. Other quotes are the caption's.
    """
    if cells.is_quoted(start) and (delimiter in cells.values[start] or cells.is_quoted(end - 1)):
        return cells.values[start], _AFTER_QUOTES
    return delimiter.join(cells.raw[start:end]), MORE_CELLS


def _in_cell(text: str) -> list[Any]:
    """The captions in a cell: one, or those of a list as JSON or Python writes it."""
    if text.startswith("["):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = ast.literal_eval(text) if _is_list(text) else None
        if isinstance(value, list) and value:
            return value
    return [text]


def _is_list(text: str) -> bool:
    """Whether a text is a list of texts as Python writes it; numpy's, without commas, is not."""
    try:
        return _LIST.fullmatch(text) is not None and bool(ast.literal_eval(text))
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return False
