"""One encoder for all readers: texts that arrive together are encoded as one batch.

`embed` collects what arrives while a batch is computed, or while readers have enough to do, and
encodes it as the next one; a reader then finds the rows in the cache. A text that is not there is
encoded where it is asked for.
"""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
from blake3 import blake3
from PIL import Image

from indexes.arrays import Array, Floats
from retrieval.encoders.base import Encoder

_CACHED = 4096  # rows
_BATCH = 64  # texts
_LONGEST_WAIT = 0.25  # seconds for more texts


class _Rows:
    """The rows that were used last. It may be used from many threads at once."""

    def __init__(self) -> None:
        self._rows: OrderedDict[Any, Floats] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: object) -> Floats | None:
        with self._lock:
            row = self._rows.get(key)
            if row is not None:
                self._rows.move_to_end(key)
            return row

    def put(self, key: object, row: Floats) -> None:
        with self._lock:
            self._rows[key] = row
            while len(self._rows) > _CACHED:
                self._rows.popitem(last=False)


class SharedEncoder:
    """An `Encoder` that remembers rows, and encodes texts in batches for `embed`."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.name, self.fingerprint = encoder.name, encoder.fingerprint
        self.dim, self.image_size = encoder.dim, encoder.image_size
        self._texts, self._photos = _Rows(), _Rows()
        self._waiting: list[tuple[Sequence[str], asyncio.Future[None]]] = []
        self._draining: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="encoder")

    @property
    def device(self) -> str:
        return self._encoder.device

    def prepare(self, photo: Image.Image) -> Array:
        return self._encoder.prepare(photo)

    def torch_module(self) -> Any:
        return self._encoder.torch_module()

    def encode_images(self, batch: Sequence[Array]) -> Floats:
        """Embed prepared photos: float32 [n, dim], unit rows."""
        keys = [blake3(np.ascontiguousarray(photo).data).digest() for photo in batch]
        rows = [self._photos.get(key) for key in keys]
        missing = [at for at, row in enumerate(rows) if row is None]
        if missing:
            encoded = self._encoder.encode_images([batch[at] for at in missing])
            for at, row in zip(missing, encoded, strict=True):
                self._photos.put(keys[at], row)
                rows[at] = row
        return _stacked(rows, self.dim)

    def encode_texts(self, texts: Sequence[str]) -> Floats:
        """Embed texts: float32 [n, dim], unit rows."""
        rows = [self._texts.get(text) for text in texts]
        missing = [at for at, row in enumerate(rows) if row is None]
        if missing:
            encoded = self._encoder.encode_texts([texts[at] for at in missing])
            for at, row in zip(missing, encoded, strict=True):
                self._texts.put(texts[at], row)
                rows[at] = row
        return _stacked(rows, self.dim)

    async def embed(self, texts: Sequence[str], turn: Callable[[], Awaitable[None]]) -> None:
        """Have these texts encoded, together with those of other requests that arrive now.

        turn: returns when the result is of use. More texts arrive until then, and a large batch
        takes a third of the time of single texts.

        Raises whatever the encoder raises.
        """
        missing = [text for text in texts if self._texts.get(text) is None]
        if not missing:
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((missing, done))
        if self._draining is None or self._draining.done():
            self._draining = asyncio.create_task(self._drain(turn))
        await done

    async def _drain(self, turn: Callable[[], Awaitable[None]]) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LONGEST_WAIT):
                    await turn()
            batch: list[tuple[Sequence[str], asyncio.Future[None]]] = []
            size = 0
            while self._waiting and (not batch or size + len(self._waiting[0][0]) <= _BATCH):
                batch.append(self._waiting.pop(0))
                size += len(batch[-1][0])
            texts = list(dict.fromkeys(text for some, _ in batch for text in some))
            error: BaseException | None = None
            try:
                await loop.run_in_executor(self._thread, self.encode_texts, texts)
            except Exception as raised:
                error = raised
            for _, done in batch:
                if done.cancelled():
                    continue
                if error is None:
                    done.set_result(None)
                else:
                    done.set_exception(error)

    def warm_up(self) -> None:
        """Load what the first photo and the first text would wait for."""
        blank = Image.new("RGB", (self.image_size, self.image_size))
        self.encode_texts(["a photo"])
        self.encode_images([self.prepare(blank)])

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


def _stacked(rows: Sequence[Floats | None], dim: int) -> Floats:
    if not rows:
        return np.empty((0, dim), np.float32)
    return np.stack([row for row in rows if row is not None])
