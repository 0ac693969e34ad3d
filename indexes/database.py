"""One SQLite file as a database of ours: opened, checked, and its errors told in sentences.

Knows the format's number and mark, and how SQLite fails; what the tables mean is the catalogue's.
"""

import functools
import os
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar
from urllib.parse import quote

from indexes.errors import (
    IndexBusyError,
    IndexDamagedError,
    IndexMissingError,
    RetrievalError,
    StorageError,
)

if TYPE_CHECKING:
    import sqlite_utils

FILENAME = "catalogue.db"
FORMAT_VERSION = 3
# The one virtual table that a catalogue may have, see indexes.fulltext. English endings are taken
# off and accents ignored, in the text and in the query alike.
FULL_TEXT = (
    "CREATE VIRTUAL TABLE words USING "
    "fts5(captions, names, tokenize='porter unicode61 remove_diacritics 2')"
)
APPLICATION_ID = 0x52455456  # "RETV": says what the file is
_BUSY_SECONDS = 30.0
_SQL_VARIABLES = 30_000  # SQLite allows 32,766 in one statement

Params = ParamSpec("Params")
Result = TypeVar("Result")
AnyDatabase = TypeVar("AnyDatabase", bound="Database")


def guarded(
    method: Callable[Concatenate[AnyDatabase, Params], Result],
) -> Callable[Concatenate[AnyDatabase, Params], Result]:
    """Turn SQLite's errors into sentences."""

    @functools.wraps(method)
    def call(self: AnyDatabase, /, *args: Params.args, **kwargs: Params.kwargs) -> Result:
        try:
            return method(self, *args, **kwargs)
        except sqlite3.Error as error:
            raise explain(error, self.folder) from error

    return call


def explain(error: sqlite3.Error, folder: Path) -> RetrievalError:
    """The sentence for an error of SQLite."""
    text = str(error)
    if "full" in text:
        return StorageError(
            f"The disk is full: the index {folder} could not take more. What was committed before "
            "is kept. Make room and run the same command again."
        )
    if "locked" in text or "busy" in text:
        return IndexBusyError(
            f"The index {folder} is busy with another process. Wait a moment and try again."
        )
    if "readonly" in text or "unable to open" in text or "disk I/O" in text:
        return StorageError(
            f"The index {folder} cannot be written ({text}). Check the disk and the permissions "
            "of the folder, then run the same command again."
        )
    return IndexDamagedError(
        f"The index {folder} is damaged ({text}). Your photos are not touched by this: delete "
        "that folder and run `retrieval index` again."
    )


def chunks(values: list[Any]) -> Iterable[list[Any]]:
    """The values in parts that one statement can take."""
    return (values[i : i + _SQL_VARIABLES] for i in range(0, len(values), _SQL_VARIABLES))


