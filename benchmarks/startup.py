"""The time of a search: in a new process from start to exit, and in a running one.

The index holds random embeddings of files that do not exist, because only their number matters for
the time. Run it as `retrieval benchmark startup` or `python -m benchmarks.startup`.
"""

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import retrieval
from benchmarks.end_to_end import run
from indexes.catalogue import IndexModel
from indexes.files import File
from indexes.index import Index
from indexes.locate import FOLDER_NAME
from indexes.photos import Photo
from retrieval.fusion.attention import MEAN

QUERY = "a dog on the beach"
_BATCH = 1000


@dataclass(frozen=True)
class Startup:
    """Medians of wall seconds, and peak resident MiB.

    search_cpu, query_cpu: processor seconds; other programs' load changes them little. imports: the
    slowest imports of a search, as (package, seconds); torch: whether a search imports it.
    """

    photos: int
    model: str
    machine: str
    help_seconds: float
    search_seconds: float
    search_mebibytes: float
    search_cpu: float
    query_seconds: float
    query_cpu: float
    imports: tuple[tuple[str, float], ...]
    torch: bool


def measure(model: str = "mini", photos: int = 7000, repeats: int = 5) -> Startup:
    """Start `retrieval --help` and `retrieval search` `repeats` times each, then run 50 queries.

    Raises RetrievalError if the model is not available.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / FOLDER_NAME
        index = ["--index", str(folder)]
        name = create_index(folder, model, photos)
        run("search", QUERY, *index)  # fills the system's caches, and writes the vector file
        helps = [run("--help") for _ in range(repeats)]
        searches = [run("search", QUERY, *index) for _ in range(repeats)]
        imports = _import_seconds(folder)
        query_seconds, query_cpu = _query_in_one_process(folder)
    return Startup(
        photos=photos,
        model=name,
        machine=f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        help_seconds=statistics.median(process.seconds for process in helps),
        search_seconds=statistics.median(process.seconds for process in searches),
        search_mebibytes=max(process.mebibytes for process in searches),
        search_cpu=statistics.median(process.cpu for process in searches),
        query_seconds=query_seconds,
        query_cpu=query_cpu,
        imports=tuple(sorted(imports.items(), key=lambda item: -item[1])[:8]),
        torch="torch" in imports,
    )


def create_index(folder: Path, model: str, photos: int) -> str:
    """Create an index of files that do not exist in `folder`; returns the model's name."""
    encoder = retrieval.load_encoder(model)
    model_of_index = IndexModel(encoder.name, encoder.fingerprint, encoder.dim, MEAN)
    Index.create(folder, model_of_index).close()
    random = np.random.default_rng(0)
    with Index.open(folder, writable=True) as index:
        indexed_root, _ = index.add_root(folder.parent)
        for start in range(0, photos, _BATCH):
            numbers = range(start, min(start + _BATCH, photos))
            rows = random.standard_normal((len(numbers), encoder.dim), np.float32)
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            with index.catalogue.transaction():
                records = [Photo(f"{i:064x}", 640, 480, "JPEG") for i in numbers]
                ids = index.catalogue.add_photos(records, rows)
                files = [
                    File(f"{i:06d}.jpg", 100_000, i, photo_id)
                    for i, photo_id in zip(numbers, ids, strict=True)
                ]
                index.catalogue.files.put(indexed_root.id, files)
                index.catalogue.photos.update_present(ids)
        index.refresh()
    return encoder.name


def _query_in_one_process(index: Path) -> tuple[float, float]:
    """Wall and processor seconds of a query: medians of 50 different ones, after one to warm up."""
    wall, cpu = [], []
    with retrieval.open(index) as photos:
        photos.search(QUERY)
        for number in range(50):
            wall_start, cpu_start = time.perf_counter(), time.process_time()
            photos.search(f"{QUERY} with {number} people")
            wall.append(time.perf_counter() - wall_start)
            cpu.append(time.process_time() - cpu_start)
    return statistics.median(wall), statistics.median(cpu)


def _import_seconds(index: Path) -> dict[str, float]:
    """Seconds that a search takes to import each top-level package, from `-X importtime`."""
    command = [sys.executable, "-X", "importtime", "-m", "cli", "search", QUERY, "--index"]
    done = subprocess.run([*command, str(index)], capture_output=True, text=True, check=True)
    seconds: dict[str, float] = {}
    for line in done.stderr.splitlines():
        parts = line.removeprefix("import time:").split("|")
        if len(parts) == 3 and parts[0].strip().isdigit():
            package = parts[2].strip().partition(".")[0]
            seconds[package] = seconds.get(package, 0.0) + int(parts[0]) / 1e6
    return seconds


def as_table(found: Startup) -> str:
    """A table for the terminal, with the slowest imports."""
    slowest = ", ".join(f"{name} {seconds * 1e3:.0f}" for name, seconds in found.imports)
    return "\n".join(
        [
            f"{found.photos:,} photos, {found.model}, {found.machine}",
            f"search, from a cold start   {found.search_seconds:8.2f} s "
            f"{found.search_mebibytes:8.0f} MiB   (processor {found.search_cpu:.2f} s)",
            f"--help                      {found.help_seconds:8.2f} s",
            f"a query in a running process{found.query_seconds * 1e3:8.1f} ms"
            f"                (processor {found.query_cpu * 1e3:.1f} ms)",
            f"imports of a search, ms: {slowest}" + (" (and torch)" if found.torch else ""),
        ]
    )


def as_json(found: Startup) -> dict[str, Any]:
    """Plain values."""
    return asdict(found)


if __name__ == "__main__":
    from benchmarks.commands import alone

    alone("startup")
