"""Load an index in a fresh process, choose its setting, and measure its searches.

`benchmarks.search` builds the index and starts the process: memory that the build leaves behind
must not count. A folder passes the data: `vectors.f4`, `queries.npy`, `thresholds.npy` and
`TYPE.faiss`.
"""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from benchmarks.index_types import SearchableIndex, recall
from indexes.arrays import Floats, Ints
from indexes.lazy_imports import load_faiss
from indexes.vectors.rows import Rows

BATCH = 64
_BATCHES = 50
_SECONDS = 4.0  # limit for the repeated searches of one measurement


@dataclass(frozen=True)
class SearchSpeed:
    """Searches of one index: milliseconds per call of 1 or 64 queries; recall in percent; bytes."""

    setting: str
    recall: float
    one_p50: float
    one_p99: float
    batch_p50: float
    batch_p99: float
    memory: int


def measure_in_process(folder: Path, name: str, dim: int) -> SearchSpeed:
    """Measure the index `NAME.faiss` of `folder` in a process of its own."""
    spawn = multiprocessing.get_context("spawn")  # a fork would share this process's memory
    with ProcessPoolExecutor(1, mp_context=spawn) as process:
        return process.submit(_measure, folder, name, dim).result()


def _measure(folder: Path, name: str, dim: int) -> SearchSpeed:
    """One half of the queries chooses the setting, the other half is measured."""
    faiss = load_faiss()
    rows = np.memmap(folder / "vectors.f4", np.float32, "r").reshape(-1, dim)
    queries, thresholds = np.load(folder / "queries.npy"), np.load(folder / "thresholds.npy")
    before = psutil.Process().memory_info().rss
    file = folder / f"{name}.faiss"
    index = faiss.read_index(str(file), faiss.IO_FLAG_MMAP_IFC if name == "exact" else 0)
    part = Rows(np.arange(len(rows)), rows)
    searchable = SearchableIndex(name, index, part)
    half = len(queries) // 2
    searchable.choose_setting(queries[:half], thresholds[:half])
    rest = queries[half:]
    single = _time_calls(searchable.search, [rest[i : i + 1] for i in range(len(rest))])
    batches = [np.resize(np.roll(rest, -i, 0), (BATCH, dim)) for i in range(_BATCHES)]
    batched = _time_calls(searchable.search, batches)
    return SearchSpeed(
        setting=searchable.setting,
        recall=recall(rows, rest, searchable.search(rest), thresholds[half:]),
        one_p50=float(np.quantile(single, 0.5)),
        one_p99=float(np.quantile(single, 0.99)),
        batch_p50=float(np.quantile(batched, 0.5)),
        batch_p99=float(np.quantile(batched, 0.99)),
        memory=max(0, psutil.Process().memory_info().rss - before),
    )


def _time_calls(search: Callable[[Floats], Ints], calls: Sequence[Floats]) -> list[float]:
    """Milliseconds of each call, for as many as fit the time limit, after one to warm up."""
    search(calls[-1])
    times: list[float] = []
    until = time.perf_counter() + _SECONDS
    for queries in calls:
        started = time.perf_counter()
        search(queries)
        times.append(1000 * (time.perf_counter() - started))
        if time.perf_counter() > until and len(times) >= 5:
            break
    return times
