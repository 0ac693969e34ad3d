"""Decode and shrink JPEG files on a GPU, for the threads that read photos.

A thread that reads a photo requests it and waits; files requested at the same time are decoded in
one batch. The pixels return to host memory: they survive a failure of the GPU, and every later step
is the same as for any other photo.
"""

from __future__ import annotations

import io
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from PIL import Image

from indexes.lazy_imports import load_torch
from retrieval.encoders.base import Encoder

if TYPE_CHECKING:
    from torch import Tensor


def jpeg_decoder(encoder: Encoder) -> Callable[[bytes, int], Image.Image | None] | None:
    """`NvjpegDecoder.decode` for the GPU that an encoder runs on; None on the CPU."""
    if encoder.device == "cpu":
        return None
    decoder = nvjpeg_decoder(encoder.device)
    return None if decoder is None else decoder.decode


@cache
def nvjpeg_decoder(device: str) -> NvjpegDecoder | None:
    """The decoder of a GPU, shared by all threads; None where `device` has none that works."""
    if load_torch().device(device).type != "cuda":
        return None
    try:
        decoder = NvjpegDecoder(device)
        grey = io.BytesIO()
        Image.new("L", (16, 16), 128).save(grey, "JPEG")
        decoder.decode_batch([_Request(grey.getvalue(), 2)])
    except (ImportError, AttributeError, RuntimeError):
        return None  # torchvision without nvJPEG, or without any decoder
    return decoder


@dataclass(frozen=True)
class _Request:
    """A file to decode, the factor to shrink it by, and the photo once it is decoded."""

    data: bytes
    shrink: int
    photo: Future[Image.Image | None] = field(default_factory=Future)


class NvjpegDecoder:
    """Decodes on `device`; `cpu` does the same without a GPU. Safe to call from many threads."""

    def __init__(self, device: str) -> None:
        """Raises ImportError if torchvision is not installed."""
        from torchvision import io as torchvision_io

        torch = load_torch()
        self._io, self._device = torchvision_io, device
        self._pending: deque[_Request] = deque()
        self._lock = threading.Lock()
        self._stream = None
        if torch.device(device).type == "cuda":  # its own stream, so it never waits for the encoder
            self._stream = torch.cuda.Stream(device, priority=-1)

    def decode(self, data: bytes, shrink: int) -> Image.Image | None:
        """The photo of a JPEG file in RGB, not rotated; a pixel is the mean of `shrink` × `shrink`.

        None if the GPU cannot decode it; Pillow may still be able to.
        """
        request = _Request(data, shrink)
        self._pending.append(request)
        # The thread that enters serves all requests, so none waits for two batches.
        with self._lock:
            batch = [self._pending.popleft() for _ in range(len(self._pending))]
            if batch:
                self._serve(batch)
        return request.photo.result()

    def _serve(self, batch: Sequence[_Request]) -> None:
        """Answer every request; if the batch fails, decode each file by itself."""
        try:
            photos: Sequence[Image.Image | None] = self.decode_batch(batch)
        except Exception:
            # Any error: threads wait for an answer, and Pillow will report the reason.
            if len(batch) > 1:
                for request in batch:
                    self._serve([request])
                return
            photos = [None]
        for request, photo in zip(batch, photos, strict=True):
            request.photo.set_result(photo)

    def decode_batch(self, batch: Sequence[_Request]) -> list[Image.Image]:
        """Decode all files in one call. Raises RuntimeError if one of them is damaged."""
        torch = load_torch()
        files = [torch.frombuffer(bytearray(r.data), dtype=torch.uint8) for r in batch]
        stream: Any = torch.cuda.stream(self._stream) if self._stream else nullcontext()
        with torch.inference_mode(), stream:
            decoded = self._io.decode_jpeg(files, self._io.ImageReadMode.RGB, device=self._device)
            small = [_shrink(d, r.shrink) for d, r in zip(decoded, batch, strict=True)]
            return [Image.fromarray(pixels.cpu().numpy()) for pixels in small]


def _shrink(photo: Tensor, factor: int) -> Tensor:
    """uint8 [3, H, W] -> uint8 [ceil(H / factor), ceil(W / factor), 3], as Pillow's `reduce`."""
    mean = load_torch().nn.functional.avg_pool2d(
        photo.float(), factor, ceil_mode=True, count_include_pad=False
    )
    small: Tensor = mean.round().to(photo.dtype).permute(1, 2, 0).contiguous()
    return small
