"""Why an index could not be read: it is damaged, it holds wrong values, or it changed meanwhile.

Only SQLite's own check of the whole file counts as proof of damage, and nothing less makes a
message advise to delete an index.
"""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from indexes.errors import IndexChangedError, IndexDamagedError, RetrievalError
from indexes.rows import RowError


def explain_unreadable(error: sqlite3.Error, folder: Path, catalogue: Path) -> RetrievalError:
    """The error of an index in `folder` that SQLite, or a check of its rows, could not read."""
    if is_about_the_file(error):
        damage = _damage(catalogue)
        if damage is None:
            return IndexChangedError(
                f"The index {folder} could not be read ({error}), but SQLite's check finds it "
                "whole: another process may have been replacing it. Run the same command again."
            )
        return IndexDamagedError(
            f"The index {folder} is damaged ({damage}). Your photos are not touched: "
            "`retrieval check --repair` keeps what can be read. If that fails, delete that folder "
            "and run `retrieval index` again."
        )
    return IndexDamagedError(
        f"The index {folder} is damaged ({error}). Your photos are not touched. "
        "`retrieval check --repair` mends what can be mended. If that does not help, make the "
        "index again with `retrieval index --rebuild`, or another one with "
        "`retrieval index FOLDER --index NEW`."
    )


def is_about_the_file(error: sqlite3.Error) -> bool:
    """Whether SQLite could not read the file, rather than what it holds."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return not isinstance(error, RowError) and code in (
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
    )


def _damage(catalogue: Path) -> str | None:
    """The first thing that SQLite's check finds wrong with the file now; None if it is whole."""
    url = f"file:{quote(os.fsencode(catalogue))}?mode=ro"
    try:
        with closing(sqlite3.connect(url, uri=True)) as connection:
            connection.execute("PRAGMA trusted_schema=OFF")
            connection.execute("PRAGMA cell_size_check=ON")
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError:
        return None  # it was moved away, or may not be read now: nothing is proven
    except sqlite3.DatabaseError as error:
        return str(error)
    return None if found == "ok" else " ".join(str(found).split())
