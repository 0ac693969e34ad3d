"""Measure one index in a fresh process: bare searches, whole ones, filtered ones, many at once.

What building leaves in memory must not count, hence the process. `benchmarks.search` builds the
index and starts it.
"""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import psutil

import retrieval
from benchmarks.exact_answers import Exact, K
from benchmarks.made_index import FOLDERS, number_of
from indexes.arrays import Floats, Ints
from indexes.index import Index
from indexes.lazy_imports import load_faiss
from indexes.photos import Filter
from retrieval.ranking import methods
from retrieval.ranking.hub_bias import ranking_bias

AT_ONCE = 64
_SECONDS = 4.0  # limit for the repeated searches of one measurement
_FEWEST = 20

Result = TypeVar("Result")
Query = TypeVar("Query")


@dataclass(frozen=True)
class Speed:
    """Searches for ten hits. Milliseconds for one at a time; per_second: of 64 asked at once;
    recall@10 in percent; memory: resident bytes more than before the index was opened."""

    setting: str
    recall: float
    p50: float
    p99: float
    per_second: float
    memory: int


@dataclass(frozen=True)
class FilteredSpeed:
    """Whole searches in a folder. Milliseconds; recall@10 in percent."""

    p50: float
    recall: float


@dataclass(frozen=True)
class WholeSpeed:
    """Searches in words with the default ranking, as `Photos.search` answers them.

    Milliseconds for one at a time; per_second: of 64 asked at once; filtered: by the share of the
    photos that are in the folder.
    """

    p50: float
    p99: float
    per_second: float
    filtered: Mapping[float, FilteredSpeed]


def in_fresh_process(work: Callable[..., Result], *arguments: Any) -> Result:
    """What `work` returns, called in a new process that shares no memory with this one."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(work, *arguments).result()


def measure_index(
    folder: Path, setting: str, texts: Sequence[str], queries: Floats, exact: Exact
) -> tuple[Speed, WholeSpeed]:
    """Measure searches of the index in `folder`.

    queries: the embeddings of the texts, float32 [q, dim]; exact: their answers.
    """
    load_faiss()  # its memory is that of a library, not of an index
    before = psutil.Process().memory_info().rss
    with Index.open(folder) as index:
        bare = timed(_bare_search(index, queries[0]), list(queries))
        memory = psutil.Process().memory_info().rss - before
    opened = _PerThread(lambda: _bare_search(Index.open(folder), queries[0]))
    speed = Speed(
        setting=setting,
        recall=exact.biased.recall(bare.results),
        p50=bare.quantile(0.5),
        p99=bare.quantile(0.99),
        per_second=at_once(lambda query: opened.get()(query), list(queries)),
        memory=max(0, memory),
    )
    return speed, _measure_whole(folder, texts, exact)


def _measure_whole(folder: Path, texts: Sequence[str], exact: Exact) -> WholeSpeed:
    with retrieval.open(folder) as photos:
        whole = timed(photos.search, texts)
        filtered = {}
        for share, name in FOLDERS.items():
            within = folder.parent / name
            found = timed(partial(photos.search, within=within), texts)
            ids = [np.array([number_of(h.path) for h in hits], np.int64) for hits in found.results]
            recall = exact.filtered[share].recall(ids)
            filtered[share] = FilteredSpeed(found.quantile(0.5), recall)
    opened = _PerThread(lambda: retrieval.open(folder))
    return WholeSpeed(
        p50=whole.quantile(0.5),
        p99=whole.quantile(0.99),
        per_second=at_once(lambda text: opened.get().search(text), texts),
        filtered=filtered,
    )


def _bare_search(index: Index, query: Floats) -> Callable[[Floats], Ints]:
    """A search of the vectors alone, in the order of the default ranking."""
    bias = ranking_bias(index, methods.ranking("auto"), query, None)

    def search(query: Floats) -> Ints:
        return np.array([i for i, _ in index.search(query, K, Filter(), bias)], np.int64)

    return search


class _PerThread:
    """One of something in each thread, made when it is first used."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make, self._local = make, threading.local()

    def get(self) -> Any:
        if not hasattr(self._local, "value"):
            self._local.value = self._make()
        return self._local.value


@dataclass(frozen=True)
class Timed(Generic[Result]):
    """Searches one at a time: what they gave, and the milliseconds that each took."""

    results: Sequence[Result]
    milliseconds: Sequence[float]

    def quantile(self, share: float) -> float:
        return float(np.quantile(self.milliseconds, share))


def timed(search: Callable[[Query], Result], queries: Sequence[Query]) -> Timed[Result]:
    """The searches for all queries, or for as many of the first as fit the time limit.

    Some are searched before that, to warm up.
    """
    for query in queries[:_FEWEST]:
        search(query)
    results: list[Result] = []
    times: list[float] = []
    until = time.perf_counter() + _SECONDS
    for query in queries:
        started = time.perf_counter()
        results.append(search(query))
        times.append(1000 * (time.perf_counter() - started))
        if time.perf_counter() > until and len(times) >= _FEWEST:
            break
    return Timed(results, times)


def at_once(search: Callable[[Query], object], queries: Sequence[Query]) -> float:
    """Searches a second if 64 are asked at once and a thread for each core answers them."""
    asked = [queries[i % len(queries)] for i in range(AT_ONCE)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return rate(lambda: list(pool.map(search, asked)), AT_ONCE)


def rate(work: Callable[[], object], count: int) -> float:
    """How many things a second, if one call of `work` does `count`; after one to warm up."""
    work()
    done, started = 0, time.perf_counter()
    while not done or time.perf_counter() < started + _SECONDS / 2:
        work()
        done += count
    return done / (time.perf_counter() - started)
