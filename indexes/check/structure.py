"""The catalogue as SQLite sees it: its pages and indexes, its tables and columns, its references.

What the values mean is checked in `indexes.check.rows`.
"""

import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial

from indexes.catalogue import Catalogue
from indexes.check.report import NEW_INDEX, REBUILD, Problem
from indexes.check.rows import COLUMNS, SINCE_FORMAT, columns_of
from indexes.database import Database
from indexes.unreadable import is_about_the_file

_MOST_MESSAGES = 100  # of SQLite's check
_ABOUT_INDEXES = ("missing from index", "entries in index", "non-unique entry in index")
# These are found by check.rows and check.relations, with what mends them.
_ABOUT_VALUES = (" value in ", "fts5", "inverted index")
_NEEDED_BY_A_REBUILD = ("meta", "roots")


def messages_of_sqlite(database: Database) -> list[str]:
    """What SQLite's check of all pages and indexes says, if it finds anything.

    An error of the disk is raised: it says nothing about what is in the file.
    """
    try:
        rows = database.conn.execute(f"PRAGMA integrity_check({_MOST_MESSAGES})").fetchall()
    except sqlite3.DatabaseError as error:
        if not is_about_the_file(error):
            raise
        return [str(error)]
    return [" ".join(str(text).split()) for (text,) in rows if text != "ok"]


def damage(messages: Sequence[str]) -> str | None:
    """The first message about pages that cannot be read; None if every table can be."""
    others = (*_ABOUT_INDEXES, *_ABOUT_VALUES)
    return next((m for m in messages if not any(part in m for part in others)), None)


def check_indexes(messages: Sequence[str]) -> Iterator[Problem]:
    """SQLite's own indexes against their tables."""
    wrong = next((m for m in messages if any(part in m for part in _ABOUT_INDEXES)), None)
    if wrong:
        yield Problem(f"SQLite's indexes do not match their tables ({wrong}).", _compute_indexes)


def _compute_indexes(catalogue: Catalogue) -> str:
    catalogue.database.conn.execute("REINDEX")
    return "SQLite's indexes were computed again."


def check_tables(database: Database) -> Iterator[Problem]:
    """Whether all tables and columns of the format are there."""
    for table in COLUMNS:
        columns = columns_of(table, database.format)
        if database.format < SINCE_FORMAT.get(table, 1):
            continue
        remedy = NEW_INDEX if table in _NEEDED_BY_A_REBUILD else REBUILD
        query = "SELECT name FROM pragma_table_info(?)"
        found = {name for (name,) in database.conn.execute(query, [table])}
        missing = sorted(columns.keys() - found)
        if not found:
            yield Problem(f"The table {table} is missing.", remedy=remedy)
        elif missing:
            yield Problem(f"The table {table} lacks {', '.join(missing)}.", remedy=remedy)


def check_references(database: Database) -> Iterator[Problem]:
    """Rows that refer to photos or folders that are not in the index."""
    orphans: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for table, rowid, parent, _ in database.conn.execute("PRAGMA foreign_key_check"):
        orphans[table, parent].append(rowid or 0)
    for (table, parent), rowids in orphans.items():
        if table not in COLUMNS:
            continue
        what = "an indexed folder" if parent == "roots" else "a photo"
        yield Problem(
            f"{table}: {len(rowids):,} row(s) belong to {what} that is not in the index.",
            partial(_delete_orphans, table=table, parent=parent, rowids=rowids),
        )


def _delete_orphans(catalogue: Catalogue, table: str, parent: str, rowids: Sequence[int]) -> str:
    conn = catalogue.database.conn
    if table == "captions":  # it has no rowid
        conn.execute("DELETE FROM captions WHERE root_id NOT IN (SELECT id FROM roots)")
    else:
        conn.executemany(f"DELETE FROM {table} WHERE rowid = ?", [(i,) for i in rowids])
    done = f"{table}: rows that belong to nothing were deleted."
    if table == "files" and parent == "roots":
        done += (
            " Name their folders again with `retrieval index FOLDER`; photos that are still in the "
            "index are not encoded again."
        )
    return done
