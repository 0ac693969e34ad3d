"""What the tables say about each other: presence, reasons, full text, and where folders are.

Nothing here reads a photo.
"""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from functools import partial

from indexes.catalogue import Catalogue
from indexes.check.report import Problem, listed
from indexes.database import Database
from indexes.errors import RetrievalError
from indexes.fulltext import has_fts5, passes_own_check


def check_presence(database: Database) -> Iterator[Problem]:
    """Whether photos are marked as on disk exactly if one of their files is."""
    rows = database.conn.execute(
        "SELECT id FROM photos WHERE present IS NOT (EXISTS (SELECT 1 FROM files f "
        "WHERE f.photo_id = photos.id AND f.present))"
    )
    wrong = [i for (i,) in rows]
    if wrong:
        yield Problem(
            f"photos: {listed(wrong, 'photo')} marked as on disk, or as missing, against what "
            "their files say.",
            _mend_presence,
        )


def _mend_presence(catalogue: Catalogue) -> str:
    catalogue.database.conn.execute(
        "UPDATE photos SET present = (EXISTS (SELECT 1 FROM files f "
        "WHERE f.photo_id = photos.id AND f.present))"
    )
    return "Which photos are on disk was computed again from their files."


def check_files(database: Database) -> Iterator[Problem]:
    """Whether each file is a photo or has a reason why it is none."""
    rows = database.conn.execute(
        "SELECT rowid FROM files WHERE (photo_id IS NULL) = (reason IS NULL)"
    )
    wrong = [i for (i,) in rows]
    if wrong:
        yield Problem(
            f"files: {listed(wrong, 'row')} with neither a photo nor a reason, or with both.",
            partial(_delete_files, ids=wrong),
        )


def _delete_files(catalogue: Catalogue, ids: Sequence[int]) -> str:
    catalogue.database.conn.executemany("DELETE FROM files WHERE rowid = ?", [(i,) for i in ids])
    return f"{len(ids):,} row(s) of files were deleted: run `retrieval index` to read them again."


def check_full_text(catalogue: Catalogue) -> Iterator[Problem]:
    """The full-text table: its structure, and its texts against captions and names."""
    database = catalogue.database
    if not has_fts5(database.conn):
        return
    if not database.has_table("words"):
        yield Problem("The full-text table is missing.", _compute_full_text)
        return
    try:
        outdated = catalogue.full_text.outdated()
    except (sqlite3.DatabaseError, RetrievalError) as error:
        yield Problem(f"The full-text table cannot be read ({error}).", _compute_full_text)
        return
    if not _structure_is_whole(database):
        yield Problem("The full-text table is damaged (FTS5's own check).", _compute_full_text)
    elif outdated:
        yield Problem(
            f"Full text differs from captions and names for {listed(outdated, 'photo')}: it was "
            "changed, or the last `retrieval index` did not end.",
            _compute_full_text,
        )


def _structure_is_whole(database: Database) -> bool:
    """Whether the table passes FTS5's own check, which needs a connection that could write.

    Also true if there is none, as on a read-only disk.
    """
    if not os.access(database.folder, os.W_OK):
        return True
    with (
        suppress(RetrievalError, sqlite3.OperationalError),
        closing(Database.open(database.folder, writable=True)) as other,
    ):
        other.conn.execute("BEGIN IMMEDIATE")  # fails if another process writes
        try:
            return passes_own_check(other.conn)
        finally:
            other.conn.rollback()
    return True


def _compute_full_text(catalogue: Catalogue) -> str:
    catalogue.full_text.update()
    return "Full text was computed again from captions and names."
