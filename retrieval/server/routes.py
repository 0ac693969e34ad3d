"""The routes of the HTTP API, version 1: each passes a checked request to the engine.

Everything is documented in the OpenAPI description that FastAPI writes; `/docs` shows it.
"""

from collections.abc import Callable
from typing import Annotated, Any, BinaryIO

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from indexes.index import Index
from retrieval.errors import PhotoError
from retrieval.server import models
from retrieval.server.engine import Engine, NotFoundError, nearest_size
from retrieval.server.exports import Exports, as_csv, as_zip
from retrieval.server.metrics import Metrics
from retrieval.server.options import LIMITS
from retrieval.server.originals import open_original, send_original
from retrieval.server.sidecars import as_sidecars

_PROBLEM = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}


def problems(*codes: int) -> dict[int | str, dict[str, Any]]:
    """The errors that a route may answer with, for its description."""
    named = {
        400: "The request makes no sense.",
        401: "The token is missing.",
        403: "Another site asks.",
        404: "There is no such photo.",
        409: "It cannot be done now.",
        413: "The request is too large.",
        422: "A value of the request is wrong.",
        429: "Too many requests at once.",
        503: "The index cannot be read now.",
    }
    codes = (400, 401, 403, 413, 422, 429, 503, *codes)
    return {code: {"description": named[code], "content": _PROBLEM} for code in codes}


def picture(kind: str) -> dict[int | str, dict[str, Any]]:
    """The description of an answer that is no JSON."""
    content = {kind: {"schema": {"type": "string", "format": "binary"}}}
    return {200: {"description": "The content.", "content": content}}


def json(value: Any, status: int = 200) -> Response:
    """A model of `retrieval.server.models` as a response."""
    return Response(value.model_dump_json(), status, media_type="application/json")


def api(engine: Engine, metrics: Metrics) -> APIRouter:
    """All routes."""
    router = APIRouter(prefix="/api/v1", responses=problems())
    _add_searching(router, engine)
    _add_photos(router, engine)
    _add_notes(router, engine)
    _add_exports(router, engine)
    _add_index(router, engine)
    outside = APIRouter()

    @outside.get("/health", response_model=models.Health, tags=["server"])
    async def health() -> Response:
        """Whether the server answers. Needs no token."""
        return json(models.Health(status="ok"))

    @outside.get(
        "/metrics",
        tags=["server"],
        responses=picture("text/plain"),
        response_class=Response,
    )
    async def show_metrics() -> Response:
        """Counts for Prometheus."""
        metrics.photos.set(engine.photo_count)
        metrics.waiting.set(engine.readers.waiting)
        metrics.indexing.set(engine.jobs.is_running)
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    outside.include_router(router)
    return outside


def _add_searching(router: APIRouter, engine: Engine) -> None:
    @router.post("/search", response_model=models.SearchResponse, tags=["search"])
    async def search(request: models.SearchRequest) -> Response:
        """Photos that fit terms and filters, best first; without terms, the latest first."""
        return json(await engine.search(request))

    @router.get(
        "/photos/{photo}/similar",
        response_model=models.SearchResponse,
        responses=problems(404),
        tags=["search"],
    )
    async def similar(
        photo: models.PhotoId, k: Annotated[int, Query(ge=1, le=LIMITS.page)] = 60
    ) -> Response:
        """The photos that look most like one, which is left out."""
        await engine.details(photo)
        term = models.Term(kind="photo", id=photo)
        request = models.SearchRequest(terms=[term], k=k, leave_out_examples=True)
        return json(await engine.search(request))

    @router.post(
        "/photos/{photo}/explanation",
        response_model=models.Explanation,
        responses=problems(404),
        tags=["search"],
    )
    async def explain(photo: models.PhotoId, request: models.SearchRequest) -> Response:
        """How the score of one photo is computed for a query, whether it was found or not."""
        return json(await engine.explain(photo, request))

    @router.post(
        "/examples",
        response_model=models.Example,
        status_code=201,
        tags=["search"],
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}
                },
            }
        },
    )
    async def add_example(request: Request) -> Response:
        """Upload an example photo, as the body of the request, to use it as a term."""
        return json(await engine.add_example(await request.body()), 201)


