"""Inverted lists: rows in cells by their nearest centroid, of which a search reads a few.

Rows are stored in 8 bits a number (`ivf`) or as product codes (`ivf-pq`, an eighth of that). What
FAISS learned and its lists are plain arrays on disk, checked before FAISS sees them; the lists are
mapped, so that a search reads only the cells that it looks at. FAISS's own files are not used: its
reader trusts what they say.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from indexes.arrays import Array, Floats, Ints
from indexes.lazy_imports import load_faiss
from indexes.regular_files import open_regular
from indexes.vectors.approximate import padded_dim
from indexes.vectors.arrays_on_disk import map_array, read_array, write_array
from indexes.vectors.faiss_steps import Progress, add, search, search_cells, train
from indexes.vectors.rows import Rows

Codes = Literal["ivf", "ivf-pq"]
BREADTHS = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)  # cells to read

_TRAIN_PER_CELL, _ITERATIONS = 40, 10
_TRAIN_CODES = 65_536
_NUMBERS_A_CODE = 8  # of a row, for each byte of a product code
_CENTROIDS, _LEARNED, _SIZES, _LISTS = "centroids.npy", "learned.npy", "sizes.npy", "lists.bin"
_CELLS = "cells.npy"  # of each row
_MOST_FILTERS = 8  # whose rows in each cell are kept


@dataclass(frozen=True)
class InvertedLists:
    """An `Engine`. index: FAISS's; owned: what it points to and must outlive it; centroids: of the
    cells, float32 [c, padded dim]; folder: where the cell of each row is stored."""

    index: Any
    owned: tuple[Any, ...]
    centroids: Floats
    folder: Path
    known: dict[int, tuple[Array, Ints]] = field(default_factory=dict, compare=False, repr=False)

    def candidates(self, query: Floats, count: int, breadth: int, bits: Array | None) -> Ints:
        """As `Engine.candidates`. breadth: how many cells are read of average size.

        Under a filter, cells without allowed rows are passed over, and as many allowed rows are
        looked at as a search among all rows looks at: photos of a folder may lie in few cells, far
        from the query.
        """
        faiss = load_faiss()
        if bits is None:
            cells = min(breadth, self.index.nlist)
            parameters = faiss.SearchParametersIVF(nprobe=cells)
            return search(self.index, query, count, parameters, None)
        allowed = self._allowed(bits)
        scores = self.centroids @ query
        nearest = np.argsort(np.where(allowed > 0, -scores, np.inf), kind="stable")
        nearest = nearest[: np.count_nonzero(allowed)]
        if not len(nearest):
            return np.empty(0, np.int64)
        enough = breadth * self.index.ntotal / self.index.nlist
        chosen = nearest[: 1 + np.searchsorted(np.cumsum(allowed[nearest]), enough)]
        return search_cells(self.index, query, count, chosen, scores[chosen], bits)

    def _allowed(self, bits: Array) -> Ints:
        """How many of the rows in each cell a bitmap allows, int64 [c]; of the last few kept."""
        if id(bits) not in self.known:
            cell_of_row = map_array(
                self.folder / _CELLS, [_cell_type(self.index.nlist)], (self.index.ntotal,)
            )
            is_allowed = np.unpackbits(bits, count=len(cell_of_row), bitorder="little")
            cells = cell_of_row[is_allowed.view(np.bool_)]
            # A file may hold any number: a wrong one only makes a search look elsewhere.
            cells = np.minimum(cells, self.index.nlist - 1)
            rows = np.bincount(cells, minlength=self.index.nlist)
            if len(self.known) >= _MOST_FILTERS:
                self.known.pop(next(iter(self.known)))
            self.known[id(bits)] = bits, rows  # the array stays, and with it its id
        return self.known[id(bits)][1]


def _cell_type(nlist: int) -> Any:
    return np.uint16 if nlist <= 1 << 16 else np.uint32


def cells(count: int) -> int:
    """How many cells so many rows are spread over: 4 √n, but enough rows in each to learn it."""
    return max(1, min(int(4 * count**0.5), count // _TRAIN_PER_CELL))


def build(
    codes: Codes,
    folder: Path,
    rows: Rows,
    bias: Floats | None,
    progress: Progress = lambda *_: None,
    seed: int = 0,
) -> None:
    """Write the files of an engine over the rows to a folder. bias: float32 [n].

    progress: called with how many rows are done, and of how many. Raises OSError or MemoryError.
    """
    nlist = cells(len(rows))
    index, _owned = _empty(codes, padded_dim(rows.dim), nlist)
    index.cp.niter, index.cp.spherical, index.cp.seed = _ITERATIONS, True, seed + 1
    index.cp.max_points_per_centroid = _TRAIN_PER_CELL
    sample = max(_TRAIN_PER_CELL * nlist, _TRAIN_CODES)
    train(index, rows, bias, sample, seed)
    add(index, rows, bias, progress)
    write_array(folder / _CENTROIDS, index.quantizer.reconstruct_n(0, nlist))
    write_array(folder / _LEARNED, _learned(codes, index))
    _write_lists(folder, index)


def extend(
    codes: Codes,
    folder: Path,
    before: Path,
    nlist: int,
    now_at: Ints,
    rows: Rows,
    bias: Floats | None,
    progress: Progress = lambda *_: None,
) -> int:
    """As `build`, from an earlier engine: what was learned stays, and new rows join its lists.

    before, nlist: its folder, and of how many lists, as for `open_lists`. now_at: where each of its
    rows is now, int64 [m], -1 for one that is gone; all other rows are new. A row that stays keeps
    its code, in which its bias may be an earlier one. Returns the number of lists. Raises
    ValueError, and writes nothing, if the earlier engine makes no sense.
    """
    earlier = open_lists(codes, before, len(now_at), rows.dim, nlist)
    _check_positions(earlier.index, len(now_at))
    old = earlier.index
    index, _owned = _empty(codes, old.d, old.nlist)
    centroids, learned = old.quantizer.reconstruct_n(0, old.nlist), _learned(codes, old)
    _teach(codes, index, centroids, learned)
    is_new = np.ones(len(rows), np.bool_)
    is_new[now_at[now_at >= 0]] = False
    add(index, rows, bias, progress, np.flatnonzero(is_new))
    write_array(folder / _CENTROIDS, centroids)
    write_array(folder / _LEARNED, learned)
    _write_lists(folder, index, old, now_at)
    return int(old.nlist)


def _check_positions(index: Any, count: int) -> None:
    """Raise ValueError unless the lists hold each of `count` positions once."""
    seen = np.zeros(count, np.bool_)
    for i in range(index.nlist):
        _, positions = _list(index, i)
        if (positions < 0).any() or (positions >= count).any():
            raise ValueError("the lists hold rows that are not there")
        seen[positions] = True
    if not seen.all():
        raise ValueError("the lists do not hold each row once")


def _write_lists(folder: Path, index: Any, old: Any = None, now_at: Ints | None = None) -> None:
    """Write the lists of an index, each after what stays of the same list of an old one."""
    sizes = np.zeros(index.nlist, np.int64)
    kept = 0 if now_at is None else int((now_at >= 0).sum())
    cell_of_row = np.empty(index.ntotal + kept, _cell_type(index.nlist))
    with (folder / _LISTS).open("xb") as file:
        for i in range(index.nlist):
            codes, positions = _list(index, i)
            if now_at is not None:
                old_codes, old_positions = _list(old, i)
                moved = now_at[old_positions]
                codes = np.concatenate([old_codes[moved >= 0], codes])
                positions = np.concatenate([moved[moved >= 0], positions])
            sizes[i] = len(positions)
            cell_of_row[positions] = i
            if sizes[i]:
                file.write(np.ascontiguousarray(codes).data)
                file.write(np.ascontiguousarray(positions).data)
    write_array(folder / _SIZES, sizes)
    write_array(folder / _CELLS, cell_of_row)


def _list(index: Any, number: int) -> tuple[Array, Ints]:
    """The codes, uint8 [m, code size], and positions, int64 [m], of a list, in FAISS's memory."""
    lists, size = index.invlists, index.invlists.list_size(number)
    if not size:
        return np.empty((0, index.code_size), np.uint8), np.empty(0, np.int64)
    faiss = load_faiss()
    codes = faiss.rev_swig_ptr(lists.get_codes(number), size * index.code_size)
    return codes.reshape(size, -1), faiss.rev_swig_ptr(lists.get_ids(number), size)


