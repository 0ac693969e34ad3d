"""How soon a search answers: a whole process from start to end, and a query in a running one.

The index is made of photos that are not there, with embeddings drawn by a seed: only their number
matters for the time. Run it as `retrieval benchmark startup` or `python -m benchmarks.startup`.
"""

import os
import platform
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import retrieval
from benchmarks.main_job import run
from indexes.catalogue import File, IndexModel, Photo
from indexes.index import Index
from retrieval.fusion.attention import MEAN

QUERY = "a dog on the beach"
_BATCH = 1000


@dataclass(frozen=True)
class Startup:
    """Medians of wall seconds, and the peak of resident MiB.

    search_cpu, query_cpu: processor seconds, which another program's load changes little;
    imports: the slowest imports of a search, (module, its own seconds); torch: whether a search
    imports it.
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
    """Start `retrieval --help` and `retrieval search` `repeats` times each, then ask 50 queries.

    Raises RetrievalError where the model is not to be had.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        index = ["--index", str(folder / "index")]
        name = _fill(folder, model, photos)
        run("search", QUERY, *index)  # fills the system's caches, and writes the vectors' file
        helped = [run("--help") for _ in range(repeats)]
        found = [run("search", QUERY, *index) for _ in range(repeats)]
        imports = _imports(folder / "index")
        queries = _in_one_process(folder / "index")
    return Startup(
        photos,
        name,
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        statistics.median(ran.seconds for ran in helped),
        statistics.median(ran.seconds for ran in found),
        max(ran.mebibytes for ran in found),
        statistics.median(ran.cpu for ran in found),
        *queries,
        tuple(sorted(imports.items(), key=lambda item: -item[1])[:8]),
        "torch" in imports,
    )


def _fill(folder: Path, model: str, photos: int) -> str:
    """Put an index of files that are only names into folder/index; returns the model's name."""
    encoder = retrieval.load_encoder(model)
    root = folder / "photos"
    root.mkdir()
    Index.create(
        folder / "index", IndexModel(encoder.name, encoder.fingerprint, encoder.dim, MEAN)
    ).close()
    random = np.random.default_rng(0)
    with Index.open(folder / "index", writable=True) as index:
        place, _ = index.add_root(root)
        for start in range(0, photos, _BATCH):
            numbers = range(start, min(start + _BATCH, photos))
            rows = random.standard_normal((len(numbers), encoder.dim), np.float32)
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            with index.catalogue.transaction():
                made = [Photo(f"{i:064x}", 640, 480, "JPEG") for i in numbers]
                ids = index.catalogue.add_photos(made, rows)
                files = [
                    File(f"{i:06d}.jpg", 100_000, i, photo_id)
                    for i, photo_id in zip(numbers, ids, strict=True)
                ]
                index.catalogue.put_files(place.id, files)
                index.catalogue.mark_present(ids)
        index.refresh()
    return encoder.name


def _in_one_process(index: Path) -> tuple[float, float]:
    """Wall and processor seconds of a query, medians of 50 different ones after the first."""
    wall, cpu = [], []
    with retrieval.open(index) as photos:
        photos.search(QUERY)
        for number in range(50):
            started = time.perf_counter(), time.process_time()
            photos.search(f"{QUERY} with {number} people")
            wall.append(time.perf_counter() - started[0])
            cpu.append(time.process_time() - started[1])
    return statistics.median(wall), statistics.median(cpu)


def _imports(index: Path) -> dict[str, float]:
    """Seconds that each top-level package takes to import in a search, by `-X importtime`."""
    import subprocess

    command = [sys.executable, "-X", "importtime", "-m", "cli", "search", QUERY, "--index"]
    told = subprocess.run([*command, str(index)], capture_output=True, text=True, check=True)
    seconds: dict[str, float] = {}
    for line in told.stderr.splitlines():
        parts = line.removeprefix("import time:").split("|")
        if len(parts) == 3 and parts[0].strip().isdigit():
            package = parts[2].strip().partition(".")[0]
            seconds[package] = seconds.get(package, 0.0) + int(parts[0]) / 1e6
    return seconds


def as_table(found: Startup) -> str:
    """The figures, and what the time goes to."""
    slowest = ", ".join(f"{name} {seconds * 1e3:.0f}" for name, seconds in found.imports)
    return "\n".join(
        [
            f"{found.photos:,} photos, {found.model}, {found.machine}",
            f"search, from a cold start   {found.search_seconds:8.2f} s "
            f"{found.search_mebibytes:8.0f} MiB   (processor {found.search_cpu:.2f} s)",
            f"--help                      {found.help_seconds:8.2f} s",
            f"a query in a running process{found.query_seconds * 1e3:8.1f} ms"
            f"                (processor {found.query_cpu * 1e3:.1f} ms)",
            f"imports of a search, ms: {slowest}" + (" (torch, too)" if found.torch else ""),
        ]
    )


def as_json(found: Startup) -> dict[str, Any]:
    """All figures by name."""
    return asdict(found)


if __name__ == "__main__":
    from benchmarks.commands import alone

    alone("startup")
