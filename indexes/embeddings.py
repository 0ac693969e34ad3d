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
from indexes.database import Database, explained, guarded
from indexes.rows import BYTES, ID, WEIGHT, Columns, RowError, id_array

_BATCH_SIZE = 10_000  # rows read at a time
_LARGEST = 2.0  # of the numbers in a stored embedding, which is of length one
_DIGEST = Columns("said", {"photo_id": ID, "digest": BYTES})
_WEIGHT = Columns("fused", {"photo_id": ID, "share": WEIGHT})


@dataclass(frozen=True)
class Embeddings:
    """The tables `embeddings` (of images) and, since format 3, `said` (of captions) and `fused`."""

    database: Database
    changes: Changes

    def create_image_table(self) -> None:
        self.database.db.table("embeddings").create(
            {"photo_id": int, "vector": bytes},
            pk="photo_id",
            foreign_keys=[("photo_id", "photos", "id")],
        )

    def create_caption_tables(self) -> None:
        for table, more in (("said", "digest BLOB NOT NULL"), ("fused", "share REAL NOT NULL")):
            self.database.db.execute(
                f"CREATE TABLE {table} (photo_id INTEGER PRIMARY KEY REFERENCES photos (id), "
                f"{more}, vector BLOB NOT NULL)"
            )

    # Images and what is searched ---------------------------------------------------------------

    @guarded
    def image(self, photo_id: int, dim: int) -> Floats:
        """The image embedding of one photo, float32 [dim]."""
        result: Floats = self._ordered("embeddings", [photo_id], dim)[0]
        return result

    @guarded
    def images(self, ids: Sequence[int], dim: int) -> Floats:
        """The image embeddings of these photos, float32 [n, dim], in the order of `ids`."""
        return self._ordered("embeddings", ids, dim)

    @guarded
    def searchable(self, ids: Sequence[int], dim: int) -> Floats:
        """The searchable embeddings of these photos, float32 [n, dim], in the order of `ids`."""
        return self._ordered(self._searchable(), ids, dim)

    @guarded
    def all_searchable(self, dim: int, after: int = 0) -> tuple[Ints, Floats]:
        """All searchable embeddings of photos with an id above `after`, in order of id.

        Returns ids, int64 [n], and rows, float32 [n, dim].
        """
        ids, parts = [np.empty(0, np.int64)], [np.empty((0, dim), np.float32)]
        for some, rows in self._blocks(dim, after):
            ids.append(some)
            parts.append(rows)
        return np.concatenate(ids), np.concatenate(parts)

    def blocks(self, dim: int) -> Iterator[tuple[Ints, Floats]]:
        """The same for all photos, some rows at a time: all of them may not fit in memory."""
        with explained(self.database.folder):
            yield from self._blocks(dim, 0)

    def _blocks(self, dim: int, after: int) -> Iterator[tuple[Ints, Floats]]:
        cursor = self.database.conn.execute(
            f"SELECT photo_id, vector FROM {self._searchable()} WHERE photo_id > ? "
            "ORDER BY photo_id",
            [after],
        )
        while rows := cursor.fetchmany(_BATCH_SIZE):
            yield id_array(rows, "embeddings.photo_id"), _matrix([v for _, v in rows], dim)

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
        return np.sort(id_array(list(rows), "embeddings.photo_id"))

    @guarded
    def last_id(self) -> int:
        """The highest id of a photo with an embedding, 0 if there is none."""
        rows = self.database.conn.execute(
            "SELECT photo_id FROM embeddings ORDER BY photo_id DESC LIMIT 1"
        ).fetchall()
        return int(id_array(rows, "embeddings.photo_id")[0]) if rows else 0

    def _searchable(self) -> str:
        """The searchable embeddings as an SQL table of photo_id and vector."""
        if not self.database.has_table("fused"):  # an older format, opened read-only
            return "(SELECT photo_id, vector FROM embeddings)"
        return (
            "(SELECT e.photo_id, coalesce(f.vector, e.vector) AS vector FROM embeddings e "
            "LEFT JOIN fused f ON f.photo_id = e.photo_id)"
        )

    def _ordered(self, table: str, ids: Sequence[int], dim: int) -> Floats:
        query = f"SELECT photo_id, vector FROM {table} WHERE photo_id IN ({{marks}})"
        found = dict(self.database.rows_of(query, ids))
        missing = next((i for i in ids if i not in found), None)
        if missing is not None:
            raise RowError(f"embeddings: that of photo {missing} is missing")
        return _matrix([found[i] for i in ids], dim)

    def put_images(self, ids: Sequence[int], rows: Floats) -> None:
        """Store the image embeddings, float32 [n, dim], of new photos."""
        self.database.conn.executemany(
            "INSERT INTO embeddings (photo_id, vector) VALUES (?, ?)",
            zip(ids, map(_blob, rows), strict=True),
        )

    # Captions ----------------------------------------------------------------------------------

    @guarded
    def captions(self, dim: int, most: int) -> Floats:
        """The caption embeddings of up to `most` photos, evenly spaced: float32 [n, dim].

        The choice stays the same until the generation changes, as it does with any caption.
        """
        if not self.database.has_table("said"):
            return np.empty((0, dim), np.float32)
        every = self.database.conn.execute("SELECT photo_id FROM said ORDER BY photo_id")
        ids = id_array(every.fetchall(), "said.photo_id").tolist()
        vectors = self.database.rows_of(
            "SELECT vector FROM said WHERE photo_id IN ({marks}) ORDER BY photo_id",
            ids[:: max(1, -(-len(ids) // most))],
        )
        return _matrix([vector for (vector,) in vectors], dim)

    @guarded
    def captions_of(self, ids: Sequence[int], dim: int) -> dict[int, Floats]:
        """The caption embeddings of those of the photos that have one, float32 [dim] each."""
        if not self.database.has_table("said"):
            return {}
        found = self.database.rows_of(
            "SELECT photo_id, vector FROM said WHERE photo_id IN ({marks})", ids
        )
        pairs = list(found)
        rows = _matrix([vector for _, vector in pairs], dim)
        return dict(zip(id_array(pairs, "said.photo_id").tolist(), rows, strict=True))

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
                "INSERT OR REPLACE INTO said (photo_id, digest, vector) VALUES (?, ?, ?)",
                zip(ids, digests, map(_blob, rows), strict=True),
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
            "SELECT s.photo_id, e.vector, s.vector FROM said s JOIN embeddings e "
            "ON e.photo_id = s.photo_id WHERE s.photo_id > ? AND NOT (? AND EXISTS "
            "(SELECT 1 FROM fused f WHERE f.photo_id = s.photo_id)) ORDER BY s.photo_id LIMIT ?",
            [after, unfused_only, _BATCH_SIZE],
        ).fetchall()
        ids = id_array(rows, "said.photo_id").tolist()
        return ids, _matrix([i for _, i, _ in rows], dim), _matrix([c for *_, c in rows], dim)

    @guarded
    def put_fused(self, ids: Sequence[int], rows: Floats, photo_weights: Floats) -> None:
        """Store fused embeddings, float32 [n, dim], with the image's weight in each, [n]."""
        with self.database.transaction():
            self.database.conn.executemany(
                "INSERT OR REPLACE INTO fused (photo_id, share, vector) VALUES (?, ?, ?)",
                zip(ids, photo_weights.tolist(), map(_blob, rows), strict=True),
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
        fused = [
            i
            for (i,) in self.database.rows_of(
                "SELECT photo_id FROM fused WHERE photo_id IN ({marks})", ids
            )
        ]
        if fused:
            self.database.conn.executemany(
                "DELETE FROM fused WHERE photo_id = ?", [(i,) for i in fused]
            )
            self.changes.record(fused)


def _blob(row: Floats) -> bytes:
    return row.astype("<f4").tobytes()


def _matrix(vectors: Sequence[Any], dim: int) -> Floats:
    """Stored vectors as float32 [n, dim]; raises RowError if they are damaged."""
    if any(not isinstance(v, bytes) or len(v) != 4 * dim for v in vectors):
        raise RowError("an embedding has the wrong size")
    rows = np.frombuffer(b"".join(vectors), "<f4").reshape(-1, dim).astype(np.float32)
    if not (np.abs(rows) <= _LARGEST).all():  # NaN is not, either
        raise RowError("an embedding is not of length one")
    return rows
