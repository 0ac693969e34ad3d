"""The embeddings in the catalogue: of images, of captions, and of both fused.

The image and caption embeddings of a photo both stay, which lets a fusion change without encoding
anything again. A search compares with the searchable embedding of a photo: the fused one if there
is one, else that of the image. Only SQL lives here; what a fusion computes is not known.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from indexes.arrays import Floats, Ints
from indexes.changes import Changes
from indexes.database import Database, guarded
from indexes.embedding_format import (
    FIRST_WITH_CHECKSUMS,
    TABLES,
    embeddings_of,
    stored,
    verify,
)
from indexes.rows import BYTES, ID, WEIGHT, Columns, RowError, id_array
from indexes.sqlite_errors import explained

_BATCH_SIZE = 10_000  # rows read at a time
_DIGEST = Columns("said", {"photo_id": ID, "digest": BYTES})
_WEIGHT = Columns("fused", {"photo_id": ID, "share": WEIGHT})


@dataclass(frozen=True)
class Embeddings:
    """The tables `embeddings` (of images) and, since format 3, `said` (of captions) and `fused`.

    `indexes.embedding_format` says how an embedding is stored, and how it was before format 4.
    """

    database: Database
    changes: Changes

    def create_tables(self) -> None:
        for table in TABLES:
            self._create_table(table, table)

    def _create_table(self, table: str, name: str) -> None:
        """Create `table` under another name, which it has until its rows are complete."""
        more = {"said": "digest BLOB NOT NULL, ", "fused": "share REAL NOT NULL, "}.get(table, "")
        self.database.conn.execute(
            f"CREATE TABLE {name} (photo_id INTEGER PRIMARY KEY REFERENCES photos (id), "
            f"{more}vector BLOB NOT NULL, checksum INTEGER NOT NULL)"
        )

    def migrate_to_4(self, dim: int) -> None:
        """Store float32 embeddings as float16 with checksums, and create the tables that lack.

        Raises RowError if one is damaged. Runs inside the caller's transaction, in memory that does
        not grow with the number of photos. What searches have cached is computed again.
        """
        for table in TABLES:
            if not self.database.has_table(table):  # added in format 3
                self._create_table(table, table)
                continue
            self._create_table(table, f"{table}_4")
            self._copy_to_4(table, dim)
            self.database.conn.execute(f"DROP TABLE {table}")
            self.database.conn.execute(f"ALTER TABLE {table}_4 RENAME TO {table}")
        self.changes.meta.renew_generation()

    def _copy_to_4(self, table: str, dim: int) -> None:
        """Copy the rows batch by batch; each is deleted, so that its pages are used again."""
        more = {"said": "digest", "fused": "share"}.get(table, "NULL")
        columns = "photo_id, vector, checksum" + (f", {more}" if more != "NULL" else "")
        marks = ", ".join("?" * len(columns.split(",")))
        while rows := self.database.conn.execute(
            f"SELECT photo_id, vector, {more} FROM {table} ORDER BY photo_id LIMIT {_BATCH_SIZE}"
        ).fetchall():
            ids = id_array(rows, f"{table}.photo_id").tolist()
            vectors = embeddings_of([v for _, v, _ in rows], dim, FIRST_WITH_CHECKSUMS - 1)
            self.database.conn.executemany(
                f"INSERT INTO {table}_4 ({columns}) VALUES ({marks})",
                (
                    (*row, *([] if more == "NULL" else [value]))
                    for row, (*_, value) in zip(stored(table, ids, vectors), rows, strict=True)
                ),
            )
            self.database.conn.execute(f"DELETE FROM {table} WHERE photo_id <= ?", [ids[-1]])

    # Images and what is searched ---------------------------------------------------------------

    @guarded
    def image(self, photo_id: int, dim: int) -> Floats:
        """The image embedding of one photo, float32 [dim]."""
        result: Floats = self._ordered(self._table("embeddings"), [photo_id], dim)[0]
        return result

    @guarded
    def images(self, ids: Sequence[int], dim: int) -> Floats:
        """The image embeddings of these photos, float32 [n, dim], in the order of `ids`."""
        return self._ordered(self._table("embeddings"), ids, dim)

    @guarded
    def searchable(self, ids: Sequence[int], dim: int) -> Floats:
        """The searchable embeddings of these photos, float32 [n, dim], in the order of `ids`."""
        return self._ordered(self._searchable(), ids, dim)

    @guarded
    def all_searchable(
        self, dim: int, after: int = 0, verified: bool = False
    ) -> tuple[Ints, Floats]:
        """All searchable embeddings of photos with an id above `after`, in order of id.

        verified: compare each with its checksum, which takes a second for 300,000.
        Returns ids, int64 [n], and rows, float32 [n, dim].
        """
        # Room for all at once: joining parts at the end would take twice the memory.
        (most,) = self.database.conn.execute(
            "SELECT count(*) FROM photos WHERE id > ?", [after]
        ).fetchone()
        ids, rows, count = np.empty(most, np.int64), np.empty((most, dim), np.float32), 0
        for some, matrix in self.searchable_batches(dim, after, verified):
            if count + len(some) > most:
                raise RowError("embeddings: there are more of them than photos")
            ids[count : count + len(some)] = some
            rows[count : count + len(some)] = matrix
            count += len(some)
        return ids[:count], rows[:count]

    def searchable_batches(
        self, dim: int, after: int = 0, verified: bool = False
    ) -> Iterator[tuple[Ints, Floats]]:
        """As `all_searchable`, in batches: what is kept of them is up to the caller.

        SQLite's errors pass through.
        """
        catalogue_format = self.database.format
        columns = "photo_id, vector" + (", checksum, origin" if verified else "")
        cursor = self.database.conn.execute(
            f"SELECT {columns} FROM {self._searchable()} WHERE photo_id > ? ORDER BY photo_id",
            [after],
        )
        while rows := cursor.fetchmany(_BATCH_SIZE):
            ids = id_array(rows, "embeddings.photo_id")
            vectors = embeddings_of([row[1] for row in rows], dim, catalogue_format)
            if verified and catalogue_format >= FIRST_WITH_CHECKSUMS:
                verify((origin, i, vector, known) for i, vector, known, origin in rows)
            yield ids, vectors

    def verified_batches(self, dim: int) -> Iterator[tuple[Ints, Floats]]:
        """All searchable embeddings in batches, each compared with its checksum."""
        with explained(self.database.folder):
            yield from self.searchable_batches(dim, verified=True)

    @guarded
    def count(self) -> int:
        """How many photos have an embedding."""
        return int(self.database.conn.execute("SELECT count(*) FROM embeddings").fetchone()[0])

    @guarded
    def present(self, ids: Ints) -> Ints:
        """Those of the ids that have an embedding, int64 [n], ascending."""
        rows = self.database.rows_of(
            "SELECT photo_id FROM embeddings WHERE photo_id IN ({marks})", ids.tolist()
        )
        return np.sort(id_array(rows, "embeddings.photo_id"))

    @guarded
    def last_id(self) -> int:
        """The highest id of a photo with an embedding, 0 if there is none."""
        rows = self.database.conn.execute(
            "SELECT photo_id FROM embeddings ORDER BY photo_id DESC LIMIT 1"
        ).fetchall()
        return int(id_array(rows, "embeddings.photo_id")[0]) if rows else 0

    def _table(self, name: str) -> str:
        """A table as an SQL table of photo_id, vector, checksum and origin (its name)."""
        checksum = "checksum" if self._has_checksums() else "NULL"
        return f"(SELECT photo_id, vector, {checksum} AS checksum, '{name}' AS origin FROM {name})"

    def _searchable(self) -> str:
        """The searchable embeddings as an SQL table with the columns of `_table`."""
        if not self.database.has_table("fused"):  # an older format, opened read-only
            return self._table("embeddings")
        checksum = "coalesce(f.checksum, e.checksum)" if self._has_checksums() else "NULL"
        return (
            "(SELECT e.photo_id, coalesce(f.vector, e.vector) AS vector, "
            f"{checksum} AS checksum, "
            "CASE WHEN f.photo_id IS NULL THEN 'embeddings' ELSE 'fused' END AS origin "
            "FROM embeddings e LEFT JOIN fused f ON f.photo_id = e.photo_id)"
        )

    def _has_checksums(self) -> bool:
        return self.database.format >= FIRST_WITH_CHECKSUMS

    def _ordered(self, table: str, ids: Sequence[int], dim: int) -> Floats:
        """The rows of these photos, verified, in the order of `ids`."""
        rows = self.database.rows_of(
            f"SELECT photo_id, vector, checksum, origin FROM {table} WHERE photo_id IN ({{marks}})",
            ids,
        )
        found = {photo_id: vector for photo_id, vector, *_ in rows}
        missing = next((i for i in ids if i not in found), None)
        if missing is not None:
            raise RowError(f"embeddings: that of photo {missing} is missing")
        matrix = embeddings_of([found[i] for i in ids], dim, self.database.format)
        if self._has_checksums():
            verify((origin, i, vector, known) for i, vector, known, origin in rows)
        return matrix

    def put_images(self, ids: Sequence[int], rows: Floats) -> None:
        """Store the image embeddings, float32 [n, dim], of new photos."""
        self.database.conn.executemany(
            "INSERT INTO embeddings (photo_id, vector, checksum) VALUES (?, ?, ?)",
            stored("embeddings", ids, rows),
        )

    # Captions ----------------------------------------------------------------------------------

    @guarded
    def captions(self, dim: int, most: int) -> Floats:
        """The caption embeddings of up to `most` photos, evenly spaced: float32 [n, dim].

        The choice stays the same until a caption changes.
        """
        if not self.database.has_table("said"):
            return np.empty((0, dim), np.float32)
        every = self.database.conn.execute("SELECT photo_id FROM said ORDER BY photo_id")
        ids = id_array(every.fetchall(), "said.photo_id").tolist()
        return self._ordered(self._table("said"), ids[:: max(1, -(-len(ids) // most))], dim)

    @guarded
    def captions_of(self, ids: Sequence[int], dim: int) -> dict[int, Floats]:
        """The caption embeddings of those of the photos that have one, float32 [dim] each."""
        if not self.database.has_table("said"):
            return {}
        rows = self.database.rows_of("SELECT photo_id FROM said WHERE photo_id IN ({marks})", ids)
        known = id_array(rows, "said.photo_id").tolist()
        return dict(zip(known, self._ordered(self._table("said"), known, dim), strict=True))

    @guarded
    def caption_digests(self) -> dict[int, bytes]:
        """A digest of the texts behind each caption embedding, by photo id."""
        rows = self.database.conn.execute("SELECT photo_id, digest FROM said").fetchall()
        return {photo_id: digest for photo_id, digest in map(_DIGEST.checked, rows)}

    @guarded
    def put_captions(self, ids: Sequence[int], digests: Sequence[bytes], rows: Floats) -> None:
        """Store caption embeddings, float32 [n, dim], with digests of their texts."""
        with self.database.transaction():
            self.database.conn.executemany(
                "INSERT OR REPLACE INTO said (digest, photo_id, vector, checksum) "
                "VALUES (?, ?, ?, ?)",
                _with_first(digests, stored("said", ids, rows)),
            )
            self._delete_fused(ids)

    @guarded
    def delete_captions(self, ids: Sequence[int]) -> None:
        """Remove the caption embeddings of photos that have no captions any more."""
        with self.database.transaction():
            self.database.conn.executemany(
                "DELETE FROM said WHERE photo_id = ?", [(i,) for i in ids]
            )
            self._delete_fused(ids)

    # Fused -------------------------------------------------------------------------------------

    @guarded
    def fusion_inputs(
        self, dim: int, after: int, unfused_only: bool
    ) -> tuple[list[int], Floats, Floats]:
        """The next photos that have a caption embedding, with an id above `after`.

        unfused_only: leave out those that have a fused embedding.
        Returns ids in order, image embeddings and caption embeddings, float32 [n, dim] both; no
        ids at the end.
        """
        rows = self.database.conn.execute(
            "SELECT s.photo_id FROM said s JOIN embeddings e "
            "ON e.photo_id = s.photo_id WHERE s.photo_id > ? AND NOT (? AND EXISTS "
            "(SELECT 1 FROM fused f WHERE f.photo_id = s.photo_id)) ORDER BY s.photo_id LIMIT ?",
            [after, unfused_only, _BATCH_SIZE],
        ).fetchall()
        ids = id_array(rows, "said.photo_id").tolist()
        return ids, self.images(ids, dim), self._ordered(self._table("said"), ids, dim)

    @guarded
    def put_fused(self, ids: Sequence[int], rows: Floats, photo_weights: Floats) -> None:
        """Store fused embeddings, float32 [n, dim], with the image's weight in each, [n]."""
        with self.database.transaction():
            self.database.conn.executemany(
                "INSERT OR REPLACE INTO fused (share, photo_id, vector, checksum) "
                "VALUES (?, ?, ?, ?)",
                _with_first(photo_weights.tolist(), stored("fused", ids, rows)),
            )
            self.changes.record(ids)

    @guarded
    def photo_weights(self, ids: Iterable[int]) -> dict[int, float]:
        """The image's weight in the fused embedding of each of the photos that has one."""
        if not self.database.has_table("fused"):
            return {}
        query = "SELECT photo_id, share FROM fused WHERE photo_id IN ({marks})"
        rows = self.database.rows_of(query, ids)
        return {photo_id: weight for photo_id, weight in map(_WEIGHT.checked, rows)}

    def _delete_fused(self, ids: Sequence[int]) -> None:
        rows = self.database.rows_of("SELECT photo_id FROM fused WHERE photo_id IN ({marks})", ids)
        fused = id_array(rows, "fused.photo_id").tolist()
        if fused:
            self.database.conn.executemany(
                "DELETE FROM fused WHERE photo_id = ?", [(i,) for i in fused]
            )
            self.changes.record(fused)


def _with_first(first: Iterable[Any], rows: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """Rows with one more column before the others."""
    for value, row in zip(first, rows, strict=True):
        yield value, *row
