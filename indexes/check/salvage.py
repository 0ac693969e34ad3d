"""Copy what can be read of a catalogue with damaged pages into a new one, which takes its place.

The pages that cannot be read are left out; checksums and the checks of every row decide whether the
rest is right. What is lost is encoded or read again by the next run.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from indexes.catalogue import Catalogue
from indexes.check.rows import COLUMNS
from indexes.database import Database, place_catalogue
from indexes.regular_files import delete_tree
from indexes.sqlite_errors import explained
from indexes.staged_rebuild import REBUILD
from indexes.unreadable import is_about_the_file

_BATCH_SIZE = 500
_MOST_SMALL_STEPS = 1000  # past a damaged page, one id at a time; then the steps grow
_BY_ID = {"roots": "id", "photos": "id", "files": "id"}  # the others have photo_id


def salvage(folder: Path) -> str:
    """Replace the damaged catalogue in `folder`, whose lock the caller holds.

    Returns a sentence on what was done. Raises IndexDamagedError if not even the model can be read.
    """
    staging = folder / REBUILD
    delete_tree(staging)
    staging.mkdir()
    try:
        with (
            closing(Database.open(folder)) as old,
            explained(folder),
            Catalogue.create(staging, Catalogue(old).model()) as new,
        ):
            photos = _copy(old, new)
            new.database.checkpoint()
        place_catalogue(staging, folder)
    finally:
        with suppress(OSError):  # the next run deletes what is left
            delete_tree(staging)
    return (
        f"The catalogue had damaged pages: what could be read of it ({photos:,} photos) is now in "
        "a new one. Run `retrieval index` to add the rest again."
    )


def _copy(old: Database, new: Catalogue) -> int:
    """Copy all tables; returns the number of photos."""
    old.conn.text_factory = lambda data: data.decode("utf-8", "replace")
    new.database.conn.execute("PRAGMA foreign_keys=OFF")  # what belongs to nothing goes afterwards
    with new.transaction():
        with suppress(sqlite3.DatabaseError):
            for key, value in old.conn.execute("SELECT key, value FROM meta WHERE key > 'setting'"):
                new.meta.put(key, value)
        for table in COLUMNS.keys() - {"meta", "captions"}:
            _copy_table(old, new.database, table)
        if not _copy_captions(old, new.database):
            new.database.conn.execute("UPDATE files SET mtime_ns = 0")  # they are read again
        (photos,) = new.database.conn.execute("SELECT count(*) FROM photos").fetchone()
    return int(photos)


def _copy_table(old: Database, new: Database, table: str) -> None:
    columns = _columns(new, table)
    names, marks = ", ".join(columns), ", ".join("?" * len(columns))
    key = _BY_ID.get(table, "photo_id")
    query = f"SELECT {key}, {names} FROM {table} WHERE {key} > ? ORDER BY {key} LIMIT ?"
    for rows in _readable(old, query):
        new.conn.executemany(
            f"INSERT OR IGNORE INTO {table} ({names}) VALUES ({marks})", (row[1:] for row in rows)
        )


def _readable(old: Database, query: str) -> Iterator[Sequence[tuple[Any, ...]]]:
    """The rows of a table by ascending id, without those on damaged pages."""
    last, failures, size = 0, 0, _BATCH_SIZE
    while last < 2**62:
        try:
            rows = old.conn.execute(query, [last, size]).fetchall()
        except sqlite3.DatabaseError as error:
            _raise_if_not_damage(error)
            if size > 1:  # the rows before the damaged page
                size = 1
                continue
            failures += 1
            last += 1 << max(failures - _MOST_SMALL_STEPS, 0)
            continue
        if not rows or not isinstance(rows[-1][0], int) or rows[-1][0] <= last:
            return
        yield rows
        last, failures = rows[-1][0], 0
        size = min(2 * size, _BATCH_SIZE)


def _copy_captions(old: Database, new: Database) -> bool:
    """Copy the captions up to the first damaged page; returns whether there was none."""
    columns = _columns(new, "captions")
    names, marks = ", ".join(columns), ", ".join("?" * len(columns))
    try:
        cursor = old.conn.execute(f"SELECT {names} FROM captions")
        while rows := cursor.fetchmany(_BATCH_SIZE):
            new.conn.executemany(f"INSERT OR IGNORE INTO captions VALUES ({marks})", rows)
    except sqlite3.DatabaseError as error:
        _raise_if_not_damage(error)
        return False
    return True


def _raise_if_not_damage(error: sqlite3.DatabaseError) -> None:
    """Raise an error of the disk: what could not be read may be read later, and must not be lost.

    What a damaged page holds may claim to be longer than any value can be.
    """
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if not is_about_the_file(error) and code != sqlite3.SQLITE_TOOBIG:
        raise error


def _columns(database: Database, table: str) -> list[str]:
    rows = database.conn.execute("SELECT name FROM pragma_table_info(?)", [table])
    return [name for (name,) in rows]
