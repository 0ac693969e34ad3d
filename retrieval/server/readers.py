"""Readers: a few threads, each with the index open, that answer one request after another.

What SQLite opens belongs to one thread; the vectors are mapped, so that readers share their memory.
More requests than may wait are refused rather than kept.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from indexes.errors import IndexReplacedError, RetrievalError
from indexes.index import Index

Result = TypeVar("Result")
_CACHE_KIB = 16_384  # of SQLite, for each reader; its default of 2,000 holds few photos


class TooBusyError(RetrievalError):
    """More requests wait than the server takes."""

    def __init__(self) -> None:
        super().__init__("Too many requests at once. Try again in a second.")


class Readers:
    """Threads with an open index each. Close it when the server ends."""

    def __init__(self, folder: Path, count: int, most_waiting: int, name: str = "reader") -> None:
        self._folder, self._count = folder, count
        self._most = most_waiting
        self.waiting = 0
        self._freed = asyncio.Event()
        self._local = threading.local()
        self._open: set[Index] = set()
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=name)

    async def run(self, work: Callable[[Index], Result]) -> Result:
        """What `work` returns, in the thread of a reader; raises TooBusyError, or what it raises.

        After a rebuild with another model the index is opened again and `work` called once more.
        """
        if self.waiting >= self._most:
            raise TooBusyError
        self.waiting += 1
        future = asyncio.get_running_loop().run_in_executor(self._pool, self._call, work)
        future.add_done_callback(self._one_less)
        return await future

    async def room(self) -> None:
        """Return when no more requests wait than the threads answer next."""
        while self.waiting > 2 * self._count:
            self._freed.clear()
            await self._freed.wait()

    def _one_less(self, _: object) -> None:
        self.waiting -= 1
        self._freed.set()

    def _call(self, work: Callable[[Index], Result]) -> Result:
        try:
            return work(self._index())
        except IndexReplacedError:
            self._drop()
            return work(self._index())

    def _index(self) -> Index:
        index: Index | None = getattr(self._local, "index", None)
        if index is None:
            index = self._local.index = Index.open(self._folder)
            index.catalogue.database.conn.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            self._open.add(index)
        return index

    def _drop(self) -> None:
        index: Index = self._local.index
        self._local.index = None
        self._open.discard(index)
        with suppress(RetrievalError):
            index.close()

    def close(self) -> None:
        """End the threads; what they do now is done first."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        for index in self._open:
            index.close()
        self._open.clear()
