"""Decode and shrink JPEG files on the GPU of a machine with few cores, for reading threads.

A thread that reads a photo requests it and waits; files requested at the same time are decoded in
one batch. The pixels return to host memory: they survive a failure of the GPU, and every later step
is the same as for any other photo.
"""

from __future__ import annotations

import io
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from PIL import Image

from indexes.arrays import Array
from indexes.lazy_imports import load_torch
from retrieval.encoders.base import Encoder

if TYPE_CHECKING:
    from torch import Tensor


# With so many cores Pillow is the faster one: its threads do not wait for a batch of the others
# (`retrieval benchmark throughput`: 682 and 510 photos a second on an H200 with 16 cores).
_ENOUGH_CORES = 8


def jpeg_decoder(encoder: Encoder) -> Callable[[bytes, int], Image.Image | None] | None:
    """`NvjpegDecoder.decode` for the GPU that an encoder runs on; None where Pillow is faster."""
    if encoder.device == "cpu" or (os.cpu_count() or 1) >= _ENOUGH_CORES:
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
    """A file to decode, the factor to shrink it by, and its pixels once they are decoded."""

    data: bytes
    shrink: int
    pixels: Future[Array | None] = field(default_factory=Future)


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
        pixels = request.pixels.result()
        return None if pixels is None else Image.fromarray(pixels)

    def _serve(self, batch: Sequence[_Request]) -> None:
        """Answer every request; if the batch fails, decode each file by itself."""
        try:
            decoded: Sequence[Array | None] = self.decode_batch(batch)
        except Exception:
            # Any error: threads wait for an answer, and Pillow will report the reason.
            if len(batch) > 1:
                for request in batch:
                    self._serve([request])
                return
            decoded = [None]
        for request, pixels in zip(batch, decoded, strict=True):
            request.pixels.set_result(pixels)

    def decode_batch(self, batch: Sequence[_Request]) -> list[Array]:
        """Decode all files in one call: uint8 [height, width, 3] each.

        Raises RuntimeError if one of them is damaged.
        """
        torch = load_torch()
        files = [torch.frombuffer(bytearray(r.data), dtype=torch.uint8) for r in batch]
        stream: Any = torch.cuda.stream(self._stream) if self._stream else nullcontext()
        with torch.inference_mode(), stream:
            decoded = self._io.decode_jpeg(files, self._io.ImageReadMode.RGB, device=self._device)
            small = [_shrink(d, r.shrink) for d, r in zip(decoded, batch, strict=True)]
            return [pixels.numpy() for pixels in self._on_host(small)]

    def _on_host(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Tensors of bytes in host memory: page-locked, so that all are copied without waiting."""
        if self._stream is None:
            return list(tensors)
        torch = load_torch()
        memory = torch.empty(sum(t.numel() for t in tensors), dtype=torch.uint8, pin_memory=True)
        parts = memory.split([t.numel() for t in tensors])
        copies = [part.view(t.shape) for part, t in zip(parts, tensors, strict=True)]
        for copy, tensor in zip(copies, tensors, strict=True):
            copy.copy_(tensor, non_blocking=True)
        self._stream.synchronize()
        return copies


def _shrink(photo: Tensor, factor: int) -> Tensor:
    """uint8 [3, H, W] -> uint8 [ceil(H / factor), ceil(W / factor), 3], as Pillow's `reduce`."""
    mean = load_torch().nn.functional.avg_pool2d(
        photo.float(), factor, ceil_mode=True, count_include_pad=False
    )
    small: Tensor = mean.round().to(photo.dtype).permute(1, 2, 0).contiguous()
    return small
