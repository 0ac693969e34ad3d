"""What SQLite raises, as errors of this project: what happened and what to do next.

Why an index cannot be read is looked into by `indexes.unreadable`.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from indexes.errors import IndexBusyError, RetrievalError, StorageError
from indexes.locate import FILENAME
from indexes.rows import RowError
from indexes.unreadable import explain_unreadable


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turn SQLite's errors into errors of this project, about the index in `folder`."""
    try:
        yield
    except sqlite3.Error as error:
        raise _explain(error, folder) from error


def _explain(error: sqlite3.Error, folder: Path) -> RetrievalError:
    text = "" if isinstance(error, RowError) else str(error)  # a RowError may quote any text
    if "full" in text:
        return StorageError(
            f"The disk is full: the index {folder} could not take more. What was committed before "
            "is safe. Make room and run the same command again."
        )
    if "locked" in text or "busy" in text:
        return IndexBusyError(
            f"The index {folder} is busy with another process. Wait a moment and try again."
        )
    if "readonly" in text or "unable to open" in text or "disk I/O" in text:
        name = getattr(error, "sqlite_errorname", "")  # SQLITE_IOERR_READ, …_WRITE, …_FSYNC
        read = "IOERR" in name and "READ" in name
        what = "opened" if "unable to open" in text else "read" if read else "written"
        return StorageError(
            f"The index {folder} cannot be {what} ({text}). Check the disk and the permissions "
            "of the folder, then run the same command again."
        )
    return explain_unreadable(error, folder, folder / FILENAME)
