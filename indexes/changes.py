"""What changed since the vectors were written: photos whose searchable embedding was replaced or
removed, numbered as it happened.

New photos need no entry, since ids only grow. The files of vectors carry the number that they were
written at: what changed later is left out of them, and read from the catalogue.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from indexes.arrays import Ints
from indexes.database import Database, guarded
from indexes.meta import Meta
from indexes.rows import RowError, id_array

_LAST, _TRIMMED = "last_change", "changes_trimmed"
_MOST = 2**53


@dataclass(frozen=True)
class Changes:
    """The table `changes`, since format 4: the number of the last change of each photo."""

    database: Database
    meta: Meta

    def create_table(self) -> None:
        self.database.db.execute(
            "CREATE TABLE IF NOT EXISTS changes "
            "(photo_id INTEGER PRIMARY KEY, number INTEGER NOT NULL)"
        )
        self.database.db.execute("CREATE INDEX IF NOT EXISTS changes_number ON changes (number)")

    @guarded
    def last(self) -> int:
        """The number of the last change, 0 before the first."""
        return self._number(_LAST)

    @guarded
    def trimmed(self) -> int:
        """Changes up to this number are no longer listed."""
        return self._number(_TRIMMED)

    @guarded
    def since(self, number: int) -> Ints:
        """The ids of the photos that changed after this number, int64 [n], ascending."""
        if not self.database.has_table("changes"):  # an older format, opened read-only
            return id_array([], "changes.photo_id")
        rows = self.database.conn.execute(
            "SELECT photo_id FROM changes WHERE number > ? ORDER BY photo_id", [number]
        ).fetchall()
        return id_array(rows, "changes.photo_id")

    def record(self, ids: Iterable[int]) -> None:
        """Note that the embeddings of these photos were replaced or removed."""
        number = self._number(_LAST) + 1
        self.database.conn.executemany(
            "INSERT OR REPLACE INTO changes (photo_id, number) VALUES (?, ?)",
            ((i, number) for i in ids),
        )
        self.meta.put(_LAST, str(number))

    @guarded
    def trim(self, number: int) -> None:
        """Forget the changes up to this number: files written at it are the oldest in use."""
        with self.database.transaction():
            self.database.conn.execute("DELETE FROM changes WHERE number <= ?", [number])
            self.meta.put(_TRIMMED, str(number))

    def _number(self, key: str) -> int:
        text = self.meta.get(key, "0")
        if not (text.isascii() and text.isdigit() and len(text) <= 16 and int(text) <= _MOST):
            raise RowError(f"meta: {key} {text[:20]!r} is not a number")
        return int(text)
