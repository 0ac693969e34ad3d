"""Loads a lake into a collection: the parts that are not in it, or all into a new one.

A load that is killed is continued by the next one: photos that were written already are written
again, which changes nothing. The mirror has to be up to date.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from indexes.arrays import Floats
from indexes.lake.embeddings import LakeEmbeddings
from indexes.lake.location import Location
from indexes.lake.manifest import Part
from indexes.lake.mirror import MirrorCatalogue
from indexes.lake.read_parts import PartReader
from indexes.lake.schema import photo_id
from indexes.milvus.collection import About, Collection, Kind
from indexes.milvus.filters import scalars
from indexes.milvus.state import State, read_state, write_state
from indexes.vectors.build import Plan

MOST_EXACT = 100_000
"""Up to so many photos, a new collection is FLAT, then HNSW, unless a kind is named."""
_BATCH = 2_000
_FLUSHED = 100_000  # photos between records of what is loaded
_GROWTH = 2  # so many times as many photos, and the bias of all is computed again


def wanted_kind(kind: Kind | None, count: int, before: Kind | None) -> Kind:
    """The kind of index for so many photos. kind: what the user named; before: what there is."""
    if kind is not None:
        return kind
    if before is not None and (before != "FLAT" or count <= 2 * MOST_EXACT):
        return before
    return "FLAT" if count <= MOST_EXACT else "HNSW"


def load(
    collection: Collection,
    catalogue: MirrorCatalogue,
    location: Location,
    plan: Plan,
    kind: Kind | None = None,
    again: bool = False,
) -> int:
    """Bring a collection in line with its mirror; returns how many photos were written or deleted.

    plan: has the biases; without any, photos are written without. again: load all into a new
    collection. Raises ClusterError, StorageError or IndexDamagedError.
    """
    dim, count = catalogue.model().dim, catalogue.embeddings.count()
    about = collection.about()
    if about is not None and (about.dim != dim or about.lake != location.url):
        about = None
    if about is None or again:
        about = collection.create(location.url, dim, wanted_kind(kind, count, None))
    elif wanted_kind(kind, count, about.kind) != about.kind:
        about = collection.set_kind(about, wanted_kind(kind, count, about.kind))
    state = read_state(location, collection.place.name, about.token)
    names = catalogue.parts()
    is_other = state.ordering != plan.ordering or count > _GROWTH * max(state.full, 1)
    if not state.parts <= set(names.values()) or is_other:
        state = State(about.token, ordering=plan.ordering, full=count)
    if set(names.values()) == state.parts:
        return 0
    return _Loader(collection, catalogue, location, plan, about, dim).load(state, names)


@dataclass
class _Loader:
    collection: Collection
    catalogue: MirrorCatalogue
    location: Location
    plan: Plan
    about: About
    dim: int

    def load(self, state: State, names: Mapping[int, str]) -> int:
        """Load the parts that are not in `state`."""
        sums = {name: _Mean(state.means.get(name, 0.0), state.full) for name in self.plan.biases}
        if not state.parts:
            sums = {name: _Mean(0.0, 0) for name in sums}
        new = {number: name for number, name in names.items() if name not in state.parts}
        total = self._count(new)
        done = since = 0
        loaded = set(state.parts)
        for number, name in sorted(new.items(), key=lambda item: not _is_photos(item[1])):
            for some in self._photos(number) if _is_photos(name) else self._moved(number, new):
                self._write(some, sums)
                done, since = done + len(some), since + len(some)
                self.plan.progress(min(done, total), max(total, done))
            loaded.add(name)
            if since >= _FLUSHED:
                since = 0
                self._record(state, loaded, sums)
        self._record(state, loaded, sums)
        return done

    def _record(self, state: State, loaded: Iterable[str], sums: Mapping[str, "_Mean"]) -> None:
        """Note what is loaded, once the server has it on its storage."""
        self.collection.flush()
        means = {name: some.value for name, some in sums.items()}
        now = replace(state, parts=frozenset(loaded), means=means)
        write_state(self.location, self.collection.place.name, now)

    def _count(self, new: Mapping[int, str]) -> int:
        query = "SELECT count(*) FROM lake_photos WHERE part IN ({marks})"
        return sum(n for (n,) in self.catalogue.database.rows_of(query, new))

    def _photos(self, number: int) -> Iterator[dict[int, Floats | None]]:
        """The photos of a part that no later part has again, in batches."""
        conn = self.catalogue.database.conn
        name, rows = conn.execute(
            "SELECT name, rows FROM lake_parts WHERE number = ?", [number]
        ).fetchone()
        with PartReader(self.location, Part(name, rows, 0), self.dim) as reader:
            for start, vectors in reader.searchable():
                found = conn.execute(
                    "SELECT l.row, l.photo_id, p.present FROM lake_photos l "
                    "JOIN photos p ON p.id = l.photo_id "
                    "WHERE l.part = ? AND l.row >= ? AND l.row < ?",
                    [number, start, start + len(vectors)],
                ).fetchall()
                yield {i: vectors[row - start] if present else None for row, i, present in found}

    def _moved(self, number: int, new: Mapping[int, str]) -> Iterator[dict[int, Floats | None]]:
        """The photos whose places changed, but those of parts that are loaded now."""
        conn = self.catalogue.database.conn
        name, rows = conn.execute(
            "SELECT name, rows FROM lake_parts WHERE number = ?", [number]
        ).fetchone()
        embeddings = self.catalogue.embeddings
        assert isinstance(embeddings, LakeEmbeddings)
        with PartReader(self.location, Part(name, rows, 0), self.dim) as reader:
            for places in reader.files():
                ids = sorted({photo_id(row.hash) for row in places if row.hash})
                found = self.catalogue.database.rows_of(
                    "SELECT l.photo_id, l.part, p.present FROM lake_photos l "
                    "JOIN photos p ON p.id = l.photo_id WHERE l.photo_id IN ({marks})",
                    ids,
                )
                known = {i for i, _, _ in found}
                gone = [i for i in ids if i not in known]
                gone += [i for i, _, present in found if not present]
                moved = [i for i, part, present in found if present and part not in new]
                for some in _batches(moved):
                    vectors = embeddings.read(some, self.dim, "searchable")
                    yield {i: vectors.get(i) for i in some}
                yield dict.fromkeys(gone)

    def _write(self, photos: Mapping[int, Floats | None], sums: Mapping[str, "_Mean"]) -> None:
        """Write the photos that have a vector, delete the others."""
        self.collection.delete([i for i, vector in photos.items() if vector is None])
        present = {i: vector for i, vector in photos.items() if vector is not None}
        for ids in _batches(list(present)):
            vectors = np.stack([present[i] for i in ids])
            ordering = np.zeros(len(ids), np.float32)
            for name, compute in self.plan.biases.items():
                values = compute(vectors)
                sums[name].add(values)
                if name == self.plan.ordering:
                    ordering = values
            rows = np.hstack([vectors, -ordering[:, None]])
            numbers = scalars(self.catalogue, ids)
            batch: list[dict[str, Any]] = [
                {"id": i, "vector": row, "bias": float(bias), **numbers[i]}
                for i, row, bias in zip(ids, rows, ordering, strict=True)
            ]
            self.collection.upsert(batch)


@dataclass
class _Mean:
    """A mean that grows. value: of `count` numbers."""

    value: float
    count: int

    def add(self, values: Floats) -> None:
        self.count += len(values)
        self.value += float((values - self.value).sum(dtype=np.float64)) / max(self.count, 1)


def _is_photos(name: str) -> bool:
    return name.startswith("photos/")


def _batches(ids: Sequence[int]) -> Iterator[list[int]]:
    for start in range(0, len(ids), _BATCH):
        yield list(ids[start : start + _BATCH])
