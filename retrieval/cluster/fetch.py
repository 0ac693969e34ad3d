"""Get the bytes of one photo from where its source has it: object store, tar, table or URL.

Sizes and times are bounded, since nothing elsewhere is trusted. Nothing is listed here.
"""

import ipaddress
import socket
import time
from contextlib import ExitStack
from types import TracebackType
from typing import IO, Any
from urllib.parse import urljoin, urlsplit

from indexes.errors import StorageError
from indexes.lake.location import Location
from retrieval.cluster.tables import PhotoColumn
from retrieval.cluster.tasks import Item
from retrieval.errors import DataSetError, PhotoError
from retrieval.photos.files import TOO_LARGE, UNREADABLE

_SECONDS = 30.0  # for one photo from the web
_REDIRECTS = 5
_MAX_BESIDE = 1 << 20  # bytes of a file beside a photo


class Fetcher:
    """Opens what a task needs once, and closes it with the block. root: folder or URL."""

    def __init__(self, root: str, most: int) -> None:
        self._location, self._most = Location.of(root), most
        self._stack = ExitStack()
        self._containers: dict[str, Any] = {}

    def __enter__(self) -> "Fetcher":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def photo(self, item: Item) -> bytes:
        """The bytes of a photo; raises PhotoError, or FileNotFoundError if it is gone."""
        try:
            if item.url is not None:
                return download(item.url, self._most)
            if item.row is not None and item.container is not None:
                return self._column(item.container).photo(item.row, self._most)
            if item.offset is not None and item.container is not None:
                return self._in_container(item, item.container, item.offset)
            return self._whole(item.path)
        except StorageError as error:
            raise PhotoError(f"{UNREADABLE} ({error.__cause__ or error})") from error

    def beside(self, path: str) -> bytes | None:
        """A small file beside a photo; None if it cannot be had."""
        try:
            with self._location.open(path) as file:
                content = file.read(_MAX_BESIDE + 1)
        except (OSError, StorageError):
            return None
        return content if len(content) <= _MAX_BESIDE else None

    def _whole(self, path: str) -> bytes:
        with self._location.open(path) as file:
            content = file.read(self._most + 1)
        if len(content) > self._most:
            raise PhotoError(f"{TOO_LARGE} (over {self._most:,} bytes)")
        return content

    def _column(self, table: str) -> PhotoColumn:
        if table not in self._containers:
            try:
                column = PhotoColumn(self._location, table)
            except DataSetError as error:
                raise PhotoError(f"damaged ({str(error)[:80]})") from error
            self._containers[table] = column
            self._stack.callback(column.close)
        found: PhotoColumn = self._containers[table]
        return found

    def _in_container(self, item: Item, container: str, offset: int) -> bytes:
        if item.bytes > self._most:
            raise PhotoError(f"{TOO_LARGE} ({item.bytes:,} bytes)")
        file: IO[bytes] | None = self._containers.get(container)
        if file is None:
            file = self._stack.enter_context(self._location.open(container))
            self._containers[container] = file
        file.seek(offset)
        content = file.read(item.bytes)
        if len(content) != item.bytes:
            raise PhotoError("truncated (the tar ends before the photo does)")
        return content


def download(url: str, most: int) -> bytes:
    """A photo from the web, http or https; raises PhotoError.

    Addresses of private networks are refused: a list of URLs comes from elsewhere, and must not
    make the machines of a cluster ask each other.
    """
    import http.client

    deadline = time.monotonic() + _SECONDS
    for _ in range(_REDIRECTS):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise PhotoError("its address is not one of the web")
        connection: http.client.HTTPConnection | None = None
        try:
            connection = _connection(parts.scheme, parts.hostname, parts.port)
            path = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
            connection.request("GET", path, headers={"User-Agent": "crossmodal-retrieval"})
            answer = connection.getresponse()
            if answer.status in (301, 302, 303, 307, 308):
                url = urljoin(url, answer.headers.get("Location", ""))
                continue
            if answer.status != 200:
                raise PhotoError(f"{UNREADABLE} (the server answers {answer.status})")
            return _body(answer, most, deadline)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise PhotoError(f"{UNREADABLE} ({str(error)[:80]})") from error
        finally:
            if connection is not None:
                connection.close()
    raise PhotoError(f"{UNREADABLE} (more than {_REDIRECTS} redirections)")


def _connection(scheme: str, host: str, port: int | None) -> Any:
    """A connection to an address that was checked, and not looked up again afterwards."""
    import http.client
    import ssl

    port = port or (443 if scheme == "https" else 80)
    address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0]
    if not ipaddress.ip_address(str(address).partition("%")[0]).is_global:
        raise PhotoError("its address is in a private network")
    stream = socket.create_connection((str(address), port), timeout=_SECONDS)
    connection = http.client.HTTPConnection(host, port, timeout=_SECONDS)
    if scheme == "https":
        stream = ssl.create_default_context().wrap_socket(stream, server_hostname=host)
    connection.sock = stream
    return connection


def _body(answer: Any, most: int, deadline: float) -> bytes:
    content = bytearray()
    while piece := answer.read1(1 << 16):
        content += piece
        if len(content) > most:
            raise PhotoError(f"{TOO_LARGE} (over {most:,} bytes)")
        if time.monotonic() > deadline:
            raise PhotoError(f"{UNREADABLE} (longer than {_SECONDS:.0f} s)")
    return bytes(content)
