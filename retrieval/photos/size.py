"""The sizes of photos: what is too large, and how large a photo may be in the memory there is.

Sizes come from headers and are checked before anything else of a file is read.
"""

import os
from typing import BinaryIO

from retrieval.errors import PhotoError
from retrieval.memory import available_memory
from retrieval.photos.files import TOO_LARGE

# Decoded, converted and turned copies at the same time. Measured: 8 for transparent PNG, 15 for
# grey of 16 bits, 4 more if it is turned; decoders of other formats keep copies of their own.
_BYTES_PER_PIXEL = 25
_MEMORY_SHARE = 0.3
_SMALLEST_LIMIT, _LARGEST_LIMIT = 20, 500  # megapixels
_MAX_BYTES = 1 << 29  # of a file, or those of its pixels at 16 bits a channel if these are more


def default_max_megapixels(workers: int) -> float:
    """The largest photo that each of `workers` threads can decode at once in free memory."""
    fits = available_memory() * _MEMORY_SHARE / max(workers, 1) / _BYTES_PER_PIXEL / 1e6
    return float(min(max(fits, _SMALLEST_LIMIT), _LARGEST_LIMIT))


def default_workers() -> int:
    """Threads to decode with: one a core, and fewer if memory is short for photos of any size."""
    fits = available_memory() * 2 * _MEMORY_SHARE / (_SMALLEST_LIMIT * 1e6 * _BYTES_PER_PIXEL)
    return min(max(os.cpu_count() or 1, 2), max(int(fits), 1))


def check_bytes(file: BinaryIO, max_megapixels: float) -> None:
    """Raise PhotoError for a file that is too long to be a photo: some readers take all of it."""
    most = max(_MAX_BYTES, int(max_megapixels * 8e6))
    length = file.seek(0, os.SEEK_END)
    file.seek(0)
    if length > most:
        raise PhotoError(f"{TOO_LARGE}: {length:,} bytes, over the limit of {most:,}")


def check_size(size: tuple[int, int], max_megapixels: float) -> None:
    """Raise PhotoError for (width, height) without pixels, or with more than the limit."""
    width, height = size
    if width < 1 or height < 1:
        raise PhotoError("it has no pixels")
    if width * height > max_megapixels * 1e6:
        raise PhotoError(
            f"{TOO_LARGE}: {width} × {height} pixels, over the limit of {max_megapixels:.3g} "
            "megapixels (raise it with --max-megapixels)"
        )
