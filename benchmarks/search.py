"""Speed, recall and size of searches as users run them, beside what they might use instead.

At each size a real index of made photos is written through the catalogue, and its vectors in each
kind as `retrieval index` writes them. The queries are real captions. Everything is measured in a
process of its own. Run it as `retrieval benchmark search` or `python -m benchmarks.search`.
"""

import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from benchmarks.end_to_end import run
from benchmarks.exact_answers import Exact, exact_answers
from benchmarks.index_process import Speed, WholeSpeed, in_fresh_process, measure_index
from benchmarks.index_types import KINDS, setting_name
from benchmarks.made_index import MadeRows, write_index
from benchmarks.vector_libraries import LIBRARIES, is_installed, measure_library
from indexes.arrays import Floats
from indexes.errors import StorageError
from indexes.index import Index
from indexes.lock import lock
from indexes.vector_files import set_choice
from indexes.vectors.build import SLOW_MILLISECONDS, exact_milliseconds, wanted_kind
from indexes.vectors.store import Kind
from retrieval.datasets.captioned import CaptionedSet
from retrieval.datasets.embedding_cache import Progress, open_embedding_cache
from retrieval.encoders.base import Encoder
from retrieval.encoders.registry import load_encoder
from retrieval.errors import QueryError
from retrieval.ranking.hub_bias import vector_biases
from retrieval.ranking.query_bank import bank_embeddings
from retrieval.ranking.vector_plan import vector_plan

QUERY = "a dog on the beach"
_QUERIES = 400  # half choose the setting of a library, half are measured
_COLD_RUNS = 3


@dataclass(frozen=True)
class Cold:
    """`retrieval search` as a process: median seconds and peak MiB."""

    seconds: float
    mebibytes: float


@dataclass(frozen=True)
class SearchResult:
    """One kind of vectors, or one library, at one size.

    kind: as in `retrieval index --vectors`, or the name of a library; about: how it was built;
    disk: bytes of the vectors, without the catalogue; whole, cold: None for a library, which knows
    neither models nor photos.
    """

    vectors: int
    kind: str
    about: str
    build_seconds: float
    disk: int
    speed: Speed
    whole: WholeSpeed | None = None
    cold: Cold | None = None


@dataclass(frozen=True)
class Measurement:
    """All results, and what they were measured on.

    choices: by size, the kind that `auto` takes on this machine, and why.
    """

    dim: int
    model: str
    fingerprint: str
    photos: int
    seed: int
    machine: str
    results: tuple[SearchResult, ...]
    choices: Mapping[int, tuple[str, str]]
    seconds: float


@dataclass(frozen=True)
class _Queries:
    """Captions and their embeddings, float32 [q, dim], with the exact answers."""

    texts: Sequence[str]
    rows: Floats
    exact: Exact


def parse_sizes(text: str) -> list[int]:
    """'10k,100k,1M' as sorted numbers. Raises QueryError."""
    sizes = []
    for part in text.split(","):
        number = part.strip().lower()
        scale = {"k": 1_000, "m": 1_000_000}.get(number[-1:], 1)
        digits = number[:-1] if scale > 1 else number
        if not digits.isdecimal() or not 100 <= int(digits) * scale <= 100_000_000:
            raise QueryError(f"--sizes {text}: name sizes from 100 to 100M, as in 10k,100k,1M.")
        sizes.append(int(digits) * scale)
    return sorted(set(sizes))


def check(names: Sequence[str]) -> None:
    """Raise QueryError for a name that is unknown, or a library that is not installed."""
    known = (*KINDS, *LIBRARIES)
    if unknown := [name for name in names if name not in known]:
        raise QueryError(f"There is no type '{unknown[0]}'. Choose from: {', '.join(known)}.")
    if missing := [name for name in names if name in LIBRARIES and not is_installed(name)]:
        raise QueryError(
            f"{missing[0]} is not installed. Run `pip install 'crossmodal-retrieval[bench]'`, or "
            "leave it out."
        )


def measure(
    captioned: CaptionedSet,
    sizes: Sequence[int],
    kinds: Sequence[str] = (),
    model: str = "auto",
    seed: int = 0,
    log: Callable[[str], None] = lambda _: None,
    progress: Progress = lambda *_: None,
) -> Measurement:
    """Build and search every kind and library at every size.

    kinds: of vectors, and names of libraries; by default all that there are here.
    Raises QueryError for an unknown name, StorageError if memory or disk are too small.
    """
    started = time.perf_counter()
    check(kinds)
    kinds = kinds or _available(log)
    encoder = load_encoder(model, log)
    _check_room(max(sizes), encoder.dim, kinds)
    with open_embedding_cache(encoder, progress) as cache:
        photos, unreadable = cache.photos(captioned.photos)
        readable = [p for i, p in enumerate(captioned.photos) if i not in unreadable]
        captions = sorted({caption for photo in readable for caption in photo.captions})
        chosen = np.random.default_rng(seed).permutation(len(captions))[:_QUERIES]
        texts = [captions[i] for i in chosen]
        queries = cache.texts(texts).rows
    results: list[SearchResult] = []
    choices = {}
    for size in sizes:
        rows = MadeRows(photos.rows, size, seed)
        choices[size] = _auto_choice(size, encoder.dim)
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            log(f"{size:,} vectors: the catalogue")
            place = write_index(folder, rows, encoder)
            with Index.open(place) as index:
                biases, ordering = vector_biases(index, bank_embeddings(encoder))
            asked = _Queries(texts, queries, exact_answers(rows, queries, biases.get(ordering)))
            for done, kind in enumerate(kinds):
                progress(f"types at {size:,} vectors", done, len(kinds))
                if kind in LIBRARIES:
                    result = _measure_library(kind, folder / kind, rows, asked)
                elif (of_kind := _measure_kind(kind, place, size, encoder, asked)) is not None:
                    result = of_kind
                else:
                    log(f"{size:,} vectors: an index of so few photos is always exact, not {kind}.")
                    continue
                results.append(result)
                log(
                    f"{size:,} vectors: {kind}, {result.speed.p50:.2f} ms a query, recall@10 "
                    f"{result.speed.recall:.1f}%"
                )
            progress(f"types at {size:,} vectors", len(kinds), len(kinds))
    return Measurement(
        dim=encoder.dim,
        model=encoder.name,
        fingerprint=encoder.fingerprint,
        photos=len(readable),
        seed=seed,
        machine=f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        results=tuple(results),
        choices=choices,
        seconds=time.perf_counter() - started,
    )


