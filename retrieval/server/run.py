"""Start a server: find and check the index, load the encoder, listen.

uvicorn is told to log errors alone: an access log would keep what people search for.
"""

import asyncio
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from indexes.errors import RetrievalError
from indexes.index import Index
from retrieval.api import find_index
from retrieval.errors import QueryError
from retrieval.indexing.trust import check_trust
from retrieval.query import AnyPath
from retrieval.server.options import ServeOptions

_CONNECTIONS = 512
_START_SECONDS = 60.0


@dataclass(frozen=True)
class Address:
    """Where a server listens. token: the token, if it was made just now; the page's address has
    it then."""

    host: str
    port: int
    token: str | None

    @property
    def url(self) -> str:
        """The address of the server, for a browser on this machine or another."""
        host = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(  # noqa: S104
            self.host, self.host
        )
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def page(self) -> str:
        """The address to open first."""
        return f"{self.url}/" + (f"?token={self.token}" if self.token else "")


def serve(
    where: AnyPath | None = None,
    options: ServeOptions = ServeOptions(),
    trust: bool = False,
    ready: Callable[[Address], None] = lambda _: None,
) -> None:
    """Serve an index over HTTP until the process is interrupted.

    where: as for `find_index`; trust: as for `open`; ready: is called once it listens. Needs the
    extra `serve`. Raises RetrievalError.
    """
    server, listening, address = _prepare(where, options, trust)
    threading.Thread(
        target=_call_when_started, args=(server, lambda: ready(address)), daemon=True
    ).start()
    # Else the thread that talks to clients waits up to 5 ms for every reader that computes.
    sys.setswitchinterval(0.001)
    with listening:
        server.run(sockets=[listening])


@contextmanager
def serving(
    where: AnyPath | None = None, options: ServeOptions = ServeOptions(), trust: bool = False
) -> Iterator[Address]:
    """A server in a thread of this process, while the block runs. As `serve` otherwise."""
    server, listening, address = _prepare(where, options, trust)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        _wait(server, thread)
        yield address
    finally:
        server.close_streams()
        server.should_exit = True
        thread.join()
        listening.close()


def _prepare(
    where: AnyPath | None, options: ServeOptions, trust: bool
) -> tuple[Any, socket.socket, Address]:
    """A uvicorn server that is not started, the socket that it will use, and its address."""
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise RetrievalError(
            f"`retrieval serve` needs the package {error.name}: "
            "`pip install 'crossmodal-retrieval[serve]'`, then run the same command again."
        ) from error
    import platformdirs

    from retrieval.server.app import create_app
    from retrieval.server.auth import make_or_load
    from retrieval.server.engine import Engine

    folder = find_index(where)
    with Index.open(folder) as index:
        check_trust(index, trust)
    listening = _listen(options)
    try:
        port = listening.getsockname()[1]
        tokens = token = None
        if options.needs_token:
            data = platformdirs.user_data_path("crossmodal-retrieval")
            tokens, token = make_or_load(data, options.new_token)
        engine = Engine(folder, _cache(folder), options.reader_count)
    except BaseException:
        listening.close()
        raise
    app = create_app(engine, options, tokens)

    class Server(uvicorn.Server):
        """Ends the streams of events when it is told to end: they would never end by themselves."""

        def handle_exit(self, sig: int, frame: object) -> None:
            self.close_streams()
            super().handle_exit(sig, frame)  # type: ignore[arg-type]

        def close_streams(self) -> None:
            if self.loop is not None and self.loop.is_running():
                self.loop.call_soon_threadsafe(engine.events.close)

        async def serve(self, sockets: list[socket.socket] | None = None) -> None:
            self.loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
            await super().serve(sockets)

    config = uvicorn.Config(
        app,
        log_level="error",
        access_log=False,
        server_header=False,
        date_header=True,
        proxy_headers=False,
        ws="none",
        lifespan="on",
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=5,
        timeout_keep_alive=30,
    )
    server = Server(config)
    server.loop = None
    return server, listening, Address(options.host, port, token)


def _listen(options: ServeOptions) -> socket.socket:
    """A socket that listens; raises QueryError if the address cannot be taken."""
    try:
        found = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = found[0]
        listening = socket.socket(family, kind, protocol)
        try:
            if sys.platform != "win32":
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
        except BaseException:
            listening.close()
            raise
    except OSError as error:
        raise QueryError(
            f"The server cannot listen at {options.host}, port {options.port} ({error.strerror}). "
            "Is another one running there? Choose another with --port, or 0 for any that is free."
        ) from error
    listening.set_inheritable(False)
    return listening


def _cache(folder: Path) -> Path:
    """Where the server keeps what it can compute again, apart for every index."""
    import os

    import platformdirs
    from blake3 import blake3

    name = blake3(os.fsencode(folder.resolve())).hexdigest()[:16]
    return platformdirs.user_cache_path("crossmodal-retrieval") / "serve" / name


def _wait(server: object, thread: threading.Thread) -> None:
    import time

    until = time.monotonic() + _START_SECONDS
    while not getattr(server, "started", False):
        if not thread.is_alive() or time.monotonic() > until:
            raise RetrievalError("The server did not start; the terminal shows why.")
        time.sleep(0.01)


def _call_when_started(server: object, call: Callable[[], None]) -> None:
    _wait(server, threading.main_thread())
    call()