@dataclass(frozen=True)
class _Parts:
    """What the files of an engine hold besides its lists. centroids: float32 [c, padded dim];
    learned: float32; sizes: of the lists, int64 [c]."""

    centroids: Floats
    learned: Floats
    sizes: Ints


def check_lists(codes: Codes, folder: Path, count: int, dim: int, nlist: int = 0) -> _Parts:
    """Check the files of an engine, without FAISS; takes and raises what `open_lists` does."""
    width, nlist = padded_dim(dim), nlist or cells(count)
    centroids = read_array(folder / _CENTROIDS, np.float32, (nlist, width))
    sizes = read_array(folder / _SIZES, np.int64, (nlist,))
    learned = read_array(folder / _LEARNED, np.float32, _learned_shape(codes, width))
    if (sizes < 0).any() or (sizes > count).any() or sizes.sum() != count:
        raise ValueError("the lists do not have one place for each row")
    if not (np.isfinite(centroids).all() and np.isfinite(learned).all()):
        raise ValueError("what the index learned is not made of numbers")
    with open_regular(folder / _LISTS) as file:
        _check_size(file, codes, count, width)
    # Looked at when a filter needs it: whether it is there is known now.
    map_array(folder / _CELLS, [_cell_type(nlist)], (count,))
    return _Parts(centroids, learned, sizes)