def _available(log: Callable[[str], None]) -> list[str]:
    """All kinds and the libraries that are installed; says which are not."""
    missing = [name for name in LIBRARIES if not is_installed(name)]
    if missing:
        log(
            f"Left out {', '.join(missing)}: not installed. `pip install "
            "'crossmodal-retrieval[bench]'` adds them."
        )
    return [*KINDS, *(name for name in LIBRARIES if name not in missing)]


def _auto_choice(count: int, dim: int) -> tuple[str, str]:
    """The kind that `auto` takes for so many photos that are indexed anew, and why."""
    kind = wanted_kind("auto", count, dim, None)
    compared = "up to" if kind == "exact" else "more than"
    return kind, (
        f"an exact query takes about {exact_milliseconds(count, dim):.1f} ms here, "
        f"{compared} {SLOW_MILLISECONDS:.0f}"
    )


def _check_room(size: int, dim: int, kinds: Sequence[str]) -> None:
    """Raise StorageError if the largest index does not fit on disk or in memory.

    The catalogue holds all rows in float16, and vectors are written beside the ones before. A
    library keeps rows in float32, in memory while it builds; an approximate kind its codes.
    """
    photo = 600  # bytes of a photo in the catalogue, besides its embedding
    in_float32 = any(kind == "exact" or kind in LIBRARIES for kind in kinds)
    vectors = size * (dim * (4 if in_float32 else 3) + 64)
    disk = size * (2 * dim + photo) + vectors * min(len(kinds), 2)
    in_memory = any(kind in LIBRARIES for kind in kinds)
    memory = size * (dim * (4 if in_memory else 1) + 128)
    free = psutil.disk_usage(tempfile.gettempdir()).free
    available = psutil.virtual_memory().available
    if disk > free or memory > available:
        raise StorageError(
            f"{size:,} vectors need {disk / 1e9:.1f} GB in {tempfile.gettempdir()} (free: "
            f"{free / 1e9:.1f}) and {memory / 1e9:.1f} GB of memory (free: "
            f"{available / 1e9:.1f}). Measure smaller --sizes or fewer of --type, or set TMPDIR "
            "to a larger disk."
        )


def _measure_kind(
    kind: str, folder: Path, size: int, encoder: Encoder, asked: _Queries
) -> SearchResult | None:
    """Write the vectors of an index in one kind, and measure its searches; None if an index of so
    few photos does not have that kind."""
    chosen: Kind = next(known for known in KINDS if known == kind)
    if wanted_kind(chosen, size, encoder.dim, None) != chosen:
        return None
    with lock(folder), Index.open(folder, writable=True) as index:
        set_choice(index.catalogue, chosen)
        started = time.perf_counter()
        index.refresh(lambda: vector_plan(index, lambda: encoder))
        build_seconds = time.perf_counter() - started
        about = index.vectors()
    assert about is not None and about.kind == chosen
    setting = setting_name(about)
    half = len(asked.rows) // 2
    speed, whole = in_fresh_process(
        measure_index, folder, setting, asked.texts[half:], asked.rows[half:], asked.exact[half:]
    )
    return SearchResult(
        vectors=size,
        kind=chosen,
        about="of the index",
        build_seconds=build_seconds,
        disk=sum(file.stat().st_size for file in folder.glob("vectors-*/*")),
        speed=speed,
        whole=whole,
        cold=_cold_search(folder),
    )


def _cold_search(folder: Path) -> Cold:
    """`retrieval search` as a process, after one that fills the system's caches."""
    runs = [run("search", QUERY, "--index", str(folder)) for _ in range(1 + _COLD_RUNS)][1:]
    return Cold(
        statistics.median(process.seconds for process in runs),
        max(process.mebibytes for process in runs),
    )


def _measure_library(name: str, folder: Path, rows: MadeRows, asked: _Queries) -> SearchResult:
    """Build an index with a library and measure it, both in fresh processes."""
    folder.mkdir()
    seconds = in_fresh_process(LIBRARIES[name].build, rows, folder)
    speed = in_fresh_process(measure_library, name, folder, rows.dim, asked.rows, asked.exact.plain)
    disk = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    shutil.rmtree(folder)
    return SearchResult(
        rows.count, name, LIBRARIES[name].about(rows.count, rows.dim), seconds, disk, speed
    )


if __name__ == "__main__":
    from benchmarks.commands import alone

    alone("search")
