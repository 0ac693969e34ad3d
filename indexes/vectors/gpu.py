"""The vectors on GPUs, for a process that searches many of them often.

A command that searches once never comes here: starting a GPU takes seconds. The search is exact, as
on the CPU, but for the rounding to float16; rows that do not fit on the GPUs are searched there by
the inverted lists of the index, if it has some. Filters, other biases than the one that was copied
and very many hits are left to the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
from indexes.vectors.faiss_steps import search
from indexes.vectors.ivf import InvertedLists
from indexes.vectors.rows import EVERYTHING, Bias, Rows, Selection
from indexes.vectors.store import LazyEngine

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


@dataclass(frozen=True)
class GpuRows(Rows):
    """Rows with copies on GPUs. What the GPUs cannot do, the CPU does as before.

    copies: a FAISS index of the rows, with their bias as one more dimension, by their positions;
    bias: the name of that bias, '' for none; on_cpu: how the rows are searched on the CPU.
    """

    copies: Any
    bias: str
    on_cpu: Rows

    def nearest(
        self, query: Floats, k: int, selection: Selection = EVERYTHING, bias: Bias | None = None
    ) -> tuple[Ints, Floats]:
        """As `Rows.nearest`, without rows beyond the best k; the scores are exact."""
        nothing = np.empty(0, np.int64)
        excluded = nothing if selection.excluded is None else selection.excluded
        wanted = k + _SPARE + len(excluded)
        other_bias = bias is not None and bias.name != self.bias
        if other_bias or selection.allowed is not None or wanted > _MOST_HITS:
            return self.on_cpu.nearest(query, k, selection, bias)
        row = augmented(query, biased=bias is not None)[None]
        try:
            _, found = self.copies.search(row, min(wanted, len(self)))
        except RuntimeError:  # the GPU is full, or was taken away
            return self.on_cpu.nearest(query, k, selection, bias)
        positions: Ints = found[0][found[0] >= 0]
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


def to_gpus(rows: Rows, bias: Bias | None, half: bool = True) -> Rows:
    """The rows with copies on all GPUs; unchanged if they are few, or there is no GPU or no room.

    Without room for them, their inverted lists are copied, if they have some: half of that or less.
    bias: of each row, for searches that subtract it. half: store float16 on the GPUs.
    """
    if len(rows) < MIN_ROWS or not (gpus := count()):
        return rows
    dim = padded_dim(rows.dim)
    try:
        return copied(rows, bias, [_empty(gpu, dim, half) for gpu in range(gpus)])
    except RuntimeError:  # a GPU that is full, or of a kind that FAISS was not built for
        pass
    try:
        return with_lists(rows, lambda lists: _lists_on_gpus(lists, gpus))
    except RuntimeError:
        return rows


@dataclass(frozen=True)
class GpuLists:
    """An `Engine`: inverted lists on GPUs, with those on the CPU for what GPUs cannot do.

    copy: FAISS's index; set_breadth: sets how many lists a search of it reads.
    """

    copy: Any
    set_breadth: Callable[[int], None]
    on_cpu: Engine

    def candidates(
        self, query: Floats, count: int, breadth: int, bits: Array | None
    ) -> Ints | None:
        """As `Engine.candidates`."""
        if bits is None and count <= _MOST_HITS and breadth <= _MOST_CELLS:
            try:
                self.set_breadth(breadth)
                return search(self.copy, query, count, None, None)
            except RuntimeError:  # the GPU is full, or was taken away
                pass
        return self.on_cpu.candidates(query, count, breadth, bits)


def with_lists(rows: Rows, to_gpus: Callable[[Any], Any]) -> Rows:
    """The rows with their inverted lists on GPUs; unchanged if they have none.

    to_gpus: copies FAISS's index there; raises RuntimeError if it does not fit.
    """
    if not isinstance(rows, ApproximateRows) or not isinstance(rows.engine, LazyEngine):
        return rows
    engine = rows.engine.opened()
    if not isinstance(engine, InvertedLists):
        return rows
    copy = to_gpus(engine.index)
    faiss = load_faiss()
    space = getattr(faiss, "GpuParameterSpace", faiss.ParameterSpace)()

    def set_breadth(cells: int) -> None:
        space.set_index_parameter(copy, "nprobe", min(cells, engine.index.nlist))

    return replace(rows, engine=GpuLists(copy, set_breadth, engine))


def _lists_on_gpus(lists: Any, gpus: int) -> Any:
    """FAISS's inverted lists copied to the GPUs, a part of the rows on each."""
    faiss = load_faiss()
    options = faiss.GpuMultipleClonerOptions()
    options.shard, options.useFloat16 = True, True
    options.indicesOptions = faiss.INDICES_64_BIT
    return faiss.index_cpu_to_all_gpus(lists, options, gpus)


def copied(rows: Rows, bias: Bias | None, copies: Sequence[Any]) -> GpuRows:
    """The rows spread over empty exact FAISS indexes, a range of rows in each.

    Two GPUs halve the time of a search, and none has to hold all rows. Raises RuntimeError if the
    rows do not fit.
    """
    share = -(-len(rows) // len(copies))
    values = None if bias is None else bias.values
    for number, copy in enumerate(copies):
        end = min((number + 1) * share, len(rows))
        for start in range(number * share, end, _COPY_ROWS):
            where = slice(start, min(start + _COPY_ROWS, end))
            copy.add(augmented_rows(rows, where, values))
    together = copies[0]
    if len(copies) > 1:
        together = load_faiss().IndexShards(padded_dim(rows.dim), True, True)  # positions run on
        for copy in copies:
            together.add_shard(copy)
    return GpuRows(rows.ids, rows.rows, together, "" if bias is None else bias.name, rows)


def _empty(gpu: int, dim: int, half: bool) -> Any:
    """An exact inner-product index without rows on one GPU."""
    faiss = load_faiss()
    resources = faiss.StandardGpuResources()
    resources.setTempMemory(_SCRATCH_BYTES)
    settings = faiss.GpuIndexFlatConfig()
    settings.device, settings.useFloat16 = gpu, half
    return faiss.GpuIndexFlatIP(resources, dim, settings)