def _check_size(file: BinaryIO, codes: Codes, count: int, width: int) -> int:
    """The bytes of the lists; raises ValueError if they are not those of so many rows."""
    size = os.fstat(file.fileno()).st_size
    if size != count * (_code_size(codes, width) + 8):
        raise ValueError("the lists have another size")
    return size


def open_lists(codes: Codes, folder: Path, count: int, dim: int, nlist: int = 0) -> InvertedLists:
    """The engine over `count` rows of `dim` numbers in a folder.

    nlist: how many lists there are, 0 for as many as `cells` says. Raises OSError or ValueError if
    the files do not fit together.
    """
    faiss, width = load_faiss(), padded_dim(dim)
    parts = check_lists(codes, folder, count, dim, nlist)
    nlist = len(parts.sizes)
    index, owned = _empty(codes, width, nlist)
    _teach(codes, index, parts.centroids, parts.learned)
    with open_regular(folder / _LISTS) as file:
        size = _check_size(file, codes, count, width)
        # FAISS takes a name: this one stands for the file that was checked.
        name = f"/dev/fd/{file.fileno()}" if os.name != "nt" else str(folder / _LISTS)
        lists = faiss.OnDiskInvertedLists(nlist, index.code_size, name)
        lists.read_only, lists.prefetch_nthread = True, 0
        unsigned = parts.sizes.astype(np.uint64)
        lists.set_all_lists_sizes(faiss.swig_ptr(unsigned))
        lists.totsize = size
        if size:
            lists.do_mmap()
    index.replace_invlists(lists, False)
    index.ntotal = count
    index.parallel_mode = 1  # threads share the lists of one query
    return InvertedLists(index, (*owned, lists), parts.centroids, folder)


def _teach(codes: Codes, index: Any, centroids: Floats, learned: Floats) -> None:
    """Give an empty index what another one learned."""
    index.quantizer.add(centroids)
    target = index.sq.trained if codes == "ivf" else index.pq.centroids
    load_faiss().copy_array_to_vector(learned, target)
    if codes == "ivf-pq":
        index.pq.compute_symmetric_tables = False
        index.use_precomputed_table = -1
    index.is_trained = True


def _empty(codes: Codes, width: int, nlist: int) -> tuple[Any, tuple[Any, ...]]:
    """FAISS's index without rows, and what it points to."""
    faiss = load_faiss()
    quantizer = faiss.IndexFlatIP(width)
    metric = faiss.METRIC_INNER_PRODUCT
    if codes == "ivf":
        eight_bits = faiss.ScalarQuantizer.QT_8bit
        index = faiss.IndexIVFScalarQuantizer(quantizer, width, nlist, eight_bits, metric, True)
    else:
        index = faiss.IndexIVFPQ(quantizer, width, nlist, _code_size(codes, width), 8, metric)
    index.own_fields = False
    return index, (quantizer,)


def _code_size(codes: Codes, width: int) -> int:
    """The bytes that a row takes in a list."""
    return width if codes == "ivf" else width // _NUMBERS_A_CODE


def _learned(codes: Codes, index: Any) -> Floats:
    values: Floats = load_faiss().vector_to_array(
        index.sq.trained if codes == "ivf" else index.pq.centroids
    )
    return values


def _learned_shape(codes: Codes, width: int) -> tuple[int]:
    """The range of each dimension, or 256 centroids for each part of a row."""
    return (2 * width,) if codes == "ivf" else (256 * width,)
