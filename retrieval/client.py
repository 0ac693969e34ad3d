"""A client of `retrieval serve`: asks a running server, and gives hits as an open index does.

It needs nothing but the standard library and starts fast: the model is loaded already, in the
server. Example photos are read here and sent; folders have to be those of the server's index.
"""

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import fields
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from indexes.errors import RetrievalError
from indexes.photos import Photo
from retrieval.errors import PhotoError, QueryError
from retrieval.query import Query, Term
from retrieval.search.hits import Explanation, Hit
from retrieval.search.options import SearchOptions

_PAGE = 200  # hits in one answer
_MOST_ANSWER = 64 << 20  # bytes
_PHOTO = frozenset(field.name for field in fields(Photo))


class Client:
    """A server, by its address. token: if it asks for one, by default RETRIEVAL_TOKEN."""

    def __init__(self, url: str, token: str | None = None, timeout: float = 60.0) -> None:
        """timeout: in seconds. Raises QueryError if `url` is no address of a server."""
        address = urlsplit(url if "://" in url else f"http://{url}")
        try:
            port = address.port
        except ValueError:
            port = -1
        if address.scheme not in ("http", "https") or not address.hostname or port == -1:
            raise QueryError(
                f"{url} is not the address of a server, such as http://localhost:8000."
            )
        kind = HTTPSConnection if address.scheme == "https" else HTTPConnection
        self._url = f"{address.scheme}://{address.netloc}"
        self._base = address.path.rstrip("/")
        self._connection = kind(address.hostname, port, timeout=timeout)
        self._token = os.environ.get("RETRIEVAL_TOKEN") if token is None else token

    def ask(self, query: Query, options: SearchOptions = SearchOptions()) -> list[Hit]:
        """The photos that fit a `Query` best, as `Photos.ask` gives them.

        Raises QueryError or PhotoError, and RetrievalError if the server does not answer.
        """
        request = {
            "terms": [self._term(term) for term in query.terms],
            "filters": {
                "folders": [self._folder(folder) for folder in query.within],
                "after": query.after,
                "before": query.before,
                "cameras": list(query.cameras),
                "captioned": query.captioned,
                "place": query.place,
                "near": query.near,
                "near_km": query.near_km,
            },
            "ranking": options.ranking,
            "rerank": options.rerank,
            "relevance": options.relevance,
            "min_score": query.min_score,
            "explain": True,
        }
        return list(self._hits(request, options.k))

    def similar(self, photo: str | os.PathLike[str], k: int = 10) -> list[Hit]:
        """The `k` photos that look most like one, which is left out."""
        term = self._term(Term("photo", os.fspath(photo)))
        request = {"terms": [term], "leave_out_examples": True, "explain": True}
        return list(self._hits(request, k))

    def details(self, photo: str) -> dict[str, Any]:
        """All that is known of a photo, by its content hash."""
        return self._ask("GET", f"/api/v1/photos/{photo}")

    def thumbnail(self, photo: str, size: int = 320) -> bytes:
        """A photo as WebP, by its content hash; size: pixels of the longer side."""
        return self._send("GET", f"/api/v1/photos/{photo}/thumbnail?size={size:d}")

    def captions(self, hit: Hit) -> tuple[str, ...]:
        """The captions of a photo that was found."""
        return tuple(str(caption["text"]) for caption in self.details(hit.photo.hash)["captions"])

    def status(self) -> dict[str, Any]:
        """What is indexed, and how far an index run is."""
        return self._ask("GET", "/api/v1/status")

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Requests ----------------------------------------------------------------------------------

    def _hits(self, request: dict[str, Any], k: int) -> Iterator[Hit]:
        cursor = None
        while k > 0:
            page = request | {"k": min(k, _PAGE), "cursor": cursor}
            found = self._ask("POST", "/api/v1/search", json.dumps(page).encode())
            yield from map(_hit, found["hits"])
            k -= _PAGE
            cursor = found["next"]
            if cursor is None:
                return

    def _term(self, term: Term) -> dict[str, Any]:
        """A term as the API takes it; an example photo is uploaded."""
        rest = {"wanted": term.wanted, "weight": term.weight}
        if term.kind == "text":
            return {"kind": "text", "text": term.value, **rest}
        if term.value.startswith("hash:"):
            return {"kind": "photo", "id": term.value.removeprefix("hash:"), **rest}
        if term.value == "-":
            data = sys.stdin.buffer.read()
        else:
            try:
                data = Path(term.value).read_bytes()
            except OSError as error:
                raise PhotoError(
                    f"{term.value} cannot be used as a photo: {error.strerror}."
                ) from error
        example = self._ask("POST", "/api/v1/examples", data)
        return {"kind": example["kind"], "id": example["id"], **rest}

    def _folder(self, folder: Path) -> str:
        """The id of a folder: by its path here, or by the end of its path on the server."""
        known = self._ask("GET", "/api/v1/overview")["folders"]
        absolute, end = str(folder.absolute()), f"/{folder.as_posix()}"
        for entry in known:
            if entry["path"] == absolute or entry["path"].endswith(end):
                return str(entry["id"])
        raise QueryError(f"{folder} is not a folder of the index that {self._url} serves.")

    def _ask(self, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
        data = self._send(method, path, body)
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise RetrievalError(f"{self._url} is not a server of retrieval: it sent no JSON.")
        return value

    def _send(self, method: str, path: str, body: bytes | None = None) -> bytes:
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        try:
            self._connection.request(method, f"{self._base}{path}", body, headers)
            with self._connection.getresponse() as answer:
                data = answer.read(_MOST_ANSWER)
                status = answer.status
        except (OSError, HTTPException) as error:
            self._connection.close()
            raise RetrievalError(
                f"No server answers at {self._url} ({error}). Start one with `retrieval serve`, or "
                "search without --server."
            ) from error
        if status < 400:
            return data
        detail = _detail(data) or f"The server answered {status}."
        if status == 401:
            raise RetrievalError(f"{detail} Set RETRIEVAL_TOKEN to it.")
        if status in (400, 404, 422):
            raise QueryError(detail)
        raise RetrievalError(detail)


def _detail(data: bytes) -> str | None:
    try:
        return str(json.loads(data)["detail"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _hit(value: dict[str, Any]) -> Hit:
    """A hit of the API as `Photos.ask` gives it."""
    how = value["explanation"]
    return Hit(
        rank=value["rank"],
        score=0.0 if value["score"] is None else value["score"],
        path=Path(value["path"]),
        copies=tuple(map(Path, value["copies"])),
        photo=Photo(
            hash=value["id"], **{k: v for k, v in value.items() if k in _PHOTO and k != "hash"}
        ),
        relevance=value["relevance"],
        explanation=None
        if how is None
        else Explanation(how["photo_weight"], tuple(how["terms"]), how["together"]),
        match=value["match"],
    )
