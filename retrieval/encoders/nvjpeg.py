"""JPEG files decoded and made smaller by a graphics card, for the threads that read photos.

Whoever reads a photo asks for it and waits; what many ask for at the same time is decoded together.
Pixels come back to the host: there they survive the card, and everything after is as for any photo.
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
    """What decodes JPEG files on the card that an encoder computes on; None on the CPU."""
    if encoder.device == "cpu":
        return None
    decoder = nvjpeg_decoder(encoder.device)
    return None if decoder is None else decoder.decode


@cache
def nvjpeg_decoder(device: str) -> NvjpegDecoder | None:
    """The decoder of a card, one for all threads; None where `device` has none that works."""
    if load_torch().device(device).type != "cuda":
        return None
    try:
        decoder = NvjpegDecoder(device)
        grey = io.BytesIO()
        Image.new("L", (16, 16), 128).save(grey, "JPEG")
        decoder.decode_all([_Asked(grey.getvalue(), 2)])
    except (ImportError, AttributeError, RuntimeError):
        return None  # torchvision without nvJPEG, or without decoders at all
    return decoder


@dataclass(frozen=True)
class _Asked:
    """A file to decode, and how many times smaller to make it."""

    data: bytes
    shrink: int
    pixels: Future[Image.Image | None] = field(default_factory=Future)


class NvjpegDecoder:
    """Decodes on `device`; `cpu` does the same without a card. For any number of threads."""

    def __init__(self, device: str) -> None:
        """Raises ImportError where there is no torchvision."""
        from torchvision import io as torchvision_io

        torch = load_torch()
        self._io, self._device = torchvision_io, device
        self._waiting: deque[_Asked] = deque()
        self._lock = threading.Lock()
        self._stream = None
        if torch.device(device).type == "cuda":  # a stream of its own: never behind the encoder
            self._stream = torch.cuda.Stream(device, priority=-1)

    def decode(self, data: bytes, shrink: int) -> Image.Image | None:
        """The photo of a JPEG file in RGB, not turned; each pixel the mean of `shrink` × `shrink`.

        None where the card cannot decode it; it may still be a photo.
        """
        asked = _Asked(data, shrink)
        self._waiting.append(asked)
        with self._lock:  # who comes in serves all that wait, so nobody waits for two rounds
            together = [self._waiting.popleft() for _ in range(len(self._waiting))]
            if together:
                self._serve(together)
        return asked.pixels.result()

    def _serve(self, together: Sequence[_Asked]) -> None:
        """Answer each; if one makes all fail, each by itself."""
        try:
            photos: Sequence[Image.Image | None] = self.decode_all(together)
        except Exception:  # whatever it is: they wait for an answer, and Pillow tells the reason
            if len(together) > 1:
                for asked in together:
                    self._serve([asked])
                return
            photos = [None]
        for asked, photo in zip(together, photos, strict=True):
            asked.pixels.set_result(photo)

    def decode_all(self, together: Sequence[_Asked]) -> list[Image.Image]:
        """Decode them in one go; raises RuntimeError where one of them is damaged."""
        torch = load_torch()
        files = [torch.frombuffer(bytearray(a.data), dtype=torch.uint8) for a in together]
        with torch.inference_mode(), torch.cuda.stream(self._stream) if self._stream else _NOTHING:
            decoded = self._io.decode_jpeg(files, self._io.ImageReadMode.RGB, device=self._device)
            small = [_shrunk(d, a.shrink) for d, a in zip(decoded, together, strict=True)]
            return [Image.fromarray(pixels.cpu().numpy()) for pixels in small]


_NOTHING: Any = nullcontext()


def _shrunk(photo: Tensor, times: int) -> Tensor:
    """uint8 [3, H, W] -> uint8 [ceil(H / times), ceil(W / times), 3], as Pillow's `reduce`."""
    mean = load_torch().nn.functional.avg_pool2d(
        photo.float(), times, ceil_mode=True, count_include_pad=False
    )
    small: Tensor = mean.round().to(photo.dtype).permute(1, 2, 0).contiguous()
    return small
