"""What every request passes before the application: Host, origin, token and size are checked.

It also adds the headers that keep browsers from doing more than the page needs, and counts. What
a request means is decided behind it.
"""

import asyncio
import ipaddress
import json
import socket
import time
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from retrieval.server.auth import COOKIE, Tokens
from retrieval.server.metrics import Metrics
from retrieval.server.options import LIMITS

UPLOAD_PATH = "/api/v1/examples"
_OPEN_PATHS = ("/health", "/login", "/static/")
_PAGES = ("/", "/login", "/docs")
_BODY_SECONDS = 60.0
_UPLOADS = 4  # at the same time
_COOKIE_SECONDS = 30 * 24 * 3600
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob:; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "same-origin",  # with less, a form would come from the origin "null"
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cache-control": "no-store",
}
_FOREIGN_HOST = (
    "The Host header names another server. Open the page by the address that `retrieval serve` "
    "printed; --allow-host adds a name."
)
_WITHOUT = (
    "This server needs its token: `Authorization: Bearer TOKEN`. `retrieval serve` printed it when "
    "it was made; --new-token makes another."
)
_RAW_HEADERS = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
_NAMES = {name.encode() for name in _HEADERS}


class Guard:
    """The outermost layer. hosts: names that may stand in the Host header; tokens: None if none is
    needed."""

    def __init__(
        self, app: ASGIApp, hosts: tuple[str, ...], tokens: Tokens | None, metrics: Metrics
    ) -> None:
        self._app, self._tokens, self._metrics = app, tokens, metrics
        own = socket.gethostname().lower()
        self._hosts = {"localhost", own, *(host.lower() for host in hosts)}
        self._uploads = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        started, status = time.perf_counter(), 500

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = message.setdefault("headers", [])
                given = {name.lower() for name, _ in headers} & _NAMES
                message["headers"] = [*headers, *(h for h in _RAW_HEADERS if h[0] not in given)]
            await send(message)

        try:
            await self._guarded(scope, receive, send_guarded)
        finally:
            self._metrics.count(scope, status, time.perf_counter() - started)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {n.decode("latin-1"): v.decode("latin-1") for n, v in scope["headers"]}
        if not self._is_known(headers.get("host", "")):
            await _refuse(send, 421, _FOREIGN_HOST)
            return
        if not _is_own(scope, headers):
            await _refuse(send, 403, "The request comes from another site.")
            return
        if self._tokens is not None and not await self._let_in(scope, headers, send):
            return
        if scope["method"] in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        upload = scope["path"] == UPLOAD_PATH
        if upload and self._uploads >= _UPLOADS:
            await _refuse(send, 429, "Too many uploads at once. Try again in a second.")
            return
        self._uploads += upload
        try:
            body = await _read_body(headers, receive, LIMITS.upload if upload else LIMITS.body)
            if isinstance(body, int):
                detail = {
                    400: "The request has no proper length.",
                    408: "The request did not arrive in time.",
                    413: "The request is too large.",
                }[body]
                await _refuse(send, body, detail)
                return
            await self._app(scope, _replayed(body, receive), send)
        finally:
            self._uploads -= upload

    def _is_known(self, host: str) -> bool:
        """Whether a Host header is ours. An address cannot be rebound by a foreign DNS server."""
        name, _, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
        name, port = (name, port) if name and port.isdigit() else (host, "")
        name = name.lower().rstrip(".")
        if name in self._hosts:
            return True
        try:
            ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
        except ValueError:
            return False
        return True

    async def _let_in(self, scope: Scope, headers: dict[str, str], send: Send) -> bool:
        """Whether the request has the token; it is answered here if not."""
        assert self._tokens is not None
        path: str = scope["path"]
        if path == "/" and b"token=" in scope["query_string"]:
            given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
            right = self._tokens.fits(given)
            await _redirect(send, "/" if right else "/login?wrong=1", given if right else None)
            return False
        if path == "/login/token" or path.startswith(_OPEN_PATHS):
            return True
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self._tokens.fits(bearer.strip()):
            return True
        if self._tokens.fits(_cookie(headers.get("cookie", ""))):
            return True
        if path in _PAGES and scope["method"] == "GET":
            await _redirect(send, "/login")
        else:
            await _refuse(send, 401, _WITHOUT)
        return False


def _is_own(scope: Scope, headers: dict[str, str]) -> bool:
    """Whether a request comes from the server's own page, from a program, or opens a page."""
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2] != headers.get("host"):
        return False
    site = headers.get("sec-fetch-site", "none")
    if site in ("same-origin", "none"):
        return True
    return (
        scope["method"] == "GET"
        and scope["path"] in _PAGES
        and headers.get("sec-fetch-mode") == "navigate"
        and headers.get("sec-fetch-dest") == "document"
    )


def _cookie(header: str) -> str | None:
    try:
        found = SimpleCookie(header[:4096]).get(COOKIE)
    except CookieError:
        return None
    return None if found is None else found.value


async def _read_body(headers: dict[str, str], receive: Receive, most: int) -> bytes | int:
    """The whole body, or the status of the answer if it is too long or too slow."""
    length = headers.get("content-length", "0")
    if not length.isascii() or not length.isdigit():
        return 400
    if int(length) > most:
        return 413
    parts, size = [], 0
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return 400
                part = message.get("body", b"")
                size += len(part)
                if size > most:
                    return 413
                parts.append(part)
                if not message.get("more_body"):
                    return b"".join(parts)
    except TimeoutError:
        return 408


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives a body that was read before, then what comes after it."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def _refuse(send: Send, status: int, detail: str) -> None:
    from http import HTTPStatus

    title = HTTPStatus(status).phrase
    problem = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    body = json.dumps(problem).encode()
    headers = [(b"content-type", b"application/problem+json"), (b"connection", b"close")]
    if status == 429:
        headers.append((b"retry-after", b"1"))
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def cookie_header(token: str) -> str:
    """The cookie that lets a browser in."""
    return f"{COOKIE}={token}; Path=/; Max-Age={_COOKIE_SECONDS}; HttpOnly; SameSite=Strict"


async def _redirect(send: Send, target: str, token: str | None = None) -> None:
    headers = [(b"location", target.encode()), (b"content-length", b"0")]
    if token is not None:
        headers.append((b"set-cookie", cookie_header(token).encode()))
    await send({"type": "http.response.start", "status": 303, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
