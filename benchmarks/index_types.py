"""The types of vector index on offer: how FAISS is asked for each, and how each is searched.

`retrieval benchmark search` measures their speed and size, `retrieval benchmark recall` what is
found through them. An index that loses precision gives more candidates than are asked for, which
are then scored exactly.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from indexes import gpu, vectors
from indexes.arrays import Floats, Ints
from indexes.errors import StorageError
from indexes.lazy_imports import load_faiss
from retrieval.errors import QueryError

K = 10
CANDIDATES = 4 * K  # that a lossy index gives to be scored exactly
RIGHT = 98.0  # recall@10 in percent that an approximate index has to reach
_CHUNK = 1 << 16


@dataclass(frozen=True)
class Kind:
    """A kind of index: how FAISS is asked for it, whether it loses precision, its one setting.

    settings: values of efSearch or nprobe, from fast to right; the first that is right is taken.
    card: in which precision graphics cards keep a copy that is searched; none are used for ''.
    """

    factory: Callable[[int], str]
    lossy: bool = True
    setting: str = ""
    settings: tuple[int, ...] = (0,)
    card: Literal["", "float32", "float16"] = ""


def _cells(count: int) -> int:
    """Cells of an inverted file: 4 √n, but 40 vectors in each to train it; a power of two."""
    return int(2 ** max(0, np.floor(np.log2(min(4 * np.sqrt(count), count / 40)))))


KINDS: Mapping[str, Kind] = {
    "exact": Kind(lambda _: "Flat", lossy=False),
    "fp16": Kind(lambda _: "SQfp16"),
    "int8": Kind(lambda _: "SQ8"),
    "hnsw": Kind(lambda _: "HNSW32,SQ8", True, "efSearch", (16, 32, 64, 128, 256, 512)),
    "ivf": Kind(lambda n: f"IVF{_cells(n)},SQ8", True, "nprobe", (4, 8, 16, 32, 64, 128, 256)),
    "gpu": Kind(lambda _: "Flat", lossy=False, card="float32"),
    "gpu16": Kind(lambda _: "Flat", card="float16"),
}


def kinds_here() -> list[str]:
    """The kinds that can be measured on this machine."""
    return [name for name, kind in KINDS.items() if not kind.card or gpu.cards()]


def check(names: Sequence[str]) -> None:
    """Raise QueryError for a kind that is unknown, or needs a graphics card where none is."""
    unknown = [name for name in names if name not in KINDS]
    if unknown:
        raise QueryError(f"There is no index type '{unknown[0]}'. Choose from: {', '.join(KINDS)}.")
    here = kinds_here()
    if absent := [name for name in names if name not in here]:
        raise QueryError(
            f"The index type '{absent[0]}' needs an NVIDIA GPU that FAISS can use, and there is "
            f"none here. Choose from: {', '.join(here)}."
        )


def build(name: str, rows: Floats, seed: int = 0) -> Any:
    """A FAISS index of a kind over `rows`, float32 [n, dim], by inner product.

    seed: of the rows that it is trained on.
    """
    faiss = load_faiss()
    factory = KINDS[name].factory(len(rows))
    index = faiss.index_factory(rows.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    sample = min(len(rows), max(50_000, 64 * getattr(index, "nlist", 0)))
    chosen = np.sort(np.random.default_rng(seed).permutation(len(rows))[:sample])
    index.train(np.ascontiguousarray(rows[chosen]))
    for start in range(0, len(rows), _CHUNK):
        index.add(np.ascontiguousarray(rows[start : start + _CHUNK]))
    return index


class Served:
    """An index that answers as a user's search would be answered.

    setting: the value in use, as 'efSearch=32', '' where a kind has none.
    """

    def __init__(self, name: str, index: Any, part: vectors.Part) -> None:
        """index: what `build` made; part: its rows, by their numbers, as the engine keeps them.

        Raises StorageError where they do not fit on a graphics card that is asked for.
        """
        self.kind, self.setting = KINDS[name], ""
        self._index, self._part = index, part
        if self.kind.card:
            on_card = gpu.to_gpus(part, half=self.kind.card == "float16")
            if not isinstance(on_card, gpu.GpuPart):
                raise StorageError(
                    f"{len(part):,} vectors do not fit on the graphics card. Measure fewer, or "
                    "another type of index."
                )
            self._index, self._part = on_card.copies, on_card

    def candidates(self, asked: Floats) -> Ints:
        """What the index itself gives for queries [n, dim]: int64 [n, 40], -1 for nothing."""
        found: Ints = self._index.search(asked, CANDIDATES)[1]
        return found

    def search(self, asked: Floats) -> Ints:
        """The first `K` of each query [n, dim], by exact scores: int64 [n, K], -1 for nothing."""
        if self.kind.lossy:
            found = self.candidates(asked)
            return np.stack([self._rescored(q, ids) for q, ids in zip(asked, found, strict=True)])
        if len(asked) == 1:
            return _filled(vectors.search([self._part], asked[0], K)[0])[None]
        exact: Ints = self._index.search(asked, K)[1]
        return exact

    def update_presence(self, queries: Floats, bars: Floats) -> None:
        """Take the first setting that is right for these queries; bars: see `recall`."""
        for value in self.kind.settings if self.kind.setting else ():
            space = load_faiss().ParameterSpace()
            space.set_index_parameter(self._index, self.kind.setting, value)
            self.setting = f"{self.kind.setting}={value}"
            if recall(self._part.rows, queries, self.search(queries), bars) >= RIGHT:
                break

    def _rescored(self, query: Floats, ids: Ints) -> Ints:
        ids = ids[ids >= 0]
        return _filled(ids[np.argsort(-(self._part.rows[ids] @ query), kind="stable")[:K]])


def _filled(ids: Ints) -> Ints:
    """int64 [K], -1 where there are fewer."""
    return np.pad(ids, (0, K - len(ids)), constant_values=-1)


def recall(rows: Floats, queries: Floats, found: Ints, bars: Floats) -> float:
    """How many of the exact first `K` were found, in percent.

    What scores as high as the exact K-th, to rounding, counts. found: int64 [queries, K], -1 for
    nothing; bars: see `bars`.
    """
    hits = 0
    for query, ids, bar in zip(queries, found, bars, strict=True):
        hits += int((rows[np.unique(ids[ids >= 0])] @ query >= bar - 1e-6).sum())
    return 100 * hits / (len(found) * min(K, len(rows)))


def bars(rows: Floats, queries: Floats) -> Floats:
    """The `K`-th highest inner product of each query with all rows, float32 [queries].

    The lowest where there are fewer rows.
    """
    best = np.empty((len(queries), 0), np.float32)
    for start in range(0, len(rows), _CHUNK):
        best = np.concatenate([best, queries @ rows[start : start + _CHUNK].T], axis=1)
        best = np.partition(best, -min(K, best.shape[1]), axis=1)[:, -K:]
    return best[:, 0]
