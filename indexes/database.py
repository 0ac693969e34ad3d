"""One SQLite file: opened, checked, and its errors turned into sentences.

Knows the number and the mark of the format, and how SQLite fails. What the tables mean is the
business of the classes that hold them.
"""

import functools
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, Self, TypeVar
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
# The only virtual table that a catalogue may have, see indexes.fulltext. English endings are
# removed and accents ignored, in the text and in the query alike.
FULL_TEXT = (
    "CREATE VIRTUAL TABLE words USING "
    "fts5(captions, names, tokenize='porter unicode61 remove_diacritics 2')"
)
APPLICATION_ID = 0x52455456  # "RETV": marks the file as a catalogue
_BUSY_SECONDS = 30.0
_SQL_VARIABLES = 30_000  # SQLite allows 32,766 in one statement


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turn SQLite's errors into errors of this project, about the index in `folder`."""
    try:
        yield
    except sqlite3.Error as error:
        raise _explain(error, folder) from error


def _explain(error: sqlite3.Error, folder: Path) -> RetrievalError:
    text = str(error)
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
        return StorageError(
            f"The index {folder} cannot be written ({text}). Check the disk and the permissions "
            "of the folder, then run the same command again."
        )
    return IndexDamagedError(
        f"The index {folder} is damaged ({text}). Your photos are not touched: delete that "
        "folder and run `retrieval index` again."
    )


class HasDatabase(Protocol):
    """A part of the catalogue."""

    @property
    def database(self) -> "Database":
        """Where its tables are."""


Table = TypeVar("Table", bound=HasDatabase)
Params = ParamSpec("Params")
Result = TypeVar("Result")


def guarded(
    method: Callable[Concatenate[Table, Params], Result],
) -> Callable[Concatenate[Table, Params], Result]:
    """`explained` for a method of a part of the catalogue."""

    @functools.wraps(method)
    def call(self: Table, /, *args: Params.args, **kwargs: Params.kwargs) -> Result:
        with explained(self.database.folder):
            return method(self, *args, **kwargs)

    return call


class Database:
    """An open catalogue file in the folder of an index.

    folder: of the index. conn: the connection.
    """

    def __init__(self, folder: Path, connection: sqlite3.Connection) -> None:
        self.folder = folder
        self.conn = connection

    @functools.cached_property
    def db(self) -> "sqlite_utils.Database":
        """The same connection, for writing: importing sqlite-utils would slow down a search."""
        import sqlite_utils

        return sqlite_utils.Database(self.conn, execute_plugins=False)

    @classmethod
    def create(cls, folder: Path) -> Self:
        """An empty file in `folder`, which has to exist.

        `stamp` marks it as a catalogue. `use_wal` turns on the write-ahead log once the tables are
        there: written through the log, they would take twice the space.
        """
        with explained(folder):
            database = cls(folder, sqlite3.connect(folder / FILENAME, timeout=_BUSY_SECONDS))
            database._pragmas()
        return database

    @classmethod
    def open(cls, folder: Path, writable: bool = False) -> Self:
        """Open the file in `folder` and check that it is whole and of a known format.

        Raises IndexMissingError, IndexDamagedError, IndexBusyError or StorageError.
        """
        if not (folder / FILENAME).is_file():
            raise IndexMissingError(
                f"There is no index in {folder}. Make one with `retrieval index FOLDER`."
            )
        with explained(folder):
            try:
                return cls._connect(folder, f"mode={'rw' if writable else 'ro'}")
            except sqlite3.OperationalError:
                if writable or os.access(folder, os.W_OK):
                    raise
            # A read-only disk has no room for the shared memory file of the write-ahead log.
            return cls._connect(folder, "mode=ro&immutable=1")

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
        if application != APPLICATION_ID:
            raise sqlite3.DatabaseError("it is not a catalogue of retrieval")
        if self.conn.execute(
            "SELECT 1 FROM sqlite_schema WHERE type IN ('view', 'trigger') LIMIT 1"
        ).fetchone():
            raise sqlite3.DatabaseError("it holds views or triggers, which no index has")
        virtual = "SELECT sql FROM sqlite_schema WHERE sql LIKE 'CREATE VIRTUAL%'"
        if any(sql != FULL_TEXT for (sql,) in self.conn.execute(virtual).fetchall()):
            raise sqlite3.DatabaseError("it holds a virtual table that no index has")
        if self.format > FORMAT_VERSION:
            raise IndexDamagedError(
                f"The index {self.folder} has format {self.format}, written by a newer retrieval; "
                f"this one reads up to {FORMAT_VERSION}. Upgrade with "
                "`pip install --upgrade crossmodal-retrieval`, or choose another index with "
                "--index DIR."
            )

    @property
    def format(self) -> int:
        """The number of the file's format; at most FORMAT_VERSION once it is open."""
        return int(self.conn.execute("PRAGMA user_version").fetchone()[0])

    def stamp(self) -> None:
        """Mark the file as a catalogue of the present format."""
        self.conn.execute(f"PRAGMA application_id={APPLICATION_ID}")
        self.conn.execute(f"PRAGMA user_version={FORMAT_VERSION}")

    def use_wal(self) -> None:
        """Turn on the write-ahead log, which lets others read during a write."""
        with explained(self.folder):
            self.conn.execute("PRAGMA journal_mode=WAL").fetchall()

    def has_table(self, name: str) -> bool:
        """Whether the table is there; older formats lack some."""
        row = self.conn.execute("SELECT 1 FROM sqlite_schema WHERE name = ?", [name]).fetchone()
        return row is not None

    def checkpoint(self) -> None:
        """Move all that was committed from the write-ahead log into the main file."""
        with explained(self.folder):
            self.conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; a nested transaction joins the outer one."""
        with explained(self.folder), self.db.atomic():
            yield

    def rows_of(self, query: str, values: Iterable[Any]) -> list[tuple[Any, ...]]:
        """All rows of a query whose `{marks}` stand for `values`, however many they are."""
        values = list(values)
        rows: list[tuple[Any, ...]] = []
        for start in range(0, len(values), _SQL_VARIABLES):
            part = values[start : start + _SQL_VARIABLES]
            rows += self.conn.execute(query.format(marks=",".join("?" * len(part))), part)
        return rows


def move_catalogue(source: Path, folder: Path) -> None:
    """Move a closed catalogue from one folder to another, in place of the one there.

    The log of the old catalogue goes first: SQLite would replay it into the new one.
    """
    for suffix in ("-wal", "-shm"):
        (folder / f"{FILENAME}{suffix}").unlink(missing_ok=True)
    (source / FILENAME).replace(folder / FILENAME)
