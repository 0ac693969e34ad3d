"""How fast, how right and how large each kind of vector index is, from 10,000 photos to millions.

The vectors are embeddings of real photos, jittered along the differences of others so that they
spread as photos do; the queries are embeddings of real captions. Each index is served by a process
of its own. Run it as `retrieval benchmark search` or `python -m benchmarks.search`.
"""

import multiprocessing
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.index_types import (
    CANDIDATES,
    KINDS,
    RIGHT,
    K,
    Served,
    bars,
    build,
    check,
    kinds_here,
    recall,
)
from indexes import vectors
from indexes.arrays import Floats, Ints
from indexes.errors import StorageError
from indexes.lazy_imports import load_faiss
from retrieval.datasets.captioned import CaptionedSet
from retrieval.datasets.embedding_cache import Progress, open_embedding_cache
from retrieval.encoders.registry import load_encoder
from retrieval.errors import QueryError

BATCH = 64
FAST_SECONDS = 0.2  # a search that takes no longer is not waited for
_QUERIES = 400  # half to choose a setting by, half to report
_JITTER = 0.3
_CHUNK = 1 << 16
_SECONDS = 4.0  # of repeated searches for one figure


@dataclass(frozen=True)
class Figures:
    """One kind at one size. Milliseconds a call of 1 or 64 queries; bytes; recall in percent."""

    vectors: int
    kind: str
    factory: str
    setting: str
    recall: float
    one_p50: float
    one_p99: float
    batch_p50: float
    batch_p99: float
    build_seconds: float
    memory: int
    disk: int


@dataclass(frozen=True)
class Measurement:
    """All figures, with what they were measured on; choices: by size, what `auto` would take."""

    dim: int
    model: str
    fingerprint: str
    photos: int
    seed: int
    figures: tuple[Figures, ...]
    choices: Mapping[int, tuple[str, str]]
    seconds: float


def parse_sizes(text: str) -> list[int]:
    """'10k,100k,1M' as numbers; raises QueryError."""
    sizes = []
    for part in text.split(","):
        number = part.strip().lower()
        scale = {"k": 1_000, "m": 1_000_000}.get(number[-1:], 1)
        digits = number[:-1] if scale > 1 else number
        if not digits.isdecimal() or not 100 <= int(digits) * scale <= 100_000_000:
            raise QueryError(f"--sizes {text}: name sizes from 100 to 100M, as in 10k,100k,1M.")
        sizes.append(int(digits) * scale)
    return sorted(set(sizes))


def measure(
    captioned: CaptionedSet,
    sizes: Sequence[int],
    kinds: Sequence[str] = (),
    model: str = "auto",
    seed: int = 0,
    log: Callable[[str], None] = lambda _: None,
    progress: Progress = lambda *_: None,
) -> Measurement:
    """Build and search every kind at every size. kinds: none means all that can be had here.

    Raises QueryError for an unknown kind, StorageError where memory or disk are too small.
    """
    started = time.perf_counter()
    check(kinds)
    kinds = kinds or kinds_here()
    encoder = load_encoder(model, log)
    _check_room(max(sizes), encoder.dim)
    random = np.random.default_rng(seed)
    with open_embedding_cache(encoder, progress) as cache:
        base, wrong = cache.photos(captioned.photos)
        good = [p for i, p in enumerate(captioned.photos) if i not in wrong]
        captions = sorted({caption for photo in good for caption in photo.captions})
        chosen = random.permutation(len(captions))[:_QUERIES]
        queries = cache.texts([captions[i] for i in chosen]).rows
    figures: list[Figures] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for size in sizes:
            rows = _write_rows(folder / "rows.f4", base.rows, size, np.random.default_rng(seed))
            np.save(folder / "queries.npy", queries)
            np.save(folder / "bars.npy", bars(rows, queries))
            for done, kind in enumerate(kinds):
                progress(f"types of index at {size:,} vectors", done, len(kinds))
                log(f"{size:,} vectors: {kind}")
                figures.append(_measure_kind(folder, rows, kind, seed))
            del rows
    choices = {
        size: choose([found for found in figures if found.vectors == size]) for size in sizes
    }
    return Measurement(
        encoder.dim,
        encoder.name,
        encoder.fingerprint,
        len(good),
        seed,
        tuple(figures),
        choices,
        time.perf_counter() - started,
    )