def _add_photos(router: APIRouter, engine: Engine) -> None:
    @router.get(
        "/photos/{photo}", response_model=models.Details, responses=problems(404), tags=["photos"]
    )
    async def photo_details(photo: models.PhotoId) -> Response:
        """All that is known of a photo."""
        return json(await engine.details(photo))

    @router.get(
        "/photos/{photo}/thumbnail",
        responses=problems(404) | picture("image/webp"),
        response_class=Response,
        tags=["photos"],
    )
    async def thumbnail(
        request: Request,
        photo: models.PhotoId,
        size: Annotated[int, Query(ge=1, le=4096, description="Of the longer side.")] = 320,
    ) -> Response:
        """A photo as WebP, in the smallest of the sizes 160, 320, 640, 1280 and 2048 that has as
        many pixels."""
        chosen = nearest_size(size)
        tag = f'"{photo[:16]}-{chosen}"'
        headers = {"ETag": tag, "Cache-Control": "private, max-age=31536000, immutable"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        data = await engine.thumbnail(photo, chosen)
        return Response(data, headers=headers, media_type="image/webp")

    @router.api_route(
        "/photos/{photo}/original",
        methods=["GET", "HEAD"],
        responses=problems(404) | picture("application/octet-stream"),
        response_class=Response,
        tags=["photos"],
        include_in_schema=False,
    )
    async def head_original(request: Request, photo: models.PhotoId) -> Response:
        found = await engine.readers.run(
            lambda index: index.read(lambda: open_original(index, photo))
        )
        if found is None:
            raise NotFoundError
        return send_original(request, *found)

    @router.get(
        "/photos/{photo}/original",
        responses=problems(404) | picture("application/octet-stream"),
        response_class=Response,
        tags=["photos"],
    )
    async def original(request: Request, photo: models.PhotoId) -> Response:
        """The file of a photo as it is. Answers range requests."""
        return await head_original(request, photo)


def _add_notes(router: APIRouter, engine: Engine) -> None:
    @router.post("/notes", response_model=models.Noted, responses=problems(409), tags=["photos"])
    async def add_note(request: models.NoteRequest) -> Response:
        """Give photos a caption or keyword of the user's own. It is kept in the index; no file is
        changed. Searches find it after the index run that this starts."""
        return json(models.Noted(photos=await engine.note(request, remove=False)))

    @router.post(
        "/notes/removed", response_model=models.Noted, responses=problems(409), tags=["photos"]
    )
    async def remove_note(request: models.NoteRequest) -> Response:
        """Take a caption or keyword of the user's own back."""
        return json(models.Noted(photos=await engine.note(request, remove=True)))


def _add_exports(router: APIRouter, engine: Engine) -> None:
    exports = Exports()

    @router.post("/exports", response_model=models.Export, status_code=201, tags=["photos"])
    async def export(selected: models.Selection) -> Response:
        """Prepare selected photos for download."""
        return json(await engine.read(lambda index: exports.prepare(index, selected)), 201)

    @router.get(
        "/exports/{token}/photos.csv",
        responses=problems(404) | picture("text/csv"),
        response_class=Response,
        tags=["photos"],
    )
    async def export_csv(token: models.Name) -> Response:
        """The selected photos as a list."""
        hashes = exports.of(token)
        data = await engine.read(lambda index: as_csv(index, hashes))
        headers = {"Content-Disposition": 'attachment; filename="photos.csv"'}
        return Response(data, headers=headers, media_type="text/csv; charset=utf-8")

    @router.get(
        "/exports/{token}/photos.zip",
        responses=problems(404) | picture("application/zip"),
        response_class=Response,
        tags=["photos"],
    )
    async def export_zip(token: models.Name) -> Response:
        """The files of the selected photos."""
        hashes = exports.of(token)
        headers = {"Content-Disposition": 'attachment; filename="photos.zip"'}
        pieces = as_zip(hashes, _opener(engine))
        return StreamingResponse(pieces, headers=headers, media_type="application/zip")

    @router.get(
        "/exports/{token}/sidecars.zip",
        responses=problems(404) | picture("application/zip"),
        response_class=Response,
        tags=["photos"],
    )
    async def export_sidecars(token: models.Name) -> Response:
        """XMP sidecars with the user's own captions and keywords, for the folders of the photos."""
        hashes = exports.of(token)
        data = await engine.read(lambda index: as_sidecars(index, hashes))
        headers = {"Content-Disposition": 'attachment; filename="sidecars.zip"'}
        return Response(data, headers=headers, media_type="application/zip")


def _opener(engine: Engine) -> Callable[[str], tuple[BinaryIO, str]]:
    """Opens photos for a zip, in the thread that writes it."""

    def opened(digest: str) -> tuple[BinaryIO, str]:
        with Index.open(engine.folder) as index:
            found = index.read(lambda: open_original(index, digest))
        if found is None:
            raise PhotoError("it is not in the index any more")
        return found[0], found[1]

    return opened


def _add_index(router: APIRouter, engine: Engine) -> None:
    @router.get("/overview", response_model=models.Overview, tags=["index"])
    async def overview() -> Response:
        """The folders, months and cameras that photos can be filtered by."""
        return json(await engine.overview())

    @router.get("/status", response_model=models.Status, tags=["index"])
    async def status() -> Response:
        """What is indexed, and how far an index run is."""
        return json(await engine.status())

    @router.post(
        "/indexing",
        response_model=models.Indexing,
        status_code=202,
        responses=problems(409),
        tags=["index"],
    )
    async def start_indexing() -> Response:
        """Bring the index up to date with its folders. Searches go on meanwhile."""
        if not engine.jobs.start():
            return json(
                models.Problem(
                    title="Conflict", status=409, detail="The photos are being indexed already."
                ),
                409,
            )
        return json(engine.jobs.state, 202)

    @router.delete("/indexing", response_model=models.Indexing, tags=["index"])
    async def stop_indexing() -> Response:
        """Stop the index run; what it committed stays."""
        await engine.jobs.stop()
        return json(engine.jobs.state)

    @router.get(
        "/events", responses=picture("text/event-stream"), response_class=Response, tags=["index"]
    )
    async def events() -> Response:
        """Server-sent events: `indexing` (how far a run is) and `changed` (the index changed)."""
        return StreamingResponse(engine.events.stream(), media_type="text/event-stream")
