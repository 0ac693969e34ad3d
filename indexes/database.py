"""One SQLite file: opened, checked, and its errors turned into sentences.

Knows the number and the mark of the format, and how SQLite fails. What the tables mean is the
business of the classes that hold them.
"""

import functools
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, Self, TypeVar
from urllib.parse import quote

from indexes.atomic_write import replace_synced
from indexes.errors import IndexChangedError, IndexDamagedError, IndexMissingError
from indexes.lazy_imports import load_sqlite_utils
from indexes.locate import FILENAME
from indexes.regular_files import check_own_files, delete_file, is_regular
from indexes.rows import RowError
from indexes.sqlite_errors import explained

if TYPE_CHECKING:
    import sqlite_utils

FORMAT_VERSION = 4
# The only virtual table that a catalogue may have, see indexes.fulltext: its texts are cut into
# words by indexes.words, and English endings are removed. Before format 4, SQLite did all of it.
FULL_TEXT = (
    "CREATE VIRTUAL TABLE words USING "
    "fts5(captions, names, tokenize=\"porter ascii tokenchars '+#'\")"
)
_FULL_TEXT_BEFORE_4 = (
    "CREATE VIRTUAL TABLE words USING "
    "fts5(captions, names, tokenize='porter unicode61 remove_diacritics 2')"
)
# What SQLite writes beside the catalogue.
_LOG, _SHARED_MEMORY, _JOURNAL = (f"{FILENAME}{suffix}" for suffix in ("-wal", "-shm", "-journal"))
SQLITE_FILES = (FILENAME, _LOG, _SHARED_MEMORY, _JOURNAL)
APPLICATION_ID = 0x52455456  # "RETV": marks the file as a catalogue
_VFS_WITHOUT_LOCKS = "win32-none" if os.name == "nt" else "unix-none"
_BUSY_SECONDS = 30.0
_SQL_VARIABLES = 30_000  # SQLite allows 32,766 in one statement
_LAST_RUN = "last_run"  # a key of the table meta


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

    folder: of the index. conn: the connection. file: which file it is, see `_file_identity`.
    """

    def __init__(
        self,
        folder: Path,
        connection: sqlite3.Connection,
        writable: bool = True,
        file: tuple[int, int] = (0, 0),
    ) -> None:
        self.folder = folder
        self.conn = connection
        self.file = file
        self._writable = writable
        self._may_have_last_run = True

    def close(self) -> None:
        self.conn.close()

    def most_cache_bytes(self) -> int:
        """No cache file of the catalogue's photos is larger: twice its size, with its log.

        Caches hold float32 where the catalogue holds float16, and otherwise less.
        """
        total = 0
        for name in (_LOG, FILENAME):  # a checkpoint moves pages from the first to the second
            with suppress(OSError):
                total += (self.folder / name).lstat().st_size
        return 2 * total

    @functools.cached_property
    def db(self) -> "sqlite_utils.Database":
        """The same connection, for writing: importing sqlite-utils would slow down a search."""
        database: sqlite_utils.Database = load_sqlite_utils().Database(
            self.conn, execute_plugins=False
        )
        return database

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
        check_own_files(folder, SQLITE_FILES)
        if not is_regular(folder / FILENAME):
            raise IndexMissingError(
                f"There is no index in {folder}. Make one with `retrieval index FOLDER`."
            )
        try:
            return cls._open(folder, writable)
        except IndexChangedError:  # it was being replaced by a rebuild
            return cls._open(folder, writable)

    @classmethod
    def _open(cls, folder: Path, writable: bool) -> Self:
        with explained(folder):
            try:
                return cls._connect(folder, writable, f"mode={'rw' if writable else 'ro'}")
            except sqlite3.OperationalError:
                if writable or os.access(folder, os.W_OK):
                    raise
            # A read-only disk has no room for the shared memory file of the write-ahead log.
            if (folder / _LOG).exists():
                return cls._connect(
                    folder, writable, f"mode=ro&vfs={_VFS_WITHOUT_LOCKS}", exclusive=True
                )
            return cls._connect(folder, writable, "mode=ro&immutable=1")

    @classmethod
    def open_main_file(cls, folder: Path) -> Self:
        """Open the main file alone, read-only, as if there were no log: no other process may write.

        Raises as `open` does.
        """
        with explained(folder):
            return cls._connect(folder, False, "mode=ro&immutable=1")

    @classmethod
    def _connect(cls, folder: Path, writable: bool, options: str, exclusive: bool = False) -> Self:
        """exclusive: keep the index of the log in memory, which takes no second file."""
        url = f"file:{quote(os.fsencode(folder / FILENAME))}?{options}"
        file = _file_identity(folder)  # before it is opened: what replaces it later is noticed
        connection = sqlite3.connect(url, uri=True, timeout=_BUSY_SECONDS, check_same_thread=False)
        try:
            database = cls(folder, connection, writable, file)
            if exclusive:
                connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            database._pragmas()
            database._check_format()
            check_own_files(folder, SQLITE_FILES)  # again: SQLite itself follows links
        except BaseException:
            connection.close()
            raise
        return database

    def reopen(self) -> None:
        """Open the file that is in the folder now, in place of the one that was; see `open`."""
        fresh = type(self).open(self.folder, self._writable)
        self.conn.close()
        self.conn, self.file = fresh.conn, fresh.file
        self.__dict__.pop("db", None)

    def is_replaced(self) -> bool:
        """Whether another file is in the folder now, as after a rebuild, or none."""
        return _file_identity(self.folder) != self.file

    def _pragmas(self) -> None:
        # A catalogue may come from somebody else: its schema must not run functions on our behalf.
        self.conn.execute("PRAGMA trusted_schema=OFF")
        self.conn.execute("PRAGMA cell_size_check=ON")
        self.conn.execute("PRAGMA foreign_keys=ON")
        self.conn.execute("PRAGMA synchronous=NORMAL")

    def _check_format(self) -> None:
        (application,) = self.conn.execute("PRAGMA application_id").fetchone()
        if application != APPLICATION_ID:
            raise RowError("it is not a catalogue of retrieval")
        if self.conn.execute(
            "SELECT 1 FROM sqlite_schema WHERE type IN ('view', 'trigger') LIMIT 1"
        ).fetchone():
            raise RowError("it holds views or triggers, which no index has")
        virtual = "SELECT sql FROM sqlite_schema WHERE sql LIKE 'CREATE VIRTUAL%'"
        known = (FULL_TEXT, _FULL_TEXT_BEFORE_4)
        if any(sql not in known for (sql,) in self.conn.execute(virtual).fetchall()):
            raise RowError("it holds a virtual table that no index has")
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
        with explained(self.folder):
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
        """Move all that was committed from the write-ahead log into the main file, on disk.

        Raises IndexBusyError if a reader still needs the log: the main file alone is not whole
        then.
        """
        with explained(self.folder):
            busy, _, _ = self.conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if busy:
                raise sqlite3.OperationalError("database is locked by a reader")

    def damage(self) -> str | None:
        """The first thing that SQLite's check of every page and index finds wrong; None if none."""
        try:
            (found,) = self.conn.execute("PRAGMA integrity_check(1)").fetchone()
        except sqlite3.DatabaseError as error:
            return str(error)
        return None if found == "ok" else str(found).splitlines()[-1]

    def copy_to(self, target: "Database") -> None:
        """Replace the content of another catalogue by that of this one, in one transaction.

        Readers of the target see the old content until the end, and it stays if the process is
        killed or the disk is full. The new content is on disk when this returns.
        """
        with explained(target.folder):
            target.conn.execute("PRAGMA synchronous=FULL")
            self.conn.backup(target.conn)

    def begin_read(self) -> None:
        """Start to read one version of the catalogue: what others commit later is not seen."""
        with explained(self.folder):
            self.conn.execute("BEGIN")
            self.conn.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone()  # takes it now

    def end_read(self) -> None:
        """End what `begin_read` started."""
        self.conn.rollback()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; a nested transaction joins the outer one.

        Whatever changes the catalogue makes it forget what the last run found: see `put_last_run`.
        """
        with explained(self.folder):
            if self.conn.in_transaction:
                with self.db.atomic():
                    yield
                return
            # At once, so that SQLite waits for who writes: after a read it would fail instead.
            self.conn.execute("BEGIN IMMEDIATE")
            try:
                forgets = self._may_have_last_run
                if forgets and self.has_table("meta"):
                    self.conn.execute("DELETE FROM meta WHERE key = ?", [_LAST_RUN])
                yield
                self.conn.commit()
            except BaseException:
                self.conn.rollback()  # does nothing if the error ended the transaction
                raise
        if forgets:
            self._may_have_last_run = False

    def last_run(self) -> str:
        """What `put_last_run` stored, '' if the catalogue has changed since."""
        with explained(self.folder):
            row = self.conn.execute("SELECT value FROM meta WHERE key = ?", [_LAST_RUN]).fetchone()
        return row[0] if row and isinstance(row[0], str) else ""

    def put_last_run(self, text: str) -> None:
        """Store what a run found that brought everything up to date, until the next change."""
        with self.transaction():
            self.conn.execute(
                "INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", [_LAST_RUN, text]
            )
        self._may_have_last_run = True

    def rows_of(self, query: str, values: Iterable[Any]) -> list[tuple[Any, ...]]:
        """All rows of a query whose `{marks}` stand for `values`, however many they are."""
        values = list(values)
        rows: list[tuple[Any, ...]] = []
        for start in range(0, len(values), _SQL_VARIABLES):
            part = values[start : start + _SQL_VARIABLES]
            rows += self.conn.execute(query.format(marks=",".join("?" * len(part))), part)
        return rows


def _file_identity(folder: Path) -> tuple[int, int]:
    """Which file the catalogue in `folder` is; a rebuild puts another one in its place."""
    try:
        state = (folder / FILENAME).stat()
    except OSError:
        return (0, 0)
    return (state.st_dev, state.st_ino)


def place_catalogue(source: Path, folder: Path) -> None:
    """Move a closed catalogue, whose log is empty, into a folder that has none.

    A log that was left there goes first: SQLite would replay it into the new catalogue.
    """
    for name in (_LOG, _SHARED_MEMORY, _JOURNAL):
        delete_file(folder / name)
    replace_synced(source / FILENAME, folder / FILENAME)