def choose(figures: Sequence[Figures]) -> tuple[str, str]:
    """The kind that `auto` would take of those measured at one size, and why."""
    exact = next((found for found in figures if found.kind == "exact"), None)
    if exact is not None and exact.one_p50 <= 1000 * FAST_SECONDS:
        return "exact", (
            f"{exact.one_p50:.1f} ms a query is fast enough (up to {1000 * FAST_SECONDS:.0f} ms), "
            "and nothing is missed"
        )
    right = [found for found in figures if found.recall >= RIGHT]
    if not right:
        return "exact", f"nothing else finds {RIGHT:.0f}% of the exact first {K}"
    best = min(right, key=lambda found: found.one_p50)
    than = f" where exact takes {exact.one_p50:.0f} ms" if exact is not None else ""
    return best.kind, (
        f"{best.one_p50:.1f} ms a query{than}, the fastest that finds {RIGHT:.0f}% of the exact "
        f"first {K}"
    )


# Making ----------------------------------------------------------------------------------------


def _check_room(size: int, dim: int) -> None:
    """Raise StorageError where the largest index, and the vectors themselves, do not fit."""
    need = 4 * size * dim
    free = psutil.disk_usage(tempfile.gettempdir()).free
    memory = psutil.virtual_memory().available
    if 3 * need > free or 1.5 * need > memory:
        raise StorageError(
            f"{size:,} vectors need {3 * need / 1e9:.1f} GB in {tempfile.gettempdir()} (free: "
            f"{free / 1e9:.1f}) and {1.5 * need / 1e9:.1f} GB of memory (free: "
            f"{memory / 1e9:.1f}). Measure smaller --sizes, or set TMPDIR to a larger disk."
        )


def _write_rows(file: Path, base: Floats, size: int, random: np.random.Generator) -> Floats:
    """`size` unit rows around those of `base`, on disk: b_i + 0.3 (b_j - b_k), normalised."""
    rows = np.memmap(file, np.float32, "w+", shape=(size, base.shape[1]))
    for start in range(0, size, _CHUNK):
        count = min(_CHUNK, size - start)
        i, j, k = random.integers(len(base), size=(3, count))
        k = np.where(j == k, (k + 1) % len(base), k)  # nothing is left where it was
        part = base[i] + np.float32(_JITTER) * (base[j] - base[k])
        rows[start : start + count] = part / np.linalg.norm(part, axis=1, keepdims=True)
    rows.flush()
    return rows


def _measure_kind(folder: Path, rows: Floats, kind: str, seed: int) -> Figures:
    """Build one index, then serve it in a fresh process."""
    file = folder / f"{kind}.faiss"
    started = time.perf_counter()
    factory = KINDS[kind].factory(len(rows))
    if factory == "Flat":  # the engine's own
        vectors.save(vectors.Part(np.arange(len(rows)), rows), file)
    else:
        load_faiss().write_index(build(kind, rows, seed), str(file))
    seconds = time.perf_counter() - started
    spawn = multiprocessing.get_context("spawn")  # a fork would share the memory of this one
    with ProcessPoolExecutor(1, mp_context=spawn) as process:
        served = process.submit(_serve, folder, kind, rows.shape[1]).result()
    disk = file.stat().st_size
    file.unlink()
    return Figures(len(rows), kind, factory, build_seconds=seconds, disk=disk, **served)


# Serving, in a process of its own --------------------------------------------------------------


