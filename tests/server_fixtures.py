"""A running server for tests: started once for a module, asked over real sockets."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import retrieval

httpx = pytest.importorskip("httpx", reason="needs '.[dev]': no httpx")

_MODULES = ("fastapi", "uvicorn", "prometheus_client", "watchfiles")
_missing = [module for module in _MODULES if find_spec(module) is None]
needs_server = [
    pytest.mark.extras,
    pytest.mark.skipif(bool(_missing), reason=f"needs '.[serve]': no {', '.join(_missing)}"),
]


@contextmanager
def client_of(where: Path, **options: Any) -> Iterator[httpx.Client]:
    """A client of a server of this index."""
    with (
        retrieval.serving(where, retrieval.ServeOptions(port=0, **options)) as address,
        httpx.Client(base_url=address.url, timeout=60) as client,
    ):
        client.token = address.token  # type: ignore[attr-defined]
        yield client


def text(words: str, **more: Any) -> dict[str, Any]:
    """A term of words."""
    return {"kind": "text", "text": words, **more}


def search(client: httpx.Client, *terms: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The answer to a search."""
    answer = client.post("/api/v1/search", json={"terms": terms, **more})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def names(found: dict[str, Any]) -> list[str]:
    """The names of the photos found, best first."""
    return [hit["name"] for hit in found["hits"]]


def send_raw(client: httpx.Client, request: bytes) -> bytes:
    """The answer to bytes that no proper client would send."""
    url = client.base_url
    with socket.create_connection((url.host, url.port or 80), timeout=30) as connection:
        connection.sendall(request)
        parts = []
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)
