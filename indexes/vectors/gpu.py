"""The vectors on GPUs, for a process that searches many of them often.

A command that searches once never comes here: starting a GPU takes seconds. The search is exact, as
on the CPU, but for the rounding to float16; rows that do not fit on the GPUs are searched there by
the inverted lists of the index, if it has some. Filters, other biases than the one that was copied
and very many hits are left to the CPU. All readers of a process share the copies.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from indexes.arrays import Array, Floats, Ints
from indexes.lazy_imports import has_nvidia_driver, load_faiss
from indexes.vectors.approximate import (
    ApproximateRows,
    Engine,
    augmented,
    augmented_rows,
    padded_dim,
)
from indexes.vectors.batches import Batches
from indexes.vectors.ivf import InvertedLists
from indexes.vectors.rows import EVERYTHING, Bias, Rows, Selection
from indexes.vectors.store import LazyEngine, Stored

# Copying to the GPU takes about as long as this many searches of this many vectors.
MIN_ROWS = 200_000
MIN_SEARCHES = 50
_MOST_HITS = 2048  # the most that FAISS finds on a GPU for a query
_MOST_CELLS = 2048  # and the most inverted lists that it reads
_SPARE = 64  # candidates more than hits: float16 may order the last of them otherwise
_COPY_ROWS = 1 << 18  # copied at a time
_SCRATCH_BYTES = 256 << 20  # of a GPU's memory, for computing


def count() -> int:
    """How many GPUs FAISS can use: none, if it was built without them."""
    if not has_nvidia_driver():
        return 0
    faiss = load_faiss()
    return int(faiss.get_num_gpus()) if hasattr(faiss, "StandardGpuResources") else 0


class Copies:
    """Vectors on GPUs, to be searched by any thread.

    batches: finds their positions; bias: the name of what is in their extra dimension, '' for none;
    of_lists: whether only what the inverted lists hold was copied.
    """

    def __init__(self, batches: Batches, bias: str, of_lists: bool) -> None:
        self.batches, self.bias, self.of_lists = batches, bias, of_lists

    def searching(self, rows: Rows) -> Rows:
        """The rows that were copied, searched on the GPUs."""
        if not self.of_lists:
            return GpuRows(rows.ids, rows.rows, self, rows)
        assert isinstance(rows, ApproximateRows)
        return replace(rows, engine=GpuLists(self, rows.engine))


@dataclass(frozen=True)
class GpuRows(Rows):
    """Rows with copies on GPUs. What the GPUs cannot do, the CPU does as before.

    on_cpu: how the rows are searched on the CPU.
    """

    copies: Copies
    on_cpu: Rows

    def nearest(
        self, query: Floats, k: int, selection: Selection = EVERYTHING, bias: Bias | None = None
    ) -> tuple[Ints, Floats]:
        """As `Rows.nearest`, without rows beyond the best k; the scores are exact."""
        nothing = np.empty(0, np.int64)
        excluded = nothing if selection.excluded is None else selection.excluded
        wanted = k + _SPARE + len(excluded)
        other_bias = bias is not None and bias.name != self.copies.bias
        if other_bias or selection.allowed is not None or wanted > _MOST_HITS:
            return self.on_cpu.nearest(query, k, selection, bias)
        row = augmented(query, biased=bias is not None)
        try:
            positions = self.copies.batches.find(row, min(wanted, len(self)))
        except RuntimeError:  # the GPU is full, or was taken away
            return self.on_cpu.nearest(query, k, selection, bias)
        if len(excluded):
            positions = positions[~np.isin(self.ids[positions], excluded)]
        scores = self.scores_at(positions, query)
        keep = scores > -np.inf
        if selection.lowest is not None:
            keep &= scores >= selection.lowest
        positions, scores = positions[keep], scores[keep]
        ordered_by = scores if bias is None else scores - bias.values[positions]
        best = np.argsort(-ordered_by, kind="stable")[:k]
        return positions[best], scores[best]


@dataclass(frozen=True)
class GpuLists:
    """An `Engine`: inverted lists on GPUs, with those on the CPU for what GPUs cannot do."""

    copies: Copies
    on_cpu: Engine

    def candidates(
        self, query: Floats, count: int, breadth: int, bits: Array | None
    ) -> Ints | None:
        """As `Engine.candidates`."""
        if bits is None and count <= _MOST_HITS and breadth <= _MOST_CELLS:
            try:
                return self.copies.batches.find(query, count, breadth)
            except RuntimeError:  # the GPU is full, or was taken away
                pass
        return self.on_cpu.candidates(query, count, breadth, bits)


@dataclass
class _Usage:
    """How a process uses a folder of vectors.

    copies: a weak reference, so that they leave the GPUs with the last snapshot that uses them.
    """

    searches: int = 0
    has_no_room: bool = False
    copies: weakref.ref[Copies] | None = None
    guard: threading.Lock = field(default_factory=threading.Lock)


_usage: dict[Path, _Usage] = {}


def after_many_searches(stored: Stored, bias: Bias | None) -> Rows:
    """The stored rows for one more search: with copies on all GPUs once searches are many.

    The rows as they are if they are few, or there is no GPU or no room. bias: of each row, for
    searches that subtract it.
    """
    rows = stored.rows
    if len(rows) < MIN_ROWS:
        return rows
    use = _usage.setdefault(stored.folder.absolute(), _Usage())
    if not use.guard.acquire(blocking=False):  # another thread is copying
        return rows
    try:
        use.searches += 1
        copies = None if use.copies is None else use.copies()
        if copies is None and use.searches >= MIN_SEARCHES and not use.has_no_room:
            copies = to_gpus(rows, bias)
            use.has_no_room = copies is None
            use.copies = None if copies is None else weakref.ref(copies)
        return rows if copies is None else copies.searching(rows)
    finally:
        use.guard.release()


def to_gpus(rows: Rows, bias: Bias | None, half: bool = True) -> Copies | None:
    """Copy the rows to all GPUs; None if there is no GPU or no room.

    Without room for them, their inverted lists are copied, if they have some: half of that or less.
    bias: of each row, for searches that subtract it. half: store float16 on the GPUs.
    """
    if not (gpus := count()):
        return None
    dim = padded_dim(rows.dim)
    try:
        return copied(rows, bias, [_empty(gpu, dim, half) for gpu in range(gpus)])
    except RuntimeError:  # a GPU that is full, or of a kind that FAISS was not built for
        pass
    lists = inverted_lists(rows)
    if lists is None or not isinstance(rows, ApproximateRows):
        return None
    try:
        return copied_lists(rows, lists, _lists_on_gpus(lists, gpus))
    except RuntimeError:
        return None


def copied(rows: Rows, bias: Bias | None, indexes: Sequence[Any]) -> Copies:
    """The rows spread over empty exact FAISS indexes, a range of rows in each.

    Two GPUs halve the time of a search, and none has to hold all rows. Raises RuntimeError if the
    rows do not fit.
    """
    share = -(-len(rows) // len(indexes))
    values = None if bias is None else bias.values
    for number, index in enumerate(indexes):
        end = min((number + 1) * share, len(rows))
        for start in range(number * share, end, _COPY_ROWS):
            where = slice(start, min(start + _COPY_ROWS, end))
            index.add(augmented_rows(rows, where, values))
    together = indexes[0]
    if len(indexes) > 1:
        together = load_faiss().IndexShards(padded_dim(rows.dim), True, True)  # positions run on
        for index in indexes:
            together.add_shard(index)

    def search(queries: Floats, count: int, _: int) -> Ints:
        found: Ints = together.search(queries, count)[1]
        return found

    return Copies(Batches(search), "" if bias is None else bias.name, of_lists=False)


def copied_lists(rows: ApproximateRows, lists: InvertedLists, index: Any) -> Copies:
    """The rows by a copy of their inverted lists. index: the copy, FAISS's on GPUs."""
    faiss = load_faiss()
    space = getattr(faiss, "GpuParameterSpace", faiss.ParameterSpace)()

    def search(queries: Floats, count: int, breadth: int) -> Ints:
        space.set_index_parameter(index, "nprobe", min(breadth, lists.index.nlist))
        found: Ints = index.search(queries, count)[1]
        return found

    return Copies(Batches(search), rows.bias, of_lists=True)


def inverted_lists(rows: Rows) -> InvertedLists | None:
    """The inverted lists of the rows, on the CPU; None if they have none."""
    if isinstance(rows, ApproximateRows) and isinstance(rows.engine, LazyEngine):
        engine = rows.engine.opened()
        if isinstance(engine, InvertedLists):
            return engine
    return None


def _lists_on_gpus(lists: InvertedLists, gpus: int) -> Any:
    """FAISS's index of the lists on the GPUs, a part of the rows on each."""
    faiss = load_faiss()
    options = faiss.GpuMultipleClonerOptions()
    options.shard, options.useFloat16 = True, True
    options.indicesOptions = faiss.INDICES_64_BIT
    return faiss.index_cpu_to_all_gpus(lists.index, options, gpus)


def _empty(gpu: int, dim: int, half: bool) -> Any:
    """An exact inner-product index without rows on one GPU."""
    faiss = load_faiss()
    resources = faiss.StandardGpuResources()
    resources.setTempMemory(_SCRATCH_BYTES)
    settings = faiss.GpuIndexFlatConfig()
    settings.device, settings.useFloat16 = gpu, half
    return faiss.GpuIndexFlatIP(resources, dim, settings)
