"""The types of vector index that are compared: how FAISS builds each, and how each is searched.

`retrieval benchmark search` measures their speed and size, `retrieval benchmark recall` what they
find. A lossy index returns more candidates than are needed, and these are scored exactly.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from indexes.arrays import Floats, Ints
from indexes.errors import StorageError
from indexes.lazy_imports import load_faiss
from indexes.vectors import flat, gpu
from indexes.vectors.approximate import padded_dim
from indexes.vectors.rows import Rows
from retrieval.errors import QueryError

K = 10
CANDIDATES = 4 * K  # that a lossy index returns to be scored exactly
MIN_RECALL = 98.0  # recall@10 in percent that an approximate index has to reach
_CHUNK = 1 << 16


@dataclass(frozen=True)
class IndexType:
    """A type of index.

    factory: FAISS's factory string for a number of vectors; lossy: whether candidates have to be
    scored again; setting: the name of its one search parameter; settings: its values from fast to
    accurate, of which the first that is accurate enough is used; gpu_precision: how GPUs store the
    copy that they search, '' if no GPU is used.
    """

    factory: Callable[[int], str]
    lossy: bool = True
    setting: str = ""
    settings: tuple[int, ...] = (0,)
    gpu_precision: Literal["", "float32", "float16"] = ""


def _cells(count: int) -> int:
    """Cells of an inverted file: 4 √n, but at most n / 40 for training; a power of two."""
    return int(2 ** max(0, np.floor(np.log2(min(4 * np.sqrt(count), count / 40)))))


INDEX_TYPES: Mapping[str, IndexType] = {
    "exact": IndexType(lambda _: "Flat", lossy=False),
    "fp16": IndexType(lambda _: "SQfp16"),
    "int8": IndexType(lambda _: "SQ8"),
    "hnsw": IndexType(lambda _: "HNSW32,SQ8", True, "efSearch", (16, 32, 64, 128, 256, 512)),
    "ivf": IndexType(lambda n: f"IVF{_cells(n)},SQ8", True, "nprobe", (4, 8, 16, 32, 64, 128, 256)),
    "gpu": IndexType(lambda _: "Flat", lossy=False, gpu_precision="float32"),
    "gpu16": IndexType(lambda _: "Flat", gpu_precision="float16"),
}


def available_types() -> list[str]:
    """The types that can be measured on this machine."""
    return [
        name
        for name, index_type in INDEX_TYPES.items()
        if not index_type.gpu_precision or gpu.count()
    ]


def check(names: Sequence[str]) -> None:
    """Raise QueryError for a type that is unknown, or that needs a GPU where there is none."""
    unknown = [name for name in names if name not in INDEX_TYPES]
    if unknown:
        raise QueryError(
            f"There is no index type '{unknown[0]}'. Choose from: {', '.join(INDEX_TYPES)}."
        )
    available = available_types()
    if missing := [name for name in names if name not in available]:
        raise QueryError(
            f"The index type '{missing[0]}' needs an NVIDIA GPU that FAISS can use, and there is "
            f"none here. Choose from: {', '.join(available)}."
        )


def build(name: str, rows: Floats, seed: int = 0) -> Any:
    """A FAISS index of a type over `rows`, float32 [n, dim], by inner product.

    seed: chooses the rows that it is trained on.
    """
    faiss = load_faiss()
    factory = INDEX_TYPES[name].factory(len(rows))
    index = faiss.index_factory(rows.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    sample = min(len(rows), max(50_000, 64 * getattr(index, "nlist", 0)))
    chosen = np.sort(np.random.default_rng(seed).permutation(len(rows))[:sample])
    index.train(np.ascontiguousarray(rows[chosen]))
    for start in range(0, len(rows), _CHUNK):
        index.add(np.ascontiguousarray(rows[start : start + _CHUNK]))
    return index


class SearchableIndex:
    """An index that is searched as a user's search would search it.

    setting: the value in use, as 'efSearch=32'; '' for a type that has none.
    """

    def __init__(self, name: str, index: Any, part: Rows) -> None:
        """index: the result of `build`; part: the same rows by their positions.

        Raises StorageError if a GPU is needed and the vectors do not fit on it.
        """
        self.index_type, self.setting = INDEX_TYPES[name], ""
        self._index, self._part = index, part
        if self.index_type.gpu_precision:
            on_gpu = gpu.to_gpus(part, None, half=self.index_type.gpu_precision == "float16")
            if not isinstance(on_gpu, gpu.GpuRows):
                raise StorageError(
                    f"{len(part):,} vectors do not fit on the GPU. Measure fewer, or another type "
                    "of index."
                )
            self._index, self._part = on_gpu.copies, on_gpu

    def candidates(self, queries: Floats) -> Ints:
        """The result of the index itself for queries [n, dim]: int64 [n, 40], padded with -1."""
        found: Ints = self._index.search(self._as_taken(queries), CANDIDATES)[1]
        return found

    def search(self, queries: Floats) -> Ints:
        """The first `K` of each query [n, dim], by exact scores: int64 [n, K], padded with -1."""
        if self.index_type.lossy:
            found = self.candidates(queries)
            return np.stack([self._rescore(q, ids) for q, ids in zip(queries, found, strict=True)])
        if len(queries) == 1:
            return _pad(flat.search([self._part], queries[0], K)[0])[None]
        exact: Ints = self._index.search(self._as_taken(queries), K)[1]
        return exact

    def _as_taken(self, queries: Floats) -> Floats:
        """Queries as FAISS takes them: vectors on a GPU have room for a bias."""
        if not self.index_type.gpu_precision:
            return queries
        more = padded_dim(queries.shape[1]) - queries.shape[1]
        return np.pad(queries, ((0, 0), (0, more)))

    def choose_setting(self, queries: Floats, thresholds: Floats) -> None:
        """Use the first setting that reaches 98% recall on these queries.

        thresholds: as for `recall`.
        """
        for value in self.index_type.settings if self.index_type.setting else ():
            space = load_faiss().ParameterSpace()
            space.set_index_parameter(self._index, self.index_type.setting, value)
            self.setting = f"{self.index_type.setting}={value}"
            if recall(self._part.rows, queries, self.search(queries), thresholds) >= MIN_RECALL:
                break

    def _rescore(self, query: Floats, ids: Ints) -> Ints:
        ids = ids[ids >= 0]
        return _pad(ids[np.argsort(-(self._part.rows[ids] @ query), kind="stable")[:K]])


def _pad(ids: Ints) -> Ints:
    """int64 [K], with -1 at the end if there are fewer."""
    return np.pad(ids, (0, K - len(ids)), constant_values=-1)


def recall(rows: Floats, queries: Floats, found: Ints, thresholds: Floats) -> float:
    """The share of the exact first `K` that was found, in percent.

    An item counts if it scores as high as the exact K-th, up to rounding. found: int64
    [queries, K], padded with -1; thresholds: `kth_best_scores` of the queries.
    """
    hits = 0
    for query, ids, threshold in zip(queries, found, thresholds, strict=True):
        hits += int((rows[np.unique(ids[ids >= 0])] @ query >= threshold - 1e-6).sum())
    return 100 * hits / (len(found) * min(K, len(rows)))


def kth_best_scores(rows: Floats, queries: Floats) -> Floats:
    """The `K`-th highest inner product of each query with all rows, float32 [queries].

    The lowest one if there are fewer than `K` rows.
    """
    best = np.empty((len(queries), 0), np.float32)
    for start in range(0, len(rows), _CHUNK):
        best = np.concatenate([best, queries @ rows[start : start + _CHUNK].T], axis=1)
        best = np.partition(best, -min(K, best.shape[1]), axis=1)[:, -K:]
    return best[:, 0]
