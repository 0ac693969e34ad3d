"""What happens on the server, for every page that listens: server-sent events.

A page that falls behind misses events, and gets the latest of each kind.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from retrieval.server.options import LIMITS
from retrieval.server.readers import TooBusyError

_KEEP_ALIVE = 15.0  # seconds


class Events:
    """The listeners of one server. Used from its event loop alone."""

    def __init__(self) -> None:
        self._latest: dict[str, str] = {}
        self._listeners: dict[asyncio.Event, set[str]] = {}
        self._closed = False

    def publish(self, kind: str, value: dict[str, Any]) -> None:
        """Tell every listener; kind: the name of the event."""
        self._latest[kind] = json.dumps(value)
        for wake, kinds in self._listeners.items():
            kinds.add(kind)
            wake.set()

    def close(self) -> None:
        """End all streams."""
        self._closed = True
        for wake in self._listeners:
            wake.set()

    def stream(self) -> AsyncIterator[str]:
        """The events from now on, after the latest of each kind; raises TooBusyError."""
        if len(self._listeners) >= LIMITS.streams:
            raise TooBusyError
        wake, kinds = asyncio.Event(), set(self._latest)
        self._listeners[wake] = kinds
        return self._stream(wake, kinds)

    async def _stream(self, wake: asyncio.Event, kinds: set[str]) -> AsyncIterator[str]:
        try:
            yield "retry: 2000\n\n"
            while not self._closed:
                for kind in sorted(kinds):
                    yield f"event: {kind}\ndata: {self._latest[kind]}\n\n"
                kinds.clear()
                wake.clear()
                try:
                    await asyncio.wait_for(wake.wait(), _KEEP_ALIVE)
                except TimeoutError:
                    yield ": still here\n\n"
        finally:
            self._listeners.pop(wake, None)
