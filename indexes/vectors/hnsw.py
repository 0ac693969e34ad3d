"""A graph of near neighbours (HNSW) over rows in 8 bits, which a search walks.

Faster than inverted lists for the same recall and slower to build; a process that opens it reads
all of it into memory. Its parts are plain arrays on disk, checked before FAISS sees them: an edge
that leads nowhere would end the process.

Malkov and Yashunin, Efficient and robust approximate nearest neighbor search using Hierarchical
Navigable Small World graphs, 2018.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from indexes.arrays import Array, Floats, Ints
from indexes.lazy_imports import load_faiss
from indexes.vectors.approximate import padded_dim
from indexes.vectors.arrays_on_disk import map_array, read_array, write_array
from indexes.vectors.faiss_steps import add, search, train
from indexes.vectors.rows import Rows

BREADTHS = (32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)  # efSearch

_NEIGHBOURS, _BUILD_BREADTH = 32, 80  # M and efConstruction
_TRAIN_CODES = 65_536
_MOST_LEVELS = 32
_LEVELS, _EDGES, _CODES, _LEARNED = "levels.npy", "edges.npy", "codes.npy", "learned.npy"


@dataclass(frozen=True)
class Graph:
    """An `Engine`. index: FAISS's."""

    index: Any

    def candidates(self, query: Floats, count: int, breadth: int, bits: Array | None) -> Ints:
        """As `Engine.candidates`. breadth: the length of the list of candidates, efSearch."""
        faiss = load_faiss()
        breadth = max(breadth, count)
        return search(self.index, query, count, faiss.SearchParametersHNSW(efSearch=breadth), bits)


def build(
    folder: Path,
    rows: Rows,
    bias: Floats | None,
    progress: Callable[[int, int], None] = lambda *_: None,
    seed: int = 0,
) -> None:
    """Write the files of a graph over the rows to a folder. bias: float32 [n].

    progress: called with how many rows are done, and of how many. Raises OSError or MemoryError.
    """
    faiss = load_faiss()
    index = _empty(padded_dim(rows.dim))
    index.hnsw.efConstruction = _BUILD_BREADTH
    train(index, rows, bias, _TRAIN_CODES, seed)
    add(index, rows, bias, progress)
    graph, storage = index.hnsw, faiss.downcast_index(index.storage)
    write_array(folder / _LEVELS, faiss.vector_to_array(graph.levels))
    write_array(folder / _EDGES, faiss.vector_to_array(graph.neighbors))
    write_array(folder / _CODES, faiss.vector_to_array(storage.codes))
    write_array(folder / _LEARNED, faiss.vector_to_array(storage.sq.trained))


@dataclass(frozen=True)
class _Parts:
    """What the files of a graph hold. levels: of the rows, int32 [n]; offsets: where the edges of
    each begin, uint64 [n + 1]; edges: int32; learned: float32."""

    levels: Ints
    offsets: Array
    edges: Ints
    learned: Floats


def check_graph(folder: Path, count: int, dim: int) -> _Parts:
    """Check the files of a graph, without FAISS; takes and raises what `open_graph` does."""
    width = padded_dim(dim)
    levels = read_array(folder / _LEVELS, np.int32, (count,))
    if count and not (levels.min() >= 1 and levels.max() <= _MOST_LEVELS):
        raise ValueError("the graph has levels that no graph has")
    # Each row has room for twice the neighbours at the lowest level, and once at each above.
    offsets = np.zeros(count + 1, np.uint64)
    np.cumsum(_NEIGHBOURS * (levels.astype(np.uint64) + 1), out=offsets[1:])
    edges = read_array(folder / _EDGES, np.int32, (int(offsets[-1]),))
    if len(edges) and not (edges.min() >= -1 and edges.max() < count):
        raise ValueError("the graph has edges that lead nowhere")
    learned = read_array(folder / _LEARNED, np.float32, (2 * width,))
    if not np.isfinite(learned).all():
        raise ValueError("what the index learned is not made of numbers")
    _check_levels(levels, offsets, edges)
    map_array(folder / _CODES, [np.uint8], (count * width,))
    return _Parts(levels, offsets, edges, learned)


def open_graph(folder: Path, count: int, dim: int) -> Graph:
    """The graph over `count` rows of `dim` numbers in a folder.

    Raises OSError or ValueError if the files do not fit together.
    """
    faiss, width = load_faiss(), padded_dim(dim)
    parts = check_graph(folder, count, dim)
    codes = read_array(folder / _CODES, np.uint8, (count * width,))
    index = _empty(width)
    storage = faiss.downcast_index(index.storage)
    faiss.copy_array_to_vector(parts.learned, storage.sq.trained)
    faiss.copy_array_to_vector(codes, storage.codes)
    storage.is_trained, storage.ntotal = True, count
    faiss.copy_array_to_vector(parts.levels, index.hnsw.levels)
    faiss.copy_array_to_vector(parts.offsets, index.hnsw.offsets)
    faiss.copy_array_to_vector(parts.edges, index.hnsw.neighbors)
    index.hnsw.entry_point = highest = int(parts.levels.argmax()) if count else -1
    index.hnsw.max_level = int(parts.levels[highest]) - 1 if count else -1
    index.is_trained, index.ntotal = True, count
    return Graph(index)


def _check_levels(levels: Ints, offsets: Array, edges: Ints) -> None:
    """Raise ValueError if an edge above the lowest level leads to a row that is not that high."""
    for level in range(1, int(levels.max(initial=0))):
        high = np.flatnonzero(levels > level)
        first = offsets[high].astype(np.int64) + _NEIGHBOURS * (level + 1)
        targets = edges[first[:, None] + np.arange(_NEIGHBOURS)]
        if (levels[targets[targets >= 0]] <= level).any():
            raise ValueError("the graph has edges that lead nowhere")


def _empty(width: int) -> Any:
    faiss = load_faiss()
    eight_bits = faiss.ScalarQuantizer.QT_8bit
    return faiss.IndexHNSWSQ(width, eight_bits, _NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
