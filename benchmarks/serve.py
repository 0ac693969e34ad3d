"""The speed of `retrieval serve`: queries and thumbnails, beside the bare encoder.

The server is a process of its own with an empty cache; the clients are here, each with a connection
that stays open and a query that was not asked before. Run it as `retrieval benchmark serve` or
`python -m benchmarks.serve`.
"""

import asyncio
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import retrieval
from benchmarks import sample_photos

_SAMPLES, _MEGAPIXELS = 300, 0.2
_ENCODER_SECONDS = 3.0
_BATCH = 32
_WARM_UP = 20  # queries


@dataclass(frozen=True)
class Load:
    """What clients saw. rate: answers a second; seconds: median and 99th percentile; errors:
    answers other than 200."""

    clients: int
    rate: float
    median: float
    p99: float
    errors: int


@dataclass(frozen=True)
class Serving:
    """Texts a second of the encoder alone, one at a time and in batches of 32; queries of one
    client and of many; thumbnails that have to be computed, and that are kept; MiB of the server.
    """

    photos: int
    model: str
    machine: str
    k: int
    encoder_single: float
    encoder_batched: float
    alone: Load
    together: Load
    thumbnails_cold: Load
    thumbnails_warm: Load
    mebibytes: float


def measure(
    index: Path | None = None,
    clients: int = 50,
    seconds: float = 10.0,
    k: int = 60,
    log: Callable[[str], None] = lambda _: None,
) -> Serving:
    """Measure a server of this index, or of 300 photos made for it.

    Raises RetrievalError.
    """
    with tempfile.TemporaryDirectory() as temporary:
        if index is None:
            folder = Path(temporary) / "photos"
            folder.mkdir()
            log(f"Making and indexing {_SAMPLES} photos.")
            sample_photos.make(folder, _MEGAPIXELS, _SAMPLES)
            retrieval.index(folder, model="mini")
            index = folder
        with retrieval.open(index) as photos:
            status = photos.status(look=False)
        queries = texts()
        log("Measuring the encoder alone.")
        single, batched = _encoder(status.model.name, queries)
        with running(index, Path(temporary)) as (url, process):
            log("Measuring queries.")

            def query() -> bytes:
                term = {"kind": "text", "text": next(queries)}
                return post("/api/v1/search", {"terms": [term], "k": k})

            run(url, query, 1, 1.0, _WARM_UP)
            alone = run(url, query, 1, seconds)
            together = run(url, query, clients, seconds)
            log("Measuring thumbnails.")
            ids = _photo_ids(url)
            cold = iter(ids)
            cold_load = run(url, lambda: _thumbnail(next(cold)), 6, seconds, len(ids))
            known = itertools.cycle(ids[: _done(cold_load, seconds, ids)])
            warm_load = run(url, lambda: _thumbnail(next(known)), 6, seconds / 2)
            mebibytes = _resident(process)
    return Serving(
        photos=status.photos,
        model=status.model.name,
        machine=f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        k=k,
        encoder_single=single,
        encoder_batched=batched,
        alone=alone,
        together=together,
        thumbnails_cold=cold_load,
        thumbnails_warm=warm_load,
        mebibytes=mebibytes,
    )


def _done(load: Load, seconds: float, ids: list[str]) -> int:
    """How many thumbnails the cold run has certainly computed."""
    return max(1, min(len(ids), int(load.rate * seconds * 0.9)))


def texts() -> Iterator[str]:
    """Texts as people write them, each once: the queries of the package, then pairs of them."""
    lines = (files("retrieval.ranking") / "generic_queries.txt").read_text("utf-8").splitlines()
    yield from lines
    for step in itertools.count(1):
        for at, line in enumerate(lines):
            yield f"{line} {lines[(at + step) % len(lines)].partition(' ')[0]} {step}"


def _encoder(model: str, queries: Iterator[str]) -> tuple[float, float]:
    """Texts a second, one at a time and in batches."""
    encoder = retrieval.load_encoder(model)
    rates = []
    for size in (1, _BATCH):
        encoder.encode_texts(list(itertools.islice(queries, size)))
        count, started = 0, time.perf_counter()
        while time.perf_counter() - started < _ENCODER_SECONDS:
            encoder.encode_texts(list(itertools.islice(queries, size)))
            count += size
        rates.append(count / (time.perf_counter() - started))
    return rates[0], rates[1]


