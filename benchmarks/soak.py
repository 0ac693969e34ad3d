"""A soak of `retrieval serve`: minutes of mixed requests while photos come, go and are indexed.

Clients search by words and photos, look at thumbnails, details and originals, and listen to events;
meanwhile photos are added and removed, and index runs are started. What counts is that nothing
fails and that memory stays flat. Run it as `python -m benchmarks.soak --minutes 10`.
"""

import argparse
import asyncio
import itertools
import json
import random
import shutil
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import retrieval
from benchmarks import sample_photos, serve
from retrieval.output.terminal import print_message, print_result

_PHOTOS, _CHANGED, _MEGAPIXELS = 400, 20, 0.1
_EVERY = 15.0  # seconds between changes of the folder
_CLIENTS = 8
_EXPECTED = (200, 202, 404, 409, 422)  # a photo may go while it is asked for; 409: a run goes on


@dataclass
class Soak:
    """answers: by status; wrong: what should not have been answered; memory: (minute, MiB of the
    server); runs: index runs that were started; events: that listeners got."""

    answers: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    memory: list[tuple[float, float]] = field(default_factory=list)
    runs: int = 0
    events: int = 0


def soak(minutes: float) -> Soak:
    """Run it; raises RetrievalError if the server does not start."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, spare = Path(temporary) / "photos", Path(temporary) / "spare"
        folder.mkdir()
        spare.mkdir()
        sample_photos.make(folder, _MEGAPIXELS, _PHOTOS)
        for path in sorted(folder.iterdir())[: _CHANGED * 4]:
            path.rename(spare / path.name)
        retrieval.index(folder, model="mini")
        with serve.running(folder, Path(temporary)) as (url, process):
            return asyncio.run(_soak(url, process.pid, folder, spare, minutes * 60))


async def _soak(url: str, pid: int, folder: Path, spare: Path, seconds: float) -> Soak:
    import psutil

    found, until = Soak(), time.monotonic() + seconds
    started = time.monotonic()
    clients = [asyncio.create_task(_client(url, found, until, n)) for n in range(_CLIENTS)]
    clients.append(asyncio.create_task(_listener(url, found, until)))
    server = psutil.Process(pid)
    changes = itertools.cycle(range(4))
    while time.monotonic() < until:
        _change(folder, spare, next(changes))
        connection = await _connect(url)
        status, _ = await _ask(connection, serve.post("/api/v1/indexing", {}))
        connection[1].close()
        found.answers[status] += 1
        found.runs += status == 202
        minute = (time.monotonic() - started) / 60
        found.memory.append((minute, server.memory_info().rss / (1 << 20)))
        await asyncio.sleep(min(_EVERY, max(until - time.monotonic(), 0)))
    for result in await asyncio.gather(*clients, return_exceptions=True):
        if isinstance(result, BaseException):
            found.wrong.append(f"{type(result).__name__}: {result}")
    return found


def _change(folder: Path, spare: Path, step: int) -> None:
    """Bring some photos in, and take as many out that were there longest."""
    coming = sorted(spare.iterdir())[:_CHANGED]
    going = random.Random(step).sample(sorted(folder.glob("*.jpg")), _CHANGED)  # noqa: S311
    for path in coming:
        shutil.copy2(path, folder / f"new-{path.name}")
        path.unlink()
    for path in going:
        shutil.move(path, spare / path.name.removeprefix("new-"))


async def _client(url: str, found: Soak, until: float, number: int) -> None:
    """One client that asks for all kinds of things, one after another."""
    choose = random.Random(number)  # noqa: S311
    texts = serve.texts()
    ids: list[str] = []
    connection = await _connect(url)
    while time.monotonic() < until:
        term: dict[str, Any] = {"kind": "text", "text": f"{next(texts)} {number}"}
        if ids and choose.random() < 0.3:
            term = {"kind": "photo", "id": choose.choice(ids)}
        status, body = await _ask(connection, serve.post("/api/v1/search", {"terms": [term]}))
        _note(found, status, body, (*_EXPECTED, 400))  # 400: the photo of a term has gone
        if status == 200:
            ids = [hit["id"] for hit in json.loads(body)["hits"]]
        for photo in choose.sample(ids, min(len(ids), 6)):
            end = choose.choice(["", "/thumbnail?size=320", "/thumbnail?size=160", "/original"])
            request = f"GET /api/v1/photos/{photo}{end} HTTP/1.1\r\nHost: localhost\r\n\r\n"
            status, body = await _ask(connection, request.encode())
            _note(found, status, body, _EXPECTED)
    connection[1].close()


def _note(found: Soak, status: int, body: bytes, expected: tuple[int, ...]) -> None:
    found.answers[status] += 1
    if status not in expected:
        found.wrong.append(f"{status}: {body[:200].decode('utf-8', 'replace')}")


async def _listener(url: str, found: Soak, until: float) -> None:
    reader, writer = await _connect(url)
    writer.write(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    while time.monotonic() < until:
        try:
            line = await asyncio.wait_for(reader.readline(), 20)
        except TimeoutError:
            found.wrong.append("no event, and no sign of life, for 20 seconds")
            continue
        found.events += line.startswith(b"event:")
    writer.close()


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _connect(url: str) -> Connection:
    address = urlsplit(url)
    return await asyncio.open_connection(address.hostname, address.port)


async def _ask(connection: Connection, request: bytes) -> tuple[int, bytes]:
    reader, writer = connection
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return int(head[9:12]), await reader.readexactly(length)


def as_table(found: Soak) -> str:
    """What was answered, and memory minute by minute."""
    answers = ", ".join(f"{n:,} × {status}" for status, n in sorted(found.answers.items()))
    step = max(len(found.memory) // 10, 1)
    memory = ", ".join(f"{mebibytes:.0f}" for _, mebibytes in found.memory[::step])
    return "\n".join(
        [
            f"answers: {answers}; {found.runs} index runs, {found.events} events",
            f"memory of the server over time, MiB: {memory}",
            f"wrong: {len(found.wrong)}",
            *found.wrong[:10],
        ]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    print_message("Soaking.")
    print_result(as_table(soak(parser.parse_args().minutes)))
