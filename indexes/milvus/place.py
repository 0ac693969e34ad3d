"""The place of an index on many machines: `milvus://HOST:PORT/NAME`, with its lake.

Only names are handled here; nothing is connected to.
"""

import re
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from indexes.errors import ClusterError

SCHEME = "milvus://"
DEFAULT_PORT = 19530
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]")


@dataclass(frozen=True)
class ClusterPlace:
    """A collection of a Milvus server. lake: the URL of its lake, '' if the collection knows it."""

    host: str
    port: int
    name: str
    lake: str = ""
    tls: bool = False

    @property
    def address(self) -> str:
        """Of the server, as pymilvus takes it."""
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"{SCHEME}{self.host}:{self.port}/{self.name}"


def is_cluster(place: object) -> bool:
    """Whether a place is one of these, and no folder."""
    return isinstance(place, str) and place.startswith(SCHEME)


def parse(text: str) -> ClusterPlace:
    """A place as users write it: `milvus://HOST:PORT/NAME?lake=URL&tls=1`; raises ClusterError."""
    url = urlsplit(text)
    if url.username is not None or url.password is not None:
        raise ClusterError(
            "A password in the address of an index can be seen by others. Leave it out, and set "
            "MILVUS_TOKEN=USER:PASSWORD in the environment."
        )
    try:
        port = url.port or DEFAULT_PORT
    except ValueError:
        port = 0
    options = parse_qs(url.query)
    host = f"[{url.hostname}]" if url.hostname and ":" in url.hostname else url.hostname or ""
    name = url.path.strip("/")
    known = set(options) <= {"lake", "tls"}
    if not (port and _HOST.fullmatch(host) and _NAME.fullmatch(name) and known):
        raise ClusterError(
            f"{text[:200]} is not the address of an index. Write it as milvus://HOST:PORT/NAME; "
            "the name has letters, digits and underscores. Options are ?lake=URL and &tls=1."
        )
    tls = options.get("tls", ["0"])[-1] not in ("0", "")
    return ClusterPlace(host, port, name, options.get("lake", [""])[-1], tls)
