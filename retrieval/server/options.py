"""How a server runs: where it listens, what it watches, and the bounds on what it does."""

import ipaddress
import os
from dataclasses import dataclass

from retrieval.errors import QueryError

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class ServeOptions:
    """host, port: where to listen; port 0 takes a free one. token: whether a token is needed also
    on this machine; any other host needs one always. new_token: replace the token that there is.
    watch: index the folders whenever they change. allowed_hosts: names by which browsers reach the
    server, besides `localhost`, the name of the machine and addresses. readers: threads that
    search, None for one a core, from two to four.

    Raises QueryError for a port or a host that cannot be.
    """

    host: str = LOOPBACK
    port: int = 8000
    token: bool = False
    new_token: bool = False
    watch: bool = False
    allowed_hosts: tuple[str, ...] = ()
    readers: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535:
            raise QueryError(f"The port {self.port} is not a number from 0 to 65535.")
        if not self.host or "/" in self.host or self.host != self.host.strip():
            raise QueryError(
                f"The host {self.host!r} is not a name or an address, such as 0.0.0.0."
            )

    @property
    def is_local(self) -> bool:
        """Whether only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def needs_token(self) -> bool:
        """Whether a request without the token is refused."""
        return self.token or not self.is_local

    @property
    def reader_count(self) -> int:
        """Threads that search. Each holds a snapshot of the index, whose vectors are mapped.

        More threads than cores only wait for each other: Python runs one at a time.
        """
        return self.readers or min(max(os.cpu_count() or 1, 2), 4)


@dataclass(frozen=True)
class Limits:
    """What one request, and all together, may ask for.

    terms, text: of a query, and characters of a text; page, depth: hits in one answer, and the
    deepest rank; body, upload: bytes of a request, and of an example photo; megapixels: of an
    example photo; waiting: requests that wait for a reader; pictures: thumbnails that wait to be
    computed; selected: photos in one export; zip_bytes: of an export; streams: open event streams;
    thumbnails, examples: bytes and photos that the caches keep.
    """

    terms: int = 16
    text: int = 1000
    page: int = 200
    depth: int = 100_000
    body: int = 1 << 18
    upload: int = 64 << 20
    megapixels: float = 100.0
    waiting: int = 200
    pictures: int = 400
    selected: int = 1000
    zip_bytes: int = 4 << 30
    streams: int = 64
    thumbnails: int = 512 << 20
    examples: int = 500


LIMITS = Limits()
