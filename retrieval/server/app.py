"""The application: the API, the page's files, and errors as problem details (RFC 9457).

The page is a handful of files of the package, read once: no path of a request reaches the disk.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from importlib.resources import files
from urllib.parse import parse_qs

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from starlette.exceptions import HTTPException

from indexes.errors import IndexBusyError, IndexDamagedError, RetrievalError, StorageError
from retrieval import __version__
from retrieval.errors import PhotoError
from retrieval.server import first_page, models
from retrieval.server.auth import Tokens
from retrieval.server.engine import Engine, NotFoundError
from retrieval.server.exports import ExpiredError
from retrieval.server.guard import Guard, cookie_header
from retrieval.server.metrics import Metrics
from retrieval.server.options import ServeOptions
from retrieval.server.readers import TooBusyError
from retrieval.server.routes import api
from retrieval.server.watch import watch

_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
_PAGES = {"/login": "login.html", "/docs": "docs.html"}
_SENTENCES = {  # for those of Starlette, which are none
    "Not Found": "There is nothing at this address. The photos are at /, the API is at /docs.",
    "Method Not Allowed": "This address does not take this method; /docs describes those it takes.",
}
_FOREVER = "private, max-age=31536000, immutable"
_PATIENCE = 0.5  # seconds that the page waits for its first hits


def create_app(engine: Engine, options: ServeOptions, tokens: Tokens | None) -> Guard:
    """The whole ASGI application. tokens: None if no token is needed."""
    metrics = Metrics()

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        await engine.start()
        watching = None
        if options.watch:
            engine.jobs.set_watching()
            changed = engine.jobs.start_or_follow
            watching = asyncio.create_task(watch(engine.roots, engine.folder, changed))
        yield
        if watching is not None:
            watching.cancel()
        await engine.close()

    app = FastAPI(
        title="retrieval",
        version=__version__,
        description="Find photos by describing them: text, example photos or both.",
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/v1/openapi.json",
        lifespan=life,
        responses={},
    )
    app.include_router(api(engine, metrics))
    _add_pages(app, engine, tokens)
    _add_errors(app)
    _describe(app)
    hosts = (*options.allowed_hosts, options.host)
    return Guard(app, hosts, tokens, metrics)


def _describe(app: FastAPI) -> None:
    """Put the model of errors into the description, in place of FastAPI's own."""
    plain = app.openapi

    def openapi() -> dict[str, object]:
        if app.openapi_schema is None:
            described = plain()
            schemas = described.setdefault("components", {}).setdefault("schemas", {})
            schemas["Problem"] = models.Problem.model_json_schema()
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _add_pages(app: FastAPI, engine: Engine, tokens: Tokens | None) -> None:
    folder = files("retrieval.server") / "static"
    contents = {item.name: item.read_bytes() for item in folder.iterdir() if item.is_file()}
    version = sha256(b"".join(contents[name] for name in sorted(contents))).hexdigest()[:16]
    for name in contents:
        if name.endswith(".html"):  # what these load has an address for each version
            contents[name] = contents[name].replace(b"/static/", f"/static/{version}/".encode())

    def send(name: str, kept: str = "no-store") -> Response:
        if name not in contents:
            raise HTTPException(404, "There is no such page.")
        kind = _KINDS.get("." + name.rpartition(".")[2], "application/octet-stream")
        return Response(contents[name], headers={"Cache-Control": kept}, media_type=kind)

    def add(path: str, name: str) -> None:
        @app.get(path, include_in_schema=False)
        async def page() -> Response:
            return send(name)

    for path, name in _PAGES.items():
        add(path, name)

    head, body_end, tail = contents["index.html"].partition(b"</body>")

    @app.get("/", include_in_schema=False)
    async def photos(request: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            yield head  # scripts and styles are loaded while the index is searched
            # Whatever is wrong, the page asks again and says it.
            with suppress(RetrievalError, OSError, ValueError, TimeoutError):
                asked = first_page.asked(request.url.query)
                async with asyncio.timeout(_PATIENCE):
                    found = await engine.search(models.SearchRequest.model_validate(asked))
                yield first_page.data(asked, found)
            yield body_end + tail

        headers = {"Cache-Control": "private, no-cache"}
        return StreamingResponse(parts(), headers=headers, media_type=_KINDS[".html"])

    @app.get("/static/{version}/{name}", include_in_schema=False)
    async def static(name: str) -> Response:
        return send(name, _FOREVER)

    @app.post("/login/token", include_in_schema=False)
    async def log_in(request: Request) -> Response:
        body = (await request.body()).decode("utf-8", "replace")
        token = parse_qs(body).get("token", [""])[0].strip()
        if tokens is None or tokens.fits(token):
            headers = {"Location": "/"}
            if tokens is not None:
                headers["Set-Cookie"] = cookie_header(token)
            return Response(status_code=303, headers=headers)
        return Response(status_code=303, headers={"Location": "/login?wrong=1"})


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(RetrievalError)
    async def refused(_: Request, error: RetrievalError) -> Response:
        status = 400
        if isinstance(error, NotFoundError | ExpiredError):
            status = 404
        elif isinstance(error, TooBusyError):
            status = 429
        elif isinstance(error, PhotoError):
            status = 422
        elif isinstance(error, IndexBusyError):
            status = 409
        elif isinstance(error, IndexDamagedError | StorageError):
            status = 503
        return problem(status, str(error))

    @app.exception_handler(RequestValidationError)
    async def wrong(_: Request, error: RequestValidationError) -> Response:
        found = error.errors()[:5]
        parts = [
            f"{'.'.join(str(part) for part in e['loc'][1:])}: {e['msg']}".lstrip(": ")
            for e in found
        ]
        return problem(422, "; ".join(parts)[:1000] + ".")

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> Response:
        detail = _SENTENCES.get(str(error.detail), str(error.detail))
        return problem(error.status_code, detail, dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def internal(_: Request, error: Exception) -> Response:
        return problem(
            500,
            f"Internal error ({type(error).__name__}). Nothing in the index is lost; the terminal "
            "of the server shows where it happened.",
        )


def problem(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    """An error as problem details."""
    from http import HTTPStatus

    value = models.Problem(title=HTTPStatus(status).phrase, status=status, detail=detail)
    given = dict(headers or {}) | ({"Retry-After": "1"} if status in (429, 503) else {})
    return Response(value.model_dump_json(), status, given, "application/problem+json")
