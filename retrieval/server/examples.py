"""Example photos that people upload to search with: decoded by the rules for hostile files, kept.

What is kept is not the upload but its pixels, at the size that the model needs. An upload that is a
photo of the index becomes that photo. The oldest go when there are too many.
"""

import io
import re
from contextlib import suppress
from pathlib import Path

from blake3 import blake3

from indexes.atomic_write import atomic_write
from indexes.index import Index
from indexes.regular_files import is_regular
from retrieval.errors import PhotoError, QueryError
from retrieval.photos.decode import open_photo
from retrieval.photos.decoder_processes import DecoderProcesses
from retrieval.photos.size import default_max_megapixels, default_workers
from retrieval.server import models
from retrieval.server.options import LIMITS

_ID = re.compile("[0-9a-f]{64}")
_LONGEST = 40  # times the shorter side


class Examples:
    """Uploaded photos. folder: where they are kept; most: how many."""

    def __init__(self, folder: Path, most: int) -> None:
        self._folder, self._most = folder, most

    def path(self, example_id: str) -> str:
        """The file of an example; raises QueryError if it is not kept any more."""
        file = self._folder / f"{example_id}.png"
        if not _ID.fullmatch(example_id) or not is_regular(file):
            raise QueryError("This example photo is no longer kept. Add it to the query again.")
        return str(file)

    def add(self, index: Index, data: bytes, image_size: int) -> models.Example:
        """Take an upload; raises PhotoError, with a sentence, if it is not a photo.

        image_size: the side, in pixels, of the square that the model sees.
        """
        digest = blake3(data).hexdigest()
        number = index.catalogue.photos.ids([digest]).get(digest)
        if number is not None:
            photo = index.catalogue.photos.get([number])[number][0]
            return models.Example(kind="photo", id=digest, width=photo.width, height=photo.height)
        limit = min(default_max_megapixels(default_workers()), LIMITS.megapixels)
        try:
            with DecoderProcesses() as processes:
                decoded, _ = open_photo(io.BytesIO(data), "", limit, image_size, None, processes)
            if max(decoded.size) > _LONGEST * min(decoded.size):
                raise PhotoError("too long and thin")
        except PhotoError as error:
            raise PhotoError(f"The file cannot be used as a photo: {error}.") from error
        self._folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(self._folder / f"{digest}.png") as temporary:
            decoded.save(temporary, "PNG", compress_level=1)
        self._forget_oldest()
        return models.Example(kind="example", id=digest, width=decoded.width, height=decoded.height)

    def _forget_oldest(self) -> None:
        files = []
        for path in self._folder.glob("*.png"):
            with suppress(OSError):
                files.append((path.lstat().st_mtime_ns, path))
        for _, path in sorted(files)[: -self._most]:
            path.unlink(missing_ok=True)
