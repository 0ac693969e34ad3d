"""What a check of an index found: problems, each with what mends it, and what was checked.

Only values; they are found and mended by the other modules of this room.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from indexes.catalogue import Catalogue

Progress = Callable[[str, int, int], None]
"""Called with what is checked, how many are done, and of how many."""
Mend = Callable[[Catalogue], str]
"""Mends a problem in an open catalogue, in a transaction; returns a sentence on what was done."""

REPAIR = "retrieval check --repair"
REBUILD = "retrieval index --rebuild"
NEW_INDEX = "retrieval index FOLDER --index NEW"
_SHOWN = 5  # examples in a sentence


@dataclass(frozen=True)
class Problem:
    """Something that is wrong.

    what: a sentence on what and where; mend: None if it cannot be mended in the catalogue that
    there is; remedy: the command that helps; is_damaged_file: SQLite cannot read all of the file.
    """

    what: str
    mend: Mend | None = None
    remedy: str = REPAIR
    is_damaged_file: bool = False


@dataclass(frozen=True)
class CheckReport:
    """What a check found.

    format: of the catalogue; checked: what was looked at, with counts; problems: what is wrong;
    notes: what is no fault but worth knowing; repaired: what a repair did, before the index was
    checked again.
    """

    folder: Path
    format: int
    checked: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    repaired: tuple[str, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def listed(items: Sequence[object], noun: str) -> str:
    """The number of items with the first of them, as in "3 photos (4, 7, 9)"."""
    shown = ", ".join(str(item) for item in items[:_SHOWN])
    more = ", …" if len(items) > _SHOWN else ""
    return f"{len(items):,} {noun}{'' if len(items) == 1 else 's'} ({shown}{more})"