class Database:
    """An open database file in the folder of an index."""

    def __init__(self, folder: Path, connection: sqlite3.Connection) -> None:
        self.folder = folder
        self.conn = connection

    @functools.cached_property
    def db(self) -> "sqlite_utils.Database":
        """The same connection, for what writes: importing it would slow down every search."""
        import sqlite_utils

        return sqlite_utils.Database(self.conn, execute_plugins=False)

    @classmethod
    def _new(cls, folder: Path) -> Self:
        """An empty database in `folder`, which has to exist.

        `_stamp` makes it one of ours and `_use_wal` turns on the log, once the tables are there: in
        the log they would take twice the room.
        """
        try:
            connection = sqlite3.connect(folder / FILENAME, timeout=_BUSY_SECONDS)
            database = cls(folder, connection)
            database._pragmas()
        except sqlite3.Error as error:
            raise explain(error, folder) from error
        return database

    def _has(self, table: str) -> bool:
        row = self.conn.execute("SELECT 1 FROM sqlite_schema WHERE name = ?", [table]).fetchone()
        return row is not None

    @guarded
    def _use_wal(self) -> None:
        self.conn.execute("PRAGMA journal_mode=WAL").fetchall()

    def _stamp(self) -> None:
        self.conn.execute(f"PRAGMA application_id={APPLICATION_ID}")
        self.conn.execute(f"PRAGMA user_version={FORMAT_VERSION}")

    @classmethod
    def open(cls, folder: Path, writable: bool = False) -> Self:
        """Open the database in `folder` and check that it is whole and of a known format."""
        path = folder / FILENAME
        if not path.is_file():
            raise IndexMissingError(
                f"There is no index in {folder}. Make one with `retrieval index FOLDER`."
            )
        mode = "rw" if writable else "ro"
        try:
            database = cls._connect(folder, f"mode={mode}")
        except sqlite3.OperationalError as error:
            if writable or os.access(folder, os.W_OK):
                raise explain(error, folder) from error
            try:  # a read-only disk has no place for WAL's shared memory file
                database = cls._connect(folder, "mode=ro&immutable=1")
            except sqlite3.Error as again:
                raise explain(again, folder) from again
        except sqlite3.Error as error:
            raise explain(error, folder) from error
        return database

    @classmethod
    def _connect(cls, folder: Path, options: str) -> Self:
        url = f"file:{quote(os.fsencode(folder / FILENAME))}?{options}"
        connection = sqlite3.connect(url, uri=True, timeout=_BUSY_SECONDS, check_same_thread=False)
        try:
            database = cls(folder, connection)
            database._pragmas()
            database._check_format()
        except BaseException:
            connection.close()
            raise
        return database

    def _pragmas(self) -> None:
        # A catalogue may come from somebody else: its schema must not run functions on our behalf.
        self.conn.execute("PRAGMA trusted_schema=OFF")
        self.conn.execute("PRAGMA cell_size_check=ON")
        self.conn.execute("PRAGMA foreign_keys=ON")
        self.conn.execute("PRAGMA synchronous=NORMAL")

    def _check_format(self) -> None:
        (application,) = self.conn.execute("PRAGMA application_id").fetchone()
        (version,) = self.conn.execute("PRAGMA user_version").fetchone()
        if application != APPLICATION_ID:
            raise sqlite3.DatabaseError("it is not a catalogue of retrieval")
        if self.conn.execute(
            "SELECT 1 FROM sqlite_schema WHERE type IN ('view', 'trigger') LIMIT 1"
        ).fetchone():
            raise sqlite3.DatabaseError("it holds views or triggers, which no index has")
        virtual = "SELECT sql FROM sqlite_schema WHERE sql LIKE 'CREATE VIRTUAL%'"
        if any(sql != FULL_TEXT for (sql,) in self.conn.execute(virtual).fetchall()):
            raise sqlite3.DatabaseError("it holds a virtual table that no index has")
        if version > FORMAT_VERSION:
            raise IndexDamagedError(
                f"The index {self.folder} has format {version}, made by a newer retrieval; this "
                f"one reads up to {FORMAT_VERSION}. Upgrade with "
                "`pip install --upgrade crossmodal-retrieval`, or use another --index."
            )

    @property
    def format(self) -> int:
        """The number of the format that the file is in; at most FORMAT_VERSION."""
        return int(self.conn.execute("PRAGMA user_version").fetchone()[0])

    @guarded
    def checkpoint(self) -> None:
        """Bring all that was committed into the one file, and empty the log beside it."""
        self.conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.conn.close()

    def transaction(self) -> AbstractContextManager[Any]:
        """All or nothing; nested ones join the outer one."""
        return self.db.atomic()


def put_catalogue(staging: Path, folder: Path) -> None:
    """Move a closed catalogue into the index; the log of an older one must not stay beside it."""
    for suffix in ("-wal", "-shm"):
        (folder / f"{FILENAME}{suffix}").unlink(missing_ok=True)
    (staging / FILENAME).replace(folder / FILENAME)
