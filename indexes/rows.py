"""Rows of the catalogue as values: each is checked before it is used.

An index may come from somebody else, or be damaged in ways that SQLite does not notice: columns
hold any type. What does not fit is a RowError that names the table, the row and the column.
"""

import math
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from indexes.arrays import Ints

MAX_ID = 2**62
"""The highest id of a photo, folder or file. Ids count from 1, so only damage reaches it; those of
a lake are the first 62 bits of a hash."""
_MAX_SHOWN = 40  # characters of a wrong value in a message


class RowError(sqlite3.DatabaseError):
    """What the catalogue holds makes no sense, though SQLite can read it."""


@dataclass(frozen=True)
class Kind:
    """What a column may hold. name: for messages, as in "is not NAME"."""

    name: str
    fits: Callable[[Any], bool]

    def optional(self) -> "Kind":
        """The same, or NULL."""
        return Kind(f"{self.name} or empty", lambda value: value is None or self.fits(value))


def _is_text(value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        return value.isascii() or bool(value.encode())  # not if it has surrogates
    except UnicodeEncodeError:
        return False


def _is_path(value: object) -> bool:
    return (_is_text(value) and "\0" not in str(value)) or (
        isinstance(value, bytes) and b"\0" not in value
    )


ID = Kind("an id", lambda value: isinstance(value, int) and 0 < value <= MAX_ID)
INTEGER = Kind("a whole number", lambda value: isinstance(value, int))
COUNT = Kind("a number of bytes or pixels", lambda value: isinstance(value, int) and value >= 0)
NUMBER = Kind("a number", lambda value: isinstance(value, int | float) and math.isfinite(value))
WEIGHT = Kind(
    "a weight from 0 to 1",
    lambda value: isinstance(value, int | float) and -1e-3 <= value <= 1 + 1e-3,
)
TEXT = Kind("text", _is_text)
BYTES = Kind("bytes", lambda value: isinstance(value, bytes))
PATH = Kind("a path", _is_path)


class Columns:
    """The columns of a query, with what each may hold. table: for messages.

    The first column tells which row it is.
    """

    def __init__(self, table: str, columns: Mapping[str, Kind]) -> None:
        self._table = table
        self._names = tuple(columns)
        self._kinds = tuple(columns.values())
        self._fits = tuple(kind.fits for kind in columns.values())

    def checked(self, row: Sequence[Any]) -> Sequence[Any]:
        """The row as it is; raises RowError if a value does not fit its column."""
        for position, fits in enumerate(self._fits):
            if not fits(row[position]):
                raise self._error(row, position)
        return row

    def all_checked(self, rows: Iterable[Sequence[Any]]) -> list[Any]:
        """`checked` for all rows."""
        return [self.checked(row) for row in rows]

    def _error(self, row: Sequence[Any], position: int) -> RowError:
        where = f"{self._table}.{self._names[position]}"
        if position:
            where += f" where {self._names[0]} is {_shown(row[0])}"
        return RowError(f"{where}: {_shown(row[position])} is not {self._kinds[position].name}")


def id_array(rows: Sequence[Sequence[Any]], column: str) -> Ints:
    """The first column of rows as ids, int64 [n]; raises RowError for what is no id.

    column: its name, for the message.
    """
    values = [row[0] for row in rows]
    if not values:
        return np.empty(0, np.int64)
    if not set(map(type, values)) <= {int}:
        wrong = next(value for value in values if type(value) is not int)
        raise RowError(f"{column}: {_shown(wrong)} is not an id")
    ids = np.array(values, np.int64)
    wrong_ids = ids[(ids < 1) | (ids > MAX_ID)]
    if wrong_ids.size:
        raise RowError(f"{column}: {wrong_ids[0]} is not an id")
    return ids


def _shown(value: object) -> str:
    """A value from the catalogue in a message."""
    if value is None:
        return "nothing"
    text = repr(value[:_MAX_SHOWN]) if isinstance(value, str | bytes) else repr(value)
    return text if len(text) <= _MAX_SHOWN + 10 else f"{text[:_MAX_SHOWN]}…"
