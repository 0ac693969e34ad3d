"""What a user might take for the vectors instead: hnswlib, usearch, LanceDB, FAISS by autofaiss.

Each is built with its own defaults over the same rows and searched by the plain cosine; its one
setting is then the least that finds 99% of the exact first ten, if there is one. They are optional
(`pip install '.[bench]'`).
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.exact_answers import Answers, K
from benchmarks.index_process import AT_ONCE, Speed, rate, timed
from benchmarks.made_index import MadeRows
from indexes.arrays import Array, Floats, Ints
from indexes.lazy_imports import load_faiss

MIN_RECALL = 99.0  # percent, that the setting is chosen for
_BREADTHS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
_AUTOFAISS_BYTES = 16e9  # its default limit
_TRAIN = 1_000_000  # rows that FAISS learns from, at most


class Builder:
    """An index of a library that grows. `seconds` counts the library's own time."""

    seconds: float = 0.0

    def run(self, work: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Call the library."""
        started = time.perf_counter()
        result = work(*arguments, **options)
        self.seconds += time.perf_counter() - started
        return result


@dataclass(frozen=True)
class Opened:
    """An index that is searched: `search` takes queries, float32 [m, dim], and a value of the
    setting, and gives ids, int64 [m, 10]."""

    setting: str
    values: Sequence[int]
    search: Callable[[Floats, int], Ints]


@dataclass(frozen=True)
class Library:
    """module: that has to be installed; build: writes an index of rows to a folder and gives the
    seconds that took; open: opens it; about: what it is built as, for a number and length of
    rows."""

    module: str
    build: Callable[[MadeRows, Path], float]
    open: Callable[[Path, int], Opened]
    about: Callable[[int, int], str]


def is_installed(name: str) -> bool:
    return find_spec(LIBRARIES[name].module) is not None


def measure_library(name: str, folder: Path, dim: int, queries: Floats, exact: Answers) -> Speed:
    """Measure the index of a library: one half of the queries chooses, the other is measured.

    To be called in a fresh process. queries: float32 [q, dim]; exact: their answers.
    """
    load_faiss() if name == "autofaiss" else __import__(LIBRARIES[name].module)
    before = psutil.Process().memory_info().rss
    opened = LIBRARIES[name].open(folder, dim)
    half = len(queries) // 2

    def search(value: int, query: Floats) -> Ints:
        ids: Ints = opened.search(query[None], value)[0]
        return ids

    for value in opened.values:
        tried = timed(partial(search, value), list(queries[:half]))
        if exact[:half].recall(tried.results) >= MIN_RECALL:
            break
    rest = queries[half:]
    found = timed(partial(search, value), list(rest))
    memory = psutil.Process().memory_info().rss - before
    asked = np.resize(rest, (AT_ONCE, dim))
    return Speed(
        setting=f"{opened.setting} {value}" if opened.setting else "",
        recall=exact[half:].recall(found.results),
        p50=found.quantile(0.5),
        p99=found.quantile(0.99),
        per_second=rate(lambda: opened.search(asked, value), AT_ONCE),
        memory=max(0, memory),
    )


def _build_hnswlib(rows: MadeRows, folder: Path) -> float:
    import hnswlib

    builder, index = Builder(), hnswlib.Index(space="ip", dim=rows.dim)
    builder.run(index.init_index, rows.count, ef_construction=200, M=16)
    for ids, some, _ in rows.blocks():
        builder.run(index.add_items, some, ids)
    builder.run(index.save_index, str(folder / "index"))
    return builder.seconds


def _open_hnswlib(folder: Path, dim: int) -> Opened:
    import hnswlib

    index = hnswlib.Index(space="ip", dim=dim)
    index.load_index(str(folder / "index"))

    def search(queries: Floats, value: int) -> Ints:
        index.set_ef(value)
        ids: Ints = index.knn_query(queries, K)[0].astype(np.int64)
        return ids

    return Opened("ef", _BREADTHS, search)


def _build_usearch(rows: MadeRows, folder: Path) -> float:
    from usearch.index import Index

    builder, index = Builder(), Index(ndim=rows.dim, metric="ip", dtype="f16")
    for ids, some, _ in rows.blocks():
        builder.run(index.add, ids, some)
    builder.run(index.save, str(folder / "index"))
    return builder.seconds


def _open_usearch(folder: Path, dim: int) -> Opened:
    from usearch.index import Index

    index = Index(ndim=dim, metric="ip", dtype="f16")
    index.load(str(folder / "index"))

    def search(queries: Floats, value: int) -> Ints:
        index.expansion_search = value
        found = index.search(queries if len(queries) > 1 else queries[0], K)
        return np.asarray(found.keys, np.int64).reshape(len(queries), -1)

    return Opened("expansion", _BREADTHS, search)


def _build_lancedb(rows: MadeRows, folder: Path) -> float:
    import lancedb
    import pyarrow

    schema = pyarrow.schema(
        [("id", pyarrow.int64()), ("vector", pyarrow.list_(pyarrow.float32(), rows.dim))]
    )

    def batch(ids: Ints, some: Array) -> Any:
        vectors = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(some.ravel()), rows.dim)
        return pyarrow.Table.from_arrays([pyarrow.array(ids), vectors], schema=schema)

    builder = Builder()
    table = lancedb.connect(folder).create_table("photos", schema=schema)
    for ids, some, _ in rows.blocks():
        builder.run(table.add, batch(ids, some))
    builder.run(table.create_index, metric="dot", vector_column_name="vector")
    return builder.seconds


def _open_lancedb(folder: Path, dim: int) -> Opened:
    import lancedb

    table = lancedb.connect(folder).open_table("photos")

    def search(queries: Floats, value: int) -> Ints:
        found = np.zeros((len(queries), K), np.int64)
        for place, query in enumerate(queries):
            asked = table.search(query).distance_type("dot").nprobes(value).refine_factor(20)
            ids = asked.select(["id", "_distance"]).limit(K).to_arrow()["id"].to_numpy()
            found[place, : len(ids)] = ids
        return found

    return Opened("nprobes", _BREADTHS, search)


def autofaiss_key(count: int, dim: int) -> str:
    """The string for FAISS's factory that autofaiss 2 takes for so many rows, with its defaults.

    From `get_optimal_index_keys_v2` in autofaiss/external/optimize.py.
    """
    if count < 1000:
        return "Flat"
    if count < 10_000:
        return "HNSW15"
    neighbours = math.floor((_AUTOFAISS_BYTES / (4 * count) - dim) / 2)
    if neighbours >= 8:
        return f"HNSW{min(neighbours, 32)}"
    cells = 16_384 if count < 10_000_000 else 65_536
    codes = max(c for c in (256, 128, 64, 48, 32, 24, 16, 8, 4) if c < dim)
    return f"OPQ{codes}_{(min(dim // codes, 6) + 1) * codes},IVF{cells}_HNSW32,PQ{codes}x8"


def _build_faiss(rows: MadeRows, folder: Path) -> float:
    faiss, builder = load_faiss(), Builder()
    key = autofaiss_key(rows.count, rows.dim)
    index = faiss.index_factory(rows.dim, key, faiss.METRIC_INNER_PRODUCT)
    if not index.is_trained:
        sample = np.concatenate([some for ids, some, _ in rows.blocks() if ids[0] <= _TRAIN])
        builder.run(index.train, sample)
    for _, some, _ in rows.blocks():
        builder.run(index.add, some)
    builder.run(faiss.write_index, index, str(folder / "index"))
    return builder.seconds


def _open_faiss(folder: Path, dim: int) -> Opened:
    faiss = load_faiss()
    index = faiss.read_index(str(folder / "index"))
    is_graph = hasattr(index, "hnsw")
    name = "efSearch" if is_graph else "nprobe"

    def search(queries: Floats, value: int) -> Ints:
        if value:
            faiss.ParameterSpace().set_index_parameter(index, name, value)
        ids: Ints = index.search(queries, K)[1]
        return ids + 1  # it counts from 0

    if isinstance(index, faiss.IndexFlat):
        return Opened("", (0,), search)
    return Opened(name, _BREADTHS, search)


LIBRARIES: Mapping[str, Library] = {
    "hnswlib": Library(
        "hnswlib", _build_hnswlib, _open_hnswlib, lambda *_: "M 16, ef_construction 200"
    ),
    "usearch": Library("usearch", _build_usearch, _open_usearch, lambda *_: "float16"),
    "lancedb": Library("lancedb", _build_lancedb, _open_lancedb, lambda *_: "IVF_PQ, refined"),
    "autofaiss": Library("faiss", _build_faiss, _open_faiss, autofaiss_key),
}
