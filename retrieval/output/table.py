"""Hits as a table with a header, which can be fitted to the width of a terminal.

Text in, text out. Other formats of hits are in `retrieval.output.text`.
"""

import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

from retrieval.photos.files import printable
from retrieval.search.hits import Hit

_GAP = "  "
_MIN_PATH = 20  # columns; a narrower terminal wraps its lines
_ELLIPSIS = "…"
_NO_WIDTH = ("Mn", "Me", "Cf")  # marks over, under and around a letter; joiners


def as_table(hits: Sequence[Hit], width: int | None = None) -> str:
    """Hits as lines of columns under a header.

    width: columns of the terminal. Longer paths are shortened in the middle to fit; by default
    they stay whole, so that other programs can read them.
    """
    if not hits:
        return "No photo matches.\n"
    columns = [
        _column("Rank", [str(hit.rank) for hit in hits], _right),
        _column("Score", [f"{hit.score:.3f}" for hit in hits], _right),
    ]
    if any(hit.relevance is not None for hit in hits):
        columns.append(_column("Relevance", [percentage(hit) for hit in hits], _right))
    taken = _column("Taken", [printable((hit.photo.taken or "")[:10]) for hit in hits], _left)
    paths = [_from_here(hit.path) for hit in hits]
    if width is not None:
        # One column stays free at the left, and terminals may wrap a line that fills the last one.
        others = sum(_columns_of(column[0]) for column in (*columns, taken))
        room = width - 2 - others - len(_GAP) * (len(columns) + 1)
        paths = [shorten(path, max(room, _MIN_PATH)) for path in paths]
    columns += [_column("Photo", paths, _left), taken]
    return "".join(f" {_GAP.join(cells)}".rstrip() + "\n" for cells in zip(*columns, strict=True))


def percentage(hit: Hit) -> str:
    """The relevance of a hit as '62%'; empty if it is unknown."""
    return "" if hit.relevance is None else f"{100 * hit.relevance:.0f}%"


def shorten(text: str, width: int) -> str:
    """A text of at most `width` terminal columns: what is too much is cut out of its middle.

    The end keeps more than the start, since that is where the name of a file is.
    """
    if _columns_of(text) <= width:
        return text
    head = _fitting(text, (width - 1) // 3)
    tail = _fitting(text[::-1], width - 1 - _columns_of(head))[::-1]
    while tail and _joins(tail[0]):  # a mark whose letter is cut out would sit on the ellipsis
        tail = tail[1:]
    return f"{head}{_ELLIPSIS}{tail}"


def _from_here(path: Path) -> str:
    """A path as one would type it: relative if it is below the working directory."""
    here = Path.cwd()
    return printable(path.relative_to(here) if path.is_relative_to(here) else path)


def _column(title: str, cells: Sequence[str], align: Callable[[str, int], str]) -> list[str]:
    wide = max(_columns_of(cell) for cell in (title, *cells))
    return [align(cell, wide) for cell in (title, *cells)]


def _left(text: str, wide: int) -> str:
    return text + " " * (wide - _columns_of(text))


def _right(text: str, wide: int) -> str:
    return " " * (wide - _columns_of(text)) + text


def _fitting(text: str, width: int) -> str:
    """The longest start of a text that takes at most `width` columns."""
    used = 0
    for position, character in enumerate(text):
        used += _columns_of(character)
        if used > width:
            return text[:position]
    return text


def _columns_of(text: str) -> int:
    """How many columns of a terminal a text takes: two for a wide character, none for a mark."""
    return sum(
        0
        if unicodedata.category(c) in _NO_WIDTH
        else 2
        if unicodedata.east_asian_width(c) in "WF"
        else 1
        for c in text
    )


def _joins(character: str) -> bool:
    """Whether a character is shown with the one before it."""
    category = unicodedata.category(character)
    return category[0] == "M" or category in _NO_WIDTH