@contextmanager
def running(index: Path, temporary: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A server with an empty cache, and its address."""
    environment = os.environ | {"XDG_CACHE_HOME": str(temporary / "cache")}
    command = [sys.executable, "-m", "cli", "serve", str(index), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline().decode()
            if "http" not in line:
                raise retrieval.RetrievalError("The server did not start; see above why.")
            yield line.partition(" ")[2].strip(), process
        finally:
            process.terminate()


def post(path: str, value: object) -> bytes:
    """A request with a JSON body."""
    body = json.dumps(value).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _thumbnail(photo: str) -> bytes:
    return f"GET /api/v1/photos/{photo}/thumbnail HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def run(
    url: str,
    request: Callable[[], bytes],
    clients: int,
    seconds: float,
    most: int | None = None,
) -> Load:
    """What clients see who ask one request after another.

    request: makes the bytes of the next one; most: stop after so many.
    """
    return asyncio.run(_run(url, request, clients, seconds, most))


async def _run(
    url: str, request: Callable[[], bytes], clients: int, seconds: float, most: int | None
) -> Load:
    address = urlsplit(url)
    times: list[float] = []
    errors, left = 0, most
    until = time.perf_counter() + seconds

    async def client() -> None:
        nonlocal errors, left
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        while time.perf_counter() < until and left != 0:
            left = None if left is None else left - 1
            data, started = request(), time.perf_counter()
            writer.write(data)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
            times.append(time.perf_counter() - started)
            errors += head[9:12] != b"200"
        writer.close()

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    whole = time.perf_counter() - started
    times.sort()
    return Load(
        clients=clients,
        rate=len(times) / whole,
        median=statistics.median(times),
        p99=times[min(int(len(times) * 0.99), len(times) - 1)],
        errors=errors,
    )


def _photo_ids(url: str, most: int = 5000) -> list[str]:
    """The ids of the photos that are listed first."""
    from urllib.request import Request, urlopen

    ids: list[str] = []
    cursor = None
    while len(ids) < most:
        body = json.dumps({"k": 200, "cursor": cursor}).encode()
        request = Request(f"{url}api/v1/search", body, {"Content-Type": "application/json"})  # noqa: S310
        with urlopen(request) as answer:  # noqa: S310 - our own server
            found = json.load(answer)
        ids += [hit["id"] for hit in found["hits"]]
        cursor = found["next"]
        if cursor is None:
            break
    return ids


def _resident(process: subprocess.Popen[bytes]) -> float:
    import psutil

    return float(psutil.Process(process.pid).memory_info().rss / (1 << 20))


def as_table(found: Serving) -> str:
    """A table for the terminal."""

    def row(name: str, load: Load) -> str:
        return (
            f"{name:<28}{load.clients:>8}{load.rate:>12,.0f}{load.median * 1e3:>12.1f}"
            f"{load.p99 * 1e3:>12.1f}{load.errors:>8}"
        )

    share = 100 * found.together.rate / found.encoder_single
    batched = 100 * found.together.rate / found.encoder_batched
    return "\n".join(
        [
            f"{found.photos:,} photos, {found.model}, {found.k} hits a page, {found.machine}; "
            f"server {found.mebibytes:.0f} MiB",
            f"encoder alone: {found.encoder_single:.0f} texts a second one at a time, "
            f"{found.encoder_batched:.0f} in batches of {_BATCH}",
            "",
            f"{'':<28}{'clients':>8}{'a second':>12}{'median ms':>12}{'p99 ms':>12}{'errors':>8}",
            row("queries", found.alone),
            row("queries, many at once", found.together),
            row("thumbnails, computed", found.thumbnails_cold),
            row("thumbnails, kept", found.thumbnails_warm),
            "",
            f"Queries of many at once are {share:.0f}% of what the encoder alone gives one at a "
            f"time, {batched:.0f}% of its batches.",
        ]
    )


def as_json(found: Serving) -> dict[str, Any]:
    """Plain values."""
    return asdict(found)


if __name__ == "__main__":
    from benchmarks.commands import alone

    alone("serve")