def _serve(folder: Path, kind: str, dim: int) -> dict[str, Any]:
    """Load an index, choose its setting by half of the queries, and measure by the others."""
    faiss = load_faiss()
    rows = np.memmap(folder / "rows.f4", np.float32, "r").reshape(-1, dim)
    queries, bars = np.load(folder / "queries.npy"), np.load(folder / "bars.npy")
    before = psutil.Process().memory_info().rss
    file = folder / f"{kind}.faiss"
    flat = vectors.load(file, dim)
    index = faiss.read_index(str(file), 0 if flat is None else faiss.IO_FLAG_MMAP_IFC)
    served = Served(kind, index, flat or vectors.Part(np.arange(len(rows)), rows))
    half = len(queries) // 2
    served.update_presence(queries[:half], bars[:half])
    rest = queries[half:]
    ones = _times(served.search, [rest[i : i + 1] for i in range(len(rest))])
    batches = [np.resize(np.roll(rest, -i, 0), (BATCH, dim)) for i in range(50)]
    together = _times(served.search, batches)
    return {
        "setting": served.setting,
        "recall": recall(rows, rest, served.search(rest), bars[half:]),
        "one_p50": float(np.quantile(ones, 0.5)),
        "one_p99": float(np.quantile(ones, 0.99)),
        "batch_p50": float(np.quantile(together, 0.5)),
        "batch_p99": float(np.quantile(together, 0.99)),
        "memory": max(0, psutil.Process().memory_info().rss - before),
    }


def _times(search: Callable[[Floats], Ints], asked: Sequence[Floats]) -> list[float]:
    """Milliseconds of each call, for as many as fit the time; the first is not counted."""
    search(asked[-1])
    times: list[float] = []
    until = time.perf_counter() + _SECONDS
    for queries in asked:
        started = time.perf_counter()
        search(queries)
        times.append(1000 * (time.perf_counter() - started))
        if time.perf_counter() > until and len(times) >= 5:
            break
    return times


# As text --------------------------------------------------------------------------------------


def as_json(measurement: Measurement) -> dict[str, Any]:
    """Plain values; milliseconds, bytes, percent."""
    value = asdict(measurement)
    value["choices"] = {
        str(size): {"kind": kind, "why": why} for size, (kind, why) in measurement.choices.items()
    }
    return value


def as_table(measurement: Measurement) -> str:
    """Figures for a terminal."""
    heads = ("vectors", "type", "setting", "recall@10", "1 query", "p99", f"{BATCH} queries",
             "p99", "build", "memory", "disk")  # fmt: skip
    rows = [heads, ("", "", "", "%", "p50 ms", "ms", "p50 ms", "ms", "s", "MB", "MB")]
    rows += [
        (
            f"{f.vectors:,}",
            f"{f.kind} ({f.factory})",
            f.setting,
            f"{f.recall:.1f}",
            f"{f.one_p50:.2f}",
            f"{f.one_p99:.2f}",
            f"{f.batch_p50:.1f}",
            f"{f.batch_p99:.1f}",
            f"{f.build_seconds:.1f}",
            f"{f.memory / 1e6:.0f}",
            f"{f.disk / 1e6:.0f}",
        )
        for f in measurement.figures
    ]
    wide = [max(len(row[i]) for row in rows) for i in range(len(heads))]
    lines = [
        "  ".join(c.ljust(w) if i in (1, 2) else c.rjust(w)
                  for i, (c, w) in enumerate(zip(row, wide, strict=True))).rstrip()
        for row in rows
    ]  # fmt: skip
    lines += [
        f"{size:,} vectors: auto would take {kind}: {why}."
        for size, (kind, why) in measurement.choices.items()
    ]
    m = measurement
    lines.append(
        f"From {m.photos:,} photos by model {m.model} (weights {m.fingerprint}, {m.dim} numbers), "
        f"seed {m.seed}; all but exact give {CANDIDATES} candidates that are scored exactly."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    from benchmarks.commands import alone

    alone("search")
