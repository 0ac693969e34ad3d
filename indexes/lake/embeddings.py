"""The embeddings of a lake, read from its parts by the ids of photos.

The mirror says in which part and row they are. What was read last stays in memory, a few row groups
of it. What is searched often has a faster source: see `LakeEmbeddings.nearer`.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from indexes.arrays import Floats, Ints
from indexes.database import guarded
from indexes.embeddings import Embeddings
from indexes.errors import IndexDamagedError
from indexes.lake.location import Location
from indexes.lake.manifest import Part
from indexes.lake.read_parts import PartReader
from indexes.rows import RowError, id_array

_BATCH_SIZE = 2048
_MOST_OPEN = 32  # parts
_MOST_BYTES = 128 * 2**20  # of row groups in memory


@dataclass
class PartCache:
    """Open parts, and row groups that were read last."""

    location: Location
    readers: OrderedDict[str, PartReader] = field(default_factory=OrderedDict)
    groups: OrderedDict[tuple[str, str, int], Floats] = field(default_factory=OrderedDict)
    bytes: int = 0

    def reader(self, part: Part, dim: int) -> PartReader:
        """A part, open."""
        if part.name not in self.readers:
            while len(self.readers) >= _MOST_OPEN:
                self.readers.popitem(last=False)[1].close()
            self.readers[part.name] = PartReader(self.location, part, dim)
        self.readers.move_to_end(part.name)
        return self.readers[part.name]

    def group(self, reader: PartReader, column: str, group: int) -> Floats:
        """The embeddings of a row group, float32 [n, dim]."""
        key = reader.part.name, column, group
        if key not in self.groups:
            rows = self.groups[key] = reader.vectors(column, group)
            self.bytes += rows.nbytes
            while self.bytes > _MOST_BYTES and len(self.groups) > 1:
                self.bytes -= self.groups.popitem(last=False)[1].nbytes
        self.groups.move_to_end(key)
        return self.groups[key]

    def close(self) -> None:
        for reader in self.readers.values():
            reader.close()
        self.readers.clear()


@dataclass(frozen=True)
class LakeEmbeddings(Embeddings):
    """As `Embeddings`, of the photos in a mirror, for reading.

    nearer: gives searchable embeddings, float32 [dim], by id, of those of the photos that the
    engine has. rewrite: takes other fused embeddings, as `put_fused` does.
    """

    cache: PartCache
    nearer: Callable[[Sequence[int]], Mapping[int, Floats]] = lambda _: {}
    rewrite: Callable[[Sequence[int], Floats, Floats], None] | None = None

    @guarded
    def image(self, photo_id: int, dim: int) -> Floats:
        result: Floats = self.images([photo_id], dim)[0]
        return result

    @guarded
    def images(self, ids: Sequence[int], dim: int) -> Floats:
        fused = self.photo_weights(ids)
        alike = [i for i in ids if i not in fused]
        near = self.nearer(alike) if alike else {}  # without captions both are the same
        return self._matrix(ids, dim, near, "seen")

    @guarded
    def searchable(self, ids: Sequence[int], dim: int) -> Floats:
        return self._matrix(ids, dim, self.nearer(ids) if len(ids) else {}, "searchable")

    def _matrix(
        self, ids: Sequence[int], dim: int, near: Mapping[int, Floats], column: str
    ) -> Floats:
        found = {**self.read([i for i in ids if i not in near], dim, column), **near}
        rows = [found[i] for i in ids if i in found]
        if len(rows) < len(ids):
            missing = next(i for i in ids if i not in found)
            raise RowError(f"embeddings: that of photo {missing} is missing")
        return np.stack(rows) if rows else np.empty((0, dim), np.float32)

    def read(self, ids: Iterable[int], dim: int, column: str) -> dict[int, Floats]:
        """The embeddings of these photos in the lake, float32 [dim], by id.

        column: `seen`, `said`, or `searchable`. Those that there are not are left out.
        """
        wanted: dict[int, list[tuple[int, int, bool]]] = {}
        query = "SELECT photo_id, part, row, share FROM lake_photos WHERE photo_id IN ({marks})"
        for photo_id, part, row, share in self.database.rows_of(query, ids):
            wanted.setdefault(part, []).append((row, photo_id, share is not None))
        found = {}
        for number, rows in wanted.items():
            reader = self.cache.reader(self._part(number), dim)
            for row, photo_id, is_fused in sorted(rows):
                if not 0 <= row < reader.part.rows:
                    raise IndexDamagedError(
                        f"{self.database.folder} does not fit its lake. Delete this folder: it is "
                        "made again."
                    )
                group = reader.group_of(row)
                name = column if column != "searchable" else "fused" if is_fused else "seen"
                vector = self.cache.group(reader, name, group)[row - reader.group_starts[group]]
                if not np.isnan(vector[0]):
                    found[photo_id] = vector
        return found

    def _part(self, number: int) -> Part:
        name, rows = self.database.conn.execute(
            "SELECT name, rows FROM lake_parts WHERE number = ?", [number]
        ).fetchone()
        return Part(name, rows, 0)

    @guarded
    def searchable_batches(
        self, dim: int, after: int = 0, verified: bool = False
    ) -> Iterator[tuple[Ints, Floats]]:
        """As `Embeddings.searchable_batches`; slow, since photos lie in the lake as they came."""
        while True:
            rows = self.database.conn.execute(
                "SELECT photo_id FROM lake_photos WHERE photo_id > ? ORDER BY photo_id LIMIT ?",
                [after, _BATCH_SIZE],
            ).fetchall()
            if not rows:
                return
            ids = id_array(rows, "lake_photos.photo_id")
            yield ids, self.searchable(ids.tolist(), dim)
            after = int(ids[-1])

    @guarded
    def count(self) -> int:
        return int(self.database.conn.execute("SELECT count(*) FROM lake_photos").fetchone()[0])

    @guarded
    def present(self, ids: Ints) -> Ints:
        rows = self.database.rows_of(
            "SELECT photo_id FROM lake_photos WHERE photo_id IN ({marks})", ids.tolist()
        )
        return np.sort(id_array(rows, "lake_photos.photo_id"))

    @guarded
    def last_id(self) -> int:
        query = "SELECT coalesce(max(photo_id), 0) FROM lake_photos"
        return int(self.database.conn.execute(query).fetchone()[0])

    @guarded
    def captions(self, dim: int, most: int) -> Floats:
        """As `Embeddings.captions`; if there are more, those of the lowest ids, which are random.

        They are read by parts, as many from a row group as there are.
        """
        if not most:
            return np.empty((0, dim), np.float32)
        (count,) = self.database.conn.execute(
            "SELECT count(*) FROM lake_photos WHERE digest NOT NULL"
        ).fetchone()
        # Photos lie together with others of their folder: a run of one part would be one subject.
        groups = max(1, count // max(most, 1))
        rows = self.database.conn.execute(
            "SELECT photo_id FROM lake_photos WHERE digest NOT NULL "
            "AND (row / 512 + part) % ? = 0 ORDER BY photo_id LIMIT ?",
            [groups, most],
        ).fetchall()
        ids = id_array(rows, "lake_photos.photo_id").tolist()
        found = self.read(ids, dim, "said")
        return np.stack([found[i] for i in ids]) if ids else np.empty((0, dim), np.float32)

    @guarded
    def captions_of(self, ids: Sequence[int], dim: int) -> dict[int, Floats]:
        query = "SELECT photo_id FROM lake_photos WHERE photo_id IN ({marks}) AND digest NOT NULL"
        known = [i for (i,) in self.database.rows_of(query, ids)]
        return self.read(known, dim, "said")

    @guarded
    def caption_digests(self) -> dict[int, bytes]:
        rows = self.database.conn.execute(
            "SELECT photo_id, digest FROM lake_photos WHERE digest NOT NULL"
        ).fetchall()
        return dict(rows)

    @guarded
    def photo_weights(self, ids: Iterable[int]) -> dict[int, float]:
        query = (
            "SELECT photo_id, share FROM lake_photos WHERE photo_id IN ({marks}) AND share NOT NULL"
        )
        return dict(self.database.rows_of(query, ids))

    def caption_digests_of(self, ids: Iterable[int]) -> dict[int, bytes]:
        """The digests of those of the photos that have captions."""
        query = "SELECT photo_id, digest FROM lake_photos WHERE photo_id IN ({marks})"
        rows = self.database.rows_of(query, ids)
        return {i: digest for i, digest in rows if digest is not None}

    @guarded
    def fusion_inputs(
        self, dim: int, after: int, unfused_only: bool
    ) -> tuple[list[int], Floats, Floats]:
        rows = self.database.conn.execute(
            "SELECT photo_id FROM lake_photos WHERE digest NOT NULL AND photo_id > ? "
            "AND NOT (? AND share NOT NULL) ORDER BY photo_id LIMIT ?",
            [after, unfused_only, _BATCH_SIZE],
        ).fetchall()
        ids = id_array(rows, "lake_photos.photo_id").tolist()
        seen, said = (self._matrix(ids, dim, {}, column) for column in ("seen", "said"))
        return ids, seen, said

    def put_fused(self, ids: Sequence[int], rows: Floats, photo_weights: Floats) -> None:
        """Write these photos to the lake again; a commit has to follow."""
        if self.rewrite is None:
            raise NotImplementedError("a mirror is only read")
        self.rewrite(ids, rows, photo_weights)
