"""The engine behind the routes: readers, encoder, caches and index runs of one index.

One for a server, or for an assistant (`retrieval.server.mcp_server`). Its methods are called from
one event loop; the work is done in threads.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from threadpoolctl import ThreadpoolController

from indexes.errors import RetrievalError
from indexes.index import Index
from indexes.lock import lock
from indexes.notes import Note
from retrieval.encoders.base import Encoder
from retrieval.encoders.registry import load_encoder_of
from retrieval.errors import QueryError
from retrieval.server import models
from retrieval.server.browsing import details, overview
from retrieval.server.encoder import SharedEncoder
from retrieval.server.events import Events
from retrieval.server.examples import Examples
from retrieval.server.jobs import Jobs
from retrieval.server.options import LIMITS
from retrieval.server.originals import open_original
from retrieval.server.readers import Readers, TooBusyError
from retrieval.server.searching import Searches
from retrieval.server.thumbnails import SIZES, Thumbnails

Result = TypeVar("Result")
_LOOK_SECONDS = 1.0  # between looks for what other processes committed
_NOT_TEXT = ("templates",)  # rankings that encode other texts than those of the query


class NotFoundError(RetrievalError):
    """There is no such photo in the index."""

    def __init__(self, sentence: str = "This photo is not in the index, or not any more.") -> None:
        super().__init__(sentence)


class Engine:
    """All that answers requests about one index.

    folder: of the index; cache: a folder for what can be computed again.
    """

    def __init__(self, folder: Path, cache: Path, readers: int) -> None:
        """Load the encoder; raises RetrievalError."""
        self.folder = folder.resolve()
        self._lock = threading.Lock()
        # Readers search at the same time: threads inside their small products would only wait for
        # each other, and take three times the processor time.
        self._blas = ThreadpoolController().limit(limits=1, user_api="blas")
        with Index.open(self.folder) as index:
            self._encoder = SharedEncoder(load_encoder_of(index.model))
            self.roots = [root.path for root in index.roots()]
        self.readers = Readers(self.folder, readers, LIMITS.waiting)
        self._background = Readers(self.folder, 1, LIMITS.waiting, "background")
        self._pictures = Readers(self.folder, 1, LIMITS.pictures, "pictures")
        self._uploads = Readers(self.folder, 1, LIMITS.waiting, "upload")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self.thumbnails = Thumbnails(cache / "thumbnails", LIMITS.thumbnails, LIMITS.pictures)
        self._examples = Examples(cache / "examples", LIMITS.examples)
        self._searches = Searches()
        self.events = Events()
        self.jobs = Jobs(
            self.folder, lambda state: self.events.publish("indexing", state.model_dump())
        )
        self.searching = 0
        self._known: set[str] = set()
        self._counts: dict[str, int] = {}
        self._looking: asyncio.Task[None] | None = None

    # Searching ---------------------------------------------------------------------------------

    async def search(self, request: models.SearchRequest) -> models.SearchResponse:
        """A page of hits; raises RetrievalError."""
        if self.searching >= LIMITS.waiting:
            raise TooBusyError
        self.searching += 1
        try:
            texts = [term.text for term in request.terms if term.text]
            if texts and request.ranking not in _NOT_TEXT and request.cursor is None:
                await self._encoder.embed(texts, self.readers.room)
            return await self.readers.run(
                lambda index: self._searches.page(
                    index, request, self._examples.path, lambda: self._encoder_of(index)
                )
            )
        finally:
            self.searching -= 1

    async def explain(self, photo: str, request: models.SearchRequest) -> models.Explanation:
        """How the score of a photo is computed; raises NotFoundError."""
        found = await self.readers.run(
            lambda index: self._searches.explain(
                index, request, photo, self._examples.path, lambda: self._encoder_of(index)
            )
        )
        if found is None:
            raise NotFoundError("This photo has no score for this query.")
        return found

    def _encoder_of(self, index: Index) -> Encoder:
        """The encoder; another one is loaded if the index was rebuilt with another model."""
        with self._lock:
            if self._encoder.fingerprint != index.model.fingerprint:
                self._encoder = SharedEncoder(load_encoder_of(index.model))
            return self._encoder

    async def add_example(self, data: bytes) -> models.Example:
        """Take an uploaded photo to search with; raises PhotoError."""
        size = self._encoder.image_size
        return await self._uploads.run(lambda index: self._examples.add(index, data, size))

    # Photos ------------------------------------------------------------------------------------

    async def details(self, photo: str) -> models.Details:
        """All that is known of a photo; raises NotFoundError."""
        found = await self.readers.run(lambda index: index.read(lambda: details(index, photo)))
        if found is None:
            raise NotFoundError
        return found

    async def thumbnail(self, photo: str, size: int) -> bytes:
        """A photo as WebP; raises NotFoundError, PhotoError or TooBusyError."""
        if photo not in self._known:
            known = await self._pictures.run(lambda index: index.catalogue.photos.ids([photo]))
            if not known:
                raise NotFoundError
            self._known.add(photo)
        stored = self.thumbnails.stored(photo, size)
        if stored is not None:
            return stored
        found = await self._pictures.run(
            lambda index: index.read(lambda: open_original(index, photo))
        )
        if found is None:
            raise NotFoundError
        file, name, _ = found
        return await self.thumbnails.compute(photo, size, lambda: (file, name))

    async def overview(self) -> models.Overview:
        """Folders, months and cameras."""
        return await self.read(overview)

    async def read(self, work: Callable[[Index], Result]) -> Result:
        """What `work` reads, of one version of the index, where it does not hinder searches."""
        return await self._background.run(lambda index: index.read(lambda: work(index)))

    async def note(self, request: models.NoteRequest, remove: bool) -> int:
        """Note something about photos, or take it back; returns how many are in the index.

        Searches find it after an index run, which is started. Raises IndexBusyError while another
        process changes the index.
        """
        note = Note(request.kind, _without_controls(request.text))

        def write() -> int:
            with lock(self.folder), Index.open(self.folder, writable=True) as index:
                known = index.catalogue.photos.ids(request.ids)
                change = index.catalogue.notes.remove if remove else index.catalogue.notes.add
                change(known, note)
                return len(known)

        count = await asyncio.get_running_loop().run_in_executor(self._writer, write)
        self.jobs.start_or_follow()
        return count

    # The index ---------------------------------------------------------------------------------

    async def status(self) -> models.Status:
        """What is indexed."""
        from retrieval import __version__

        def read(index: Index) -> models.Status:
            return models.Status(
                version=__version__,
                model=index.model.name,
                fusion=index.model.fusion,
                indexing=self.jobs.state,
                **index.catalogue.counts(),
            )

        return await self.read(read)

    async def start(self) -> None:
        """Warm up, and look for changes from now on."""
        loop = asyncio.get_running_loop()
        loop.run_in_executor(None, self._encoder.warm_up)
        self._looking = asyncio.create_task(self._look())

    async def _look(self) -> None:
        """Tell listeners when the index changes, whichever process changed it."""
        last: object = None
        while True:
            with suppress(RetrievalError):
                version, counts = await self.read(
                    lambda index: (index.catalogue.version(), index.catalogue.counts())
                )
                if last != (version, counts):
                    last = version, counts
                    self._known.clear()
                    self._counts = counts
                    self.events.publish("changed", {"photos": counts["photos"]})
            await asyncio.sleep(_LOOK_SECONDS)

    @property
    def photo_count(self) -> int:
        """How many photos could be found at the last look."""
        return self._counts.get("photos", 0)

    async def close(self) -> None:
        """End everything; what is computed now is done first."""
        self.events.close()
        if self._looking is not None:
            self._looking.cancel()
        await self.jobs.stop()
        parts = (self.readers, self._background, self._pictures, self._uploads)
        for part in (*parts, self.thumbnails, self._encoder):
            part.close()
        self._writer.shutdown()
        self._blas.restore_original_limits()


def _without_controls(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def nearest_size(size: int) -> int:
    """The smallest size of thumbnails that has at least `size` pixels, or the largest."""
    if size < 1:
        raise QueryError("A thumbnail has at least one pixel.")
    return next((known for known in SIZES if known >= size), SIZES[-1])
