"""The application: the API, the page's files, and errors as problem details (RFC 9457).

The page is a handful of files of the package, read once: no path of a request reaches the disk.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from importlib.resources import files
from urllib.parse import parse_qs

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from indexes.errors import IndexBusyError, IndexDamagedError, RetrievalError, StorageError
from retrieval import __version__
from retrieval.errors import PhotoError
from retrieval.server import models
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
_PAGES = {"/": "index.html", "/login": "login.html", "/docs": "docs.html"}


def create_app(engine: Engine, options: ServeOptions, tokens: Tokens | None) -> Guard:
    """The whole ASGI application. tokens: None if no token is needed."""
    metrics = Metrics()

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        import asyncio

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
    _add_pages(app, tokens)
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


def _add_pages(app: FastAPI, tokens: Tokens | None) -> None:
    folder = files("retrieval.server") / "static"
    contents = {item.name: item.read_bytes() for item in folder.iterdir() if item.is_file()}
    tags = {name: f'"{sha256(data).hexdigest()[:20]}"' for name, data in contents.items()}

    def send(request: Request, name: str) -> Response:
        if name not in contents:
            raise HTTPException(404, "There is no such page.")
        headers = {"ETag": tags[name], "Cache-Control": "private, no-cache"}
        if request.headers.get("if-none-match") == tags[name]:
            return Response(status_code=304, headers=headers)
        kind = _KINDS.get("." + name.rpartition(".")[2], "application/octet-stream")
        return Response(contents[name], headers=headers, media_type=kind)

    def add(path: str, name: str) -> None:
        @app.get(path, include_in_schema=False)
        async def page(request: Request) -> Response:
            return send(request, name)

    for path, name in _PAGES.items():
        add(path, name)

    @app.get("/static/{name}", include_in_schema=False)
    async def static(request: Request, name: str) -> Response:
        return send(request, name)

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
        return problem(error.status_code, str(error.detail), dict(error.headers or {}))

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
