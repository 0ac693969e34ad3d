"""Make JPEG files of a given size from real photos, to measure throughput on.

Enlarged photos lack the fine grain of a camera's photo, which takes a decoder time, so grain is
added. Eight pictures are made and copied with different last bytes: to an index, each copy is
another photo.
"""

import io
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from retrieval.demo import copy_demo_photos
from retrieval.errors import QueryError
from retrieval.photos.decode import load_photo

_PICTURES = 8
_GRAIN = 5.0  # standard deviation, of 255; gives 12-megapixel files of about 3 MB, like a phone's


def make(folder: Path, megapixels: float, count: int, sources: Path | None = None) -> list[Path]:
    """Write `count` JPEG files of about `megapixels` to `folder`; returns their paths.

    sources: a folder of photos to make them from, by default those of the demo.
    Raises QueryError if `sources` has no JPEG photo, RetrievalError if the demo's are missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = [_jpeg(photo, megapixels, i) for i, photo in enumerate(_originals(sources))]
    paths = []
    for i in range(count):
        path = folder / f"{i:05d}.jpg"
        path.write_bytes(pictures[i % len(pictures)] + i.to_bytes(4, "big"))
        paths.append(path)
    return paths


def _originals(sources: Path | None) -> list[Image.Image]:
    if sources is not None:
        found = sorted(p for p in sources.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
        photos = [load_photo(path, 2000) for path in found[:_PICTURES]]
        if not photos:
            raise QueryError(
                f"There is no JPEG photo in {sources}. Name a folder that has JPEG photos."
            )
        return photos
    with tempfile.TemporaryDirectory() as temporary:
        names: Sequence[str] = ("china.jpg", "flower.jpg", "astronaut.png", "chelsea.png")
        names = (*names, "coffee.png", "motorcycle_left.png", "rocket.jpg", "retina.jpg")
        folder = copy_demo_photos(Path(temporary))
        return [load_photo(folder / name, 2000) for name in names if (folder / name).exists()]


def _jpeg(photo: Image.Image, megapixels: float, seed: int) -> bytes:
    scale = math.sqrt(megapixels * 1e6 / (photo.width * photo.height))
    size = (round(photo.width * scale), round(photo.height * scale))
    pixels = np.asarray(photo.resize(size, Image.Resampling.BICUBIC), np.float32)
    grain = np.random.default_rng(seed).standard_normal(pixels.shape[:2], np.float32)
    grainy = np.clip(pixels + _GRAIN * grain[:, :, None], 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(grainy).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
