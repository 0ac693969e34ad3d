"""`retrieval mcp`: an assistant searches the photos, looks at them and reads what is known.

The official SDK of the Model Context Protocol over standard input and output; nothing is listened
to. It is read-only, and the assistant names photos by their content hash, never by a path.
"""

import functools
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec, TypeVar

from indexes.errors import RetrievalError
from indexes.index import Index
from retrieval.api import find_index
from retrieval.indexing.trust import check_trust
from retrieval.query import AnyPath

Params = ParamSpec("Params")
Result = TypeVar("Result")
_INSTRUCTIONS = (
    "Searches the photos on this machine by what they show and by their captions. Describe what a "
    'photo shows ("a dog on a beach"), not its file name. Photos have ids; view_photos shows them. '
    "Relevance is the probability that a photo matches, where it is known: below 0.15 nothing "
    "matches well."
)
_MOST_HITS, _MOST_VIEWED = 50, 8


def run_mcp(where: AnyPath | None = None, trust: bool = False) -> None:
    """Serve an index to an assistant over standard input and output, until these are closed.

    where: as for `find_index`; trust: as for `open`. Needs the extra `mcp`. Raises RetrievalError.
    """
    try:
        import mcp  # noqa: F401
        import pydantic  # noqa: F401
    except ImportError as error:
        raise RetrievalError(
            f"`retrieval mcp` needs the package {error.name}: "
            "`pip install 'crossmodal-retrieval[mcp]'`, then run the same command again."
        ) from error
    folder = find_index(where)
    with Index.open(folder) as index:
        check_trust(index, trust)
    with tempfile.TemporaryDirectory() as cache:
        create_mcp(folder, Path(cache)).run("stdio")


def create_mcp(folder: Path, cache: Path) -> Any:
    """The MCP server of an index. cache: a folder for thumbnails."""
    from mcp.server.mcpserver import Image, MCPServer
    from mcp.types import ToolAnnotations
    from pydantic import Field

    from retrieval import __version__
    from retrieval.server import models
    from retrieval.server.engine import Engine, nearest_size

    engine = Engine(folder, cache, readers=1)
    read_only = ToolAnnotations(read_only_hint=True, open_world_hint=False)

    @asynccontextmanager
    async def life(_: object) -> AsyncIterator[None]:
        yield
        await engine.close()

    server = MCPServer("retrieval", version=__version__, instructions=_INSTRUCTIONS, lifespan=life)

    @server.tool(annotations=read_only)
    @_told
    async def search_photos(
        query: Annotated[str, Field(description="What the photos show.")] = "",
        without: Annotated[str, Field(description="What they should not show.")] = "",
        like: Annotated[list[str], Field(description="Ids of photos to resemble.")] = [],  # noqa: B006
        after: Annotated[str, Field(description="Taken on this day or later: 2024-05.")] = "",
        before: Annotated[str, Field(description="Taken before this day.")] = "",
        folder: Annotated[str, Field(description="Id of a folder, from describe_index.")] = "",
        order: Literal["relevance", "date"] = "relevance",
        k: Annotated[int, Field(ge=1, le=_MOST_HITS)] = 10,
    ) -> dict[str, Any]:
        """Find photos by words, by similar photos, or both; without either, the latest."""
        terms = [models.Term(kind="text", text=query)] if query.strip() else []
        terms += [models.Term(kind="photo", id=_photo_id(photo)) for photo in like]
        if without.strip():
            terms.append(models.Term(kind="text", text=without, wanted=False))
        request = models.SearchRequest(
            terms=terms,
            filters=models.Filters(
                folders=[folder] if folder else [], after=after or None, before=before or None
            ),
            sort=order,
            k=k,
            leave_out_examples=True,
        )
        found = await engine.search(request)
        keep = {"id", "rank", "relevance", "name", "path", "taken", "camera", "caption"}
        hits = [hit.model_dump(include=keep, exclude_none=True) for hit in found.hits]
        return {"verdict": found.verdict, "hits": hits}

    @server.tool(annotations=read_only)
    @_told
    async def view_photos(
        ids: Annotated[list[str], Field(min_length=1, max_length=_MOST_VIEWED)],
        size: Annotated[int, Field(ge=160, le=1280, description="Of the longer side.")] = 640,
    ) -> list[Image]:
        """Look at photos, in the order of their ids."""
        return [
            Image(data=await engine.thumbnail(_photo_id(photo), nearest_size(size)), format="webp")
            for photo in ids
        ]

    @server.tool(annotations=read_only)
    @_told
    async def photo_details(photo: Annotated[str, Field(description="Its id.")]) -> dict[str, Any]:
        """Captions, date, camera, place and files of a photo."""
        return (await engine.details(_photo_id(photo))).model_dump(exclude_none=True)

    @server.tool(annotations=read_only)
    @_told
    async def describe_index() -> dict[str, Any]:
        """How many photos there are, and their folders, months and cameras."""
        overview = (await engine.overview()).model_dump()
        photos = await engine.read(lambda index: index.catalogue.counts()["photos"])
        return {"photos": photos, **overview}

    return server


def _told(tool: Callable[Params, Awaitable[Result]]) -> Callable[Params, Awaitable[Result]]:
    """A tool whose errors reach the assistant as their sentences."""

    @functools.wraps(tool)
    async def call(*args: Params.args, **kwargs: Params.kwargs) -> Result:
        from mcp.server.mcpserver.exceptions import ToolError

        try:
            return await tool(*args, **kwargs)
        except (RetrievalError, ValueError) as error:  # what pydantic raises is a ValueError
            raise ToolError(str(error)) from error

    return call


def _photo_id(photo: str) -> str:
    if len(photo) != 64 or not set(photo) <= set("0123456789abcdef"):
        raise RetrievalError("This is not the id of a photo; search_photos gives ids.")
    return photo
