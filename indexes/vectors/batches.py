"""Searches of several threads as one: what is asked while a GPU computes is computed together next.

FAISS's indexes on GPUs may be used by one thread at a time, and take hardly longer for many queries
than for one.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from indexes.arrays import Floats, Ints

_MOST_AT_ONCE = 256


@dataclass(eq=False)
class _Asked:
    """A query that a thread waits for; found or error once it was searched."""

    query: Floats
    count: int
    breadth: int
    found: Ints | None = None
    error: Exception | None = None

    @property
    def is_done(self) -> bool:
        return self.found is not None or self.error is not None


class Batches:
    """Gathers the queries of threads for a search that one thread at a time may use.

    search: called with queries, float32 [q, dim], how many positions to find for each, and a
    breadth; gives int64 [q, count], the best first, -1 for none.
    """

    def __init__(self, search: Callable[[Floats, int, int], Ints]) -> None:
        self._search = search
        self._waiting: list[_Asked] = []
        self._list_guard, self._turn = threading.Lock(), threading.Lock()

    def find(self, query: Floats, count: int, breadth: int = 0) -> Ints:
        """The positions for a query, float32 [dim]: int64 [m], m ≤ count, the best first.

        Queries that are searched together get the largest breadth of them. Raises what the search
        raised, for each of them.
        """
        mine = _Asked(query, count, breadth)
        with self._list_guard:
            self._waiting.append(mine)
        with self._turn:
            while not mine.is_done:  # else another thread, whose turn it was, searched it as well
                self._search_waiting()
        if mine.found is None:
            assert mine.error is not None
            raise mine.error
        return mine.found

    def _search_waiting(self) -> None:
        with self._list_guard:
            batch = self._waiting[:_MOST_AT_ONCE]
            del self._waiting[:_MOST_AT_ONCE]
        try:
            found = self._search(
                np.stack([asked.query for asked in batch]),
                max(asked.count for asked in batch),
                max(asked.breadth for asked in batch),
            )
            for asked, row in zip(batch, found, strict=True):
                asked.found = row[row >= 0][: asked.count]
        except Exception as error:
            for asked in batch:
                asked.error = error
