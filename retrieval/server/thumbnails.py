"""Thumbnails: WebP pictures of photos in a few sizes, kept on disk up to a bound.

They are computed by the rules for hostile files, in threads, and stored in the user's cache by the
content of the photo. The oldest go when there are too many bytes.
"""

import asyncio
import io
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from indexes.atomic_write import atomic_write
from indexes.regular_files import read_regular
from retrieval.errors import PhotoError
from retrieval.photos.decode import open_photo
from retrieval.photos.decoder_processes import DecoderProcesses
from retrieval.photos.size import default_max_megapixels, default_workers
from retrieval.server.readers import TooBusyError

SIZES = (160, 320, 640, 1280, 2048)
"""Pixels of the longer side, at most."""
_QUALITY, _METHOD = 80, 2  # of WebP: method 2 takes a third of the time of 4 for 3% more bytes
_MOST_BYTES = 8 << 20  # of one thumbnail

Opener = Callable[[], tuple[BinaryIO, str]]
"""Opens the file of a photo; gives it with its name."""


class Thumbnails:
    """Thumbnails of one index. folder: where they are kept; bound: bytes of all of them."""

    def __init__(self, folder: Path, bound: int, most_waiting: int) -> None:
        self._folder, self._bound, self._most = folder, bound, most_waiting
        self._workers = default_workers()
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="thumbnail")
        self._processes = DecoderProcesses()
        self._computing: dict[Path, asyncio.Future[bytes]] = {}
        self._lock = threading.Lock()
        self._bytes = sum(size for _, size, _ in self._files())

    def file(self, photo_hash: str, size: int) -> Path:
        """Where a thumbnail is, if it is there. photo_hash: 64 hexadecimal digits."""
        return self._folder / photo_hash[:2] / f"{photo_hash}-{size}.webp"

    def stored(self, photo_hash: str, size: int) -> bytes | None:
        """A thumbnail that was computed before."""
        try:
            return read_regular(self.file(photo_hash, size), _MOST_BYTES)
        except OSError:
            return None

    async def compute(self, photo_hash: str, size: int, opened: Opener) -> bytes:
        """Compute a thumbnail and store it; raises PhotoError, OSError or TooBusyError.

        opened: is called in a thread of the pool. Who asks for what is being computed waits for it.
        """
        file = self.file(photo_hash, size)
        if file not in self._computing:
            if len(self._computing) >= self._most:
                raise TooBusyError
            loop = asyncio.get_running_loop()
            work = loop.run_in_executor(self._pool, self._work, file, opened, size)
            self._computing[file] = work
            work.add_done_callback(lambda _: self._computing.pop(file, None))
        return await asyncio.shield(self._computing[file])

    def _work(self, file: Path, opened: Opener, size: int) -> bytes:
        source, name = opened()
        with source:
            data = self.draw(source, name, size)
        with suppress(OSError):  # without the cache it is computed again
            file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(file) as temporary:
                temporary.write_bytes(data)
            self._grow(len(data))
        return data

    def draw(self, source: BinaryIO, name: str, size: int) -> bytes:
        """The photo in a file as WebP, no side longer than `size`; raises PhotoError."""
        limit = default_max_megapixels(self._workers)
        photo, _ = open_photo(source, name, limit, size // 2, None, self._processes)
        return as_webp(photo, size)

    def _grow(self, size: int) -> None:
        with self._lock:
            self._bytes += size
            if self._bytes <= self._bound:
                return
            files = sorted(self._files())
            self._bytes = sum(size for _, size, _ in files)
            for _, size, path in files:  # a tenth more than has to go, so that this is rare
                if self._bytes <= self._bound * 0.9:
                    break
                with suppress(OSError):
                    path.unlink()
                self._bytes -= size

    def _files(self) -> list[tuple[int, int, Path]]:
        """(time, bytes, path) of every thumbnail that is stored."""
        found = []
        for folder, _, names in os.walk(self._folder):
            for name in names:
                path = Path(folder, name)
                with suppress(OSError):
                    state = path.lstat()
                    found.append((state.st_mtime_ns, state.st_size, path))
        return found

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._processes.__exit__(None, None, None)


def as_webp(photo: Image.Image, size: int) -> bytes:
    """An RGB photo as WebP, no side longer than `size` pixels."""
    if photo.width * 50 < photo.height or photo.height * 50 < photo.width:
        raise PhotoError("too long and thin for a thumbnail")
    photo.thumbnail((size, size), Image.Resampling.BICUBIC, reducing_gap=2.0)
    buffer = io.BytesIO()
    photo.save(buffer, "WEBP", quality=_QUALITY, method=_METHOD)
    return buffer.getvalue()
