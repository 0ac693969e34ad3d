"""Inverted lists: rows in cells by their nearest centroid, of which a search reads a few.

Rows are stored in 8 bits a number (`ivf`) or as product codes (`ivf-pq`, an eighth of that). What
FAISS learned and its lists are plain arrays on disk, checked before FAISS sees them; the lists are
mapped, so that a search reads only the cells that it looks at. FAISS's own files are not used: its
reader trusts what they say.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from indexes.arrays import Array, Floats, Ints
from indexes.lazy_imports import load_faiss
from indexes.regular_files import open_regular
from indexes.vectors.approximate import padded_dim
from indexes.vectors.arrays_on_disk import read_array, write_array
from indexes.vectors.faiss_steps import search, train_and_add
from indexes.vectors.rows import Rows

Codes = Literal["ivf", "ivf-pq"]
BREADTHS = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)  # cells to read

_TRAIN_PER_CELL, _ITERATIONS = 40, 10
_TRAIN_CODES = 65_536
_NUMBERS_A_CODE = 8  # of a row, for each byte of a product code
_CENTROIDS, _LEARNED, _SIZES, _LISTS = "centroids.npy", "learned.npy", "sizes.npy", "lists.bin"


@dataclass(frozen=True)
class InvertedLists:
    """An `Engine`. index: FAISS's; owned: what it points to and must outlive it."""

    index: Any
    owned: tuple[Any, ...]

    def candidates(self, query: Floats, count: int, breadth: int, bits: Array | None) -> Ints:
        """As `Engine.candidates`. breadth: how many cells are read."""
        faiss = load_faiss()
        cells = min(breadth, self.index.nlist)
        return search(self.index, query, count, faiss.SearchParametersIVF(nprobe=cells), bits)


def cells(count: int) -> int:
    """How many cells so many rows are spread over: 4 √n, but enough rows in each to learn it."""
    return max(1, min(int(4 * count**0.5), count // _TRAIN_PER_CELL))


def build(
    codes: Codes,
    folder: Path,
    rows: Rows,
    bias: Floats | None,
    progress: Callable[[int, int], None] = lambda *_: None,
    seed: int = 0,
) -> None:
    """Write the files of an engine over the rows to a folder. bias: float32 [n].

    progress: called with how many rows are done, and of how many. Raises OSError or MemoryError.
    """
    dim, nlist = padded_dim(rows.dim), cells(len(rows))
    index, _owned = _empty(codes, dim, nlist)
    index.cp.niter, index.cp.spherical, index.cp.seed = _ITERATIONS, True, seed + 1
    index.cp.max_points_per_centroid = _TRAIN_PER_CELL
    sample = max(_TRAIN_PER_CELL * nlist, _TRAIN_CODES)
    train_and_add(index, rows, bias, sample, seed, progress)
    write_array(folder / _CENTROIDS, index.quantizer.reconstruct_n(0, nlist))
    write_array(folder / _LEARNED, _learned(codes, index))
    lists = index.invlists
    sizes = np.array([lists.list_size(i) for i in range(nlist)], np.int64)
    write_array(folder / _SIZES, sizes)
    faiss = load_faiss()
    with (folder / _LISTS).open("xb") as file:
        for i, size in enumerate(sizes.tolist()):
            if size:
                file.write(faiss.rev_swig_ptr(lists.get_codes(i), size * index.code_size).data)
                file.write(faiss.rev_swig_ptr(lists.get_ids(i), size).data)


def open_lists(codes: Codes, folder: Path, count: int, dim: int) -> InvertedLists:
    """The engine over `count` rows of `dim` numbers in a folder.

    Raises OSError or ValueError if the files do not fit together.
    """
    faiss = load_faiss()
    width, nlist = padded_dim(dim), cells(count)
    centroids = read_array(folder / _CENTROIDS, np.float32, (nlist, width))
    sizes = read_array(folder / _SIZES, np.int64, (nlist,))
    learned = read_array(folder / _LEARNED, np.float32, _learned_shape(codes, width))
    if (sizes < 0).any() or (sizes > count).any() or sizes.sum() != count:
        raise ValueError("the lists do not have one place for each row")
    if not (np.isfinite(centroids).all() and np.isfinite(learned).all()):
        raise ValueError("what the index learned is not made of numbers")
    index, owned = _empty(codes, width, nlist)
    index.quantizer.add(centroids)
    target = index.sq.trained if codes == "ivf" else index.pq.centroids
    faiss.copy_array_to_vector(learned, target)
    if codes == "ivf-pq":
        index.pq.compute_symmetric_tables = False
        index.use_precomputed_table = -1
    index.is_trained = True
    with open_regular(folder / _LISTS) as file:
        size = os.fstat(file.fileno()).st_size
        if size != count * (index.code_size + 8):
            raise ValueError("the lists have another size")
        # FAISS takes a name: this one stands for the file that was checked.
        name = f"/dev/fd/{file.fileno()}" if os.name != "nt" else str(folder / _LISTS)
        lists = faiss.OnDiskInvertedLists(nlist, index.code_size, name)
        lists.read_only, lists.prefetch_nthread = True, 0
        unsigned = sizes.astype(np.uint64)
        lists.set_all_lists_sizes(faiss.swig_ptr(unsigned))
        lists.totsize = size
        if size:
            lists.do_mmap()
    index.replace_invlists(lists, False)
    index.ntotal = count
    return InvertedLists(index, (*owned, lists))


def _empty(codes: Codes, width: int, nlist: int) -> tuple[Any, tuple[Any, ...]]:
    """FAISS's index without rows, and what it points to."""
    faiss = load_faiss()
    quantizer = faiss.IndexFlatIP(width)
    metric = faiss.METRIC_INNER_PRODUCT
    if codes == "ivf":
        eight_bits = faiss.ScalarQuantizer.QT_8bit
        index = faiss.IndexIVFScalarQuantizer(quantizer, width, nlist, eight_bits, metric, True)
    else:
        index = faiss.IndexIVFPQ(quantizer, width, nlist, width // _NUMBERS_A_CODE, 8, metric)
    index.own_fields = False
    return index, (quantizer,)


def _learned(codes: Codes, index: Any) -> Floats:
    values: Floats = load_faiss().vector_to_array(
        index.sq.trained if codes == "ivf" else index.pq.centroids
    )
    return values


def _learned_shape(codes: Codes, width: int) -> tuple[int]:
    """The range of each dimension, or 256 centroids for each part of a row."""
    return (2 * width,) if codes == "ivf" else (256 * width,)
