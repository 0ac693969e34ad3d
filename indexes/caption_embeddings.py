"""What is said of photos, as embeddings, and the photos fused with it.

The embeddings of a photo and of its captions are both kept, so that a fusion can change without
either being made again. What is searched is the fused row where there is one, else the photo's.
Only SQL lives here: what a fusion is, is not known.
"""

import secrets
import sqlite3
from collections.abc import Sequence
from typing import Any

import numpy as np

from indexes.arrays import Floats
from indexes.database import Database, chunks, guarded

_AT_ONCE = 10_000


class Said(Database):
    """The part of the catalogue that holds embeddings of captions, and fused ones."""

    def _create_said(self) -> None:
        """The tables of format 3."""
        for table, more in (("said", "digest BLOB NOT NULL"), ("fused", "share REAL NOT NULL")):
            self.db.execute(
                f"CREATE TABLE {table} (photo_id INTEGER PRIMARY KEY REFERENCES photos (id), "
                f"{more}, vector BLOB NOT NULL)"
            )

    def _renew(self) -> None:
        """Note that an embedding that is searched was removed or replaced."""
        row = {"key": "generation", "value": secrets.token_hex(8)}
        self.db.table("meta").upsert(row, pk="key")

    def _searched(self) -> str:
        """What is searched, as an SQL table of photo_id and vector."""
        if not self._has("fused"):  # of an older format, which is read as it is
            return "(SELECT photo_id, vector FROM embeddings)"
        return (
            "(SELECT e.photo_id, coalesce(f.vector, e.vector) AS vector FROM embeddings e "
            "LEFT JOIN fused f ON f.photo_id = e.photo_id)"
        )

    @guarded
    def digests(self) -> dict[int, bytes]:
        """Of which texts the caption embedding of each photo was made, as a digest, by photo id."""
        return dict(self.conn.execute("SELECT photo_id, digest FROM said").fetchall())

    @guarded
    def caption_embeddings(self, dim: int, most: int) -> Floats:
        """Caption embeddings of up to `most` photos, evenly spaced: float32 [n, dim].

        The same until `generation` changes, as it does with anything that is said.
        """
        if not self._has("said"):
            return np.empty((0, dim), np.float32)
        ids = [i for (i,) in self.conn.execute("SELECT photo_id FROM said ORDER BY photo_id")]
        found: list[bytes] = []
        for part in chunks(ids[:: max(1, -(-len(ids) // most))]):
            marks = ",".join("?" * len(part))
            query = f"SELECT vector FROM said WHERE photo_id IN ({marks}) ORDER BY photo_id"  # noqa: S608
            found += [vector for (vector,) in self.conn.execute(query, part).fetchall()]
        return matrix(found, dim)

    @guarded
    def put_caption_embeddings(
        self, ids: Sequence[int], digests: Sequence[bytes], rows: Floats
    ) -> None:
        """Store caption embeddings, float32 [n, dim], with the digests of their texts."""
        vectors = (row.astype("<f4").tobytes() for row in rows)
        with self.transaction():
            self.conn.executemany(
                "INSERT OR REPLACE INTO said (photo_id, digest, vector) VALUES (?, ?, ?)",
                list(zip(ids, digests, vectors, strict=True)),
            )
            self._drop("fused", ids)

    @guarded
    def drop_caption_embeddings(self, ids: Sequence[int]) -> None:
        """Nothing is said of these photos any more."""
        with self.transaction():
            self._drop("said", ids)
            self._drop("fused", ids)

    def _drop(self, table: str, ids: Sequence[int]) -> None:
        count = self.conn.executemany(
            f"DELETE FROM {table} WHERE photo_id = ?",  # noqa: S608
            [(i,) for i in ids],
        ).rowcount
        if table == "fused" and count:
            self._renew()

    @guarded
    def pairs(self, dim: int, after: int, unfused: bool) -> tuple[list[int], Floats, Floats]:
        """The first photos with an id above `after` of which something is said: their ids, in
        order, their embeddings and those of their captions, float32 [n, dim] twice.

        unfused: only those that are not fused yet.
        """
        rows = self.conn.execute(
            "SELECT s.photo_id, e.vector, s.vector FROM said s JOIN embeddings e "
            "ON e.photo_id = s.photo_id WHERE s.photo_id > ? AND NOT (? AND EXISTS "
            "(SELECT 1 FROM fused f WHERE f.photo_id = s.photo_id)) ORDER BY s.photo_id LIMIT ?",
            [after, unfused, _AT_ONCE],
        ).fetchall()
        ids = [int(i) for i, *_ in rows]
        return ids, matrix([i for _, i, _ in rows], dim), matrix([c for *_, c in rows], dim)

    @guarded
    def put_fused(self, ids: Sequence[int], rows: Floats, shares: Floats) -> None:
        """Store fused embeddings, float32 [n, dim], with the photo's share in each, [n]."""
        vectors = (row.astype("<f4").tobytes() for row in rows)
        with self.transaction():
            self.conn.executemany(
                "INSERT OR REPLACE INTO fused (photo_id, share, vector) VALUES (?, ?, ?)",
                list(zip(ids, shares.tolist(), vectors, strict=True)),
            )
            self._renew()

    @guarded
    def photo_weights(self, ids: Sequence[int]) -> dict[int, float]:
        """The photo's own share in its fused embedding, for those of the photos that have one."""
        if not self._has("fused"):
            return {}
        found: dict[int, float] = {}
        for part in chunks(list(ids)):
            marks = ",".join("?" * len(part))
            query = f"SELECT photo_id, share FROM fused WHERE photo_id IN ({marks})"  # noqa: S608
            found.update(self.conn.execute(query, part).fetchall())
        return found


def matrix(vectors: Sequence[Any], dim: int) -> Floats:
    """Vectors as they are stored, as float32 [n, dim]; raises sqlite3.DatabaseError."""
    if any(not isinstance(v, bytes) or len(v) != 4 * dim for v in vectors):
        raise sqlite3.DatabaseError("an embedding has the wrong size")
    rows = np.frombuffer(b"".join(vectors), "<f4").reshape(-1, dim).astype(np.float32)
    if not np.isfinite(rows).all():
        raise sqlite3.DatabaseError("an embedding is not made of numbers")
    return rows
