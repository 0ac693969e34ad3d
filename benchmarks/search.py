"""Speed, recall and size of each type of vector index, from 10,000 photos to millions.

The vectors are embeddings of real photos plus differences between others, which spreads them as
photos are spread. The queries are embeddings of real captions. Each index is measured in a process
of its own. Run it as `retrieval benchmark search` or `python -m benchmarks.search`.
"""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.index_process import BATCH, measure_in_process
from benchmarks.index_types import (
    CANDIDATES,
    INDEX_TYPES,
    MIN_RECALL,
    K,
    available_types,
    build,
    check,
    kth_best_scores,
)
from indexes.arrays import Floats
from indexes.errors import StorageError
from indexes.lazy_imports import load_faiss
from retrieval.datasets.captioned import CaptionedSet
from retrieval.datasets.embedding_cache import Progress, open_embedding_cache
from retrieval.encoders.registry import load_encoder
from retrieval.errors import QueryError

FAST_SECONDS = 0.2  # a user does not notice a search that takes no longer
_QUERIES = 400  # half choose a setting, half are measured
_JITTER = 0.3
_CHUNK = 1 << 16


@dataclass(frozen=True)
class TypeResult:
    """One type at one size. Milliseconds per call of 1 or 64 queries; bytes; recall in percent."""

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
    """All results, and what they were measured on. choices: by size, the type that `auto` would
    use, and why."""

    dim: int
    model: str
    fingerprint: str
    photos: int
    seed: int
    figures: tuple[TypeResult, ...]
    choices: Mapping[int, tuple[str, str]]
    seconds: float


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


def measure(
    captioned: CaptionedSet,
    sizes: Sequence[int],
    index_types: Sequence[str] = (),
    model: str = "auto",
    seed: int = 0,
    log: Callable[[str], None] = lambda _: None,
    progress: Progress = lambda *_: None,
) -> Measurement:
    """Build and search every type at every size.

    index_types: by default all that are available here.
    Raises QueryError for an unknown type, StorageError if memory or disk are too small.
    """
    started = time.perf_counter()
    check(index_types)
    index_types = index_types or available_types()
    encoder = load_encoder(model, log)
    _check_room(max(sizes), encoder.dim)
    random = np.random.default_rng(seed)
    with open_embedding_cache(encoder, progress) as cache:
        photos, unreadable = cache.photos(captioned.photos)
        readable = [p for i, p in enumerate(captioned.photos) if i not in unreadable]
        captions = sorted({caption for photo in readable for caption in photo.captions})
        chosen = random.permutation(len(captions))[:_QUERIES]
        queries = cache.texts([captions[i] for i in chosen]).rows
    results: list[TypeResult] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for size in sizes:
            rows = _write_vectors(
                folder / "vectors.f4", photos.rows, size, np.random.default_rng(seed)
            )
            np.save(folder / "queries.npy", queries)
            np.save(folder / "thresholds.npy", kth_best_scores(rows, queries))
            for done, index_type in enumerate(index_types):
                progress(f"types of index at {size:,} vectors", done, len(index_types))
                log(f"{size:,} vectors: {index_type}")
                results.append(_measure_type(folder, rows, index_type, seed))
            del rows
    return Measurement(
        dim=encoder.dim,
        model=encoder.name,
        fingerprint=encoder.fingerprint,
        photos=len(readable),
        seed=seed,
        figures=tuple(results),
        choices={size: choose([r for r in results if r.vectors == size]) for size in sizes},
        seconds=time.perf_counter() - started,
    )


def choose(results: Sequence[TypeResult]) -> tuple[str, str]:
    """The type that `auto` would use among those measured at one size, and why."""
    exact = next((result for result in results if result.kind == "exact"), None)
    if exact is not None and exact.one_p50 <= 1000 * FAST_SECONDS:
        return "exact", (
            f"{exact.one_p50:.1f} ms a query is fast enough (up to {1000 * FAST_SECONDS:.0f} ms), "
            "and nothing is missed"
        )
    accurate = [result for result in results if result.recall >= MIN_RECALL]
    if not accurate:
        return "exact", f"nothing else finds {MIN_RECALL:.0f}% of the exact first {K}"
    best = min(accurate, key=lambda result: result.one_p50)
    than = f" where exact takes {exact.one_p50:.0f} ms" if exact is not None else ""
    return best.kind, (
        f"{best.one_p50:.1f} ms a query{than}, the fastest that finds {MIN_RECALL:.0f}% of the "
        f"exact first {K}"
    )


def _check_room(size: int, dim: int) -> None:
    """Raise StorageError if the vectors and the largest index do not fit on disk or in memory."""
    need = 4 * size * dim
    free = psutil.disk_usage(tempfile.gettempdir()).free
    memory = psutil.virtual_memory().available
    if 3 * need > free or 1.5 * need > memory:
        raise StorageError(
            f"{size:,} vectors need {3 * need / 1e9:.1f} GB in {tempfile.gettempdir()} (free: "
            f"{free / 1e9:.1f}) and {1.5 * need / 1e9:.1f} GB of memory (free: "
            f"{memory / 1e9:.1f}). Measure smaller --sizes, or set TMPDIR to a larger disk."
        )


def _write_vectors(file: Path, base: Floats, size: int, random: np.random.Generator) -> Floats:
    """`size` unit rows near those of `base`, on disk: b_i + 0.3 (b_j - b_k), normalised."""
    rows = np.memmap(file, np.float32, "w+", shape=(size, base.shape[1]))
    for start in range(0, size, _CHUNK):
        count = min(_CHUNK, size - start)
        i, j, k = random.integers(len(base), size=(3, count))
        k = np.where(j == k, (k + 1) % len(base), k)  # no row stays unchanged
        part = base[i] + np.float32(_JITTER) * (base[j] - base[k])
        rows[start : start + count] = part / np.linalg.norm(part, axis=1, keepdims=True)
    rows.flush()
    return rows


def _measure_type(folder: Path, rows: Floats, index_type: str, seed: int) -> TypeResult:
    """Build one index, and measure it in a fresh process."""
    file = folder / f"{index_type}.faiss"
    started = time.perf_counter()
    factory = INDEX_TYPES[index_type].factory(len(rows))
    load_faiss().write_index(build(index_type, rows, seed), str(file))
    build_seconds = time.perf_counter() - started
    speed = measure_in_process(folder, index_type, rows.shape[1])
    disk = file.stat().st_size
    file.unlink()
    return TypeResult(
        len(rows), index_type, factory, build_seconds=build_seconds, disk=disk, **asdict(speed)
    )


# As text --------------------------------------------------------------------------------------


def as_json(measurement: Measurement) -> dict[str, Any]:
    """Plain values in milliseconds, bytes and percent."""
    value = asdict(measurement)
    value["choices"] = {
        str(size): {"kind": kind, "why": why} for size, (kind, why) in measurement.choices.items()
    }
    return value


def as_table(measurement: Measurement) -> str:
    """A table for the terminal."""
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
    widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
    lines = [
        "  ".join(c.ljust(w) if i in (1, 2) else c.rjust(w)
                  for i, (c, w) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in rows
    ]  # fmt: skip
    lines += [
        f"{size:,} vectors: auto would use {kind}: {why}."
        for size, (kind, why) in measurement.choices.items()
    ]
    m = measurement
    lines.append(
        f"From {m.photos:,} photos by model {m.model} (weights {m.fingerprint}, {m.dim} numbers), "
        f"seed {m.seed}; all types but exact return {CANDIDATES} candidates to be scored exactly."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    from benchmarks.commands import alone

    alone("search")
