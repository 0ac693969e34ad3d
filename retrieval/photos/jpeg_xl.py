"""Open JPEG XL files, with the plugin of the optional group `jxl`, once their size is known.

The plugin decodes all pixels when it opens a file, so the size is read from the header here.
ISO/IEC 18181-1, annex D, and 18181-2.
"""

import struct
from typing import Any, BinaryIO, cast

from PIL import Image
from PIL.ImageFile import ImageFile

from retrieval.errors import PhotoError
from retrieval.photos.files import UNREADABLE

BARE, CONTAINER = b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"
_ORIENTATION = 0x0112
_MAX_BOXES = 1000
_BITS = (9, 13, 18, 30)  # lengths of a side
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))


class JpegXl(ImageFile):
    """A JPEG XL file with its size, and its pixels and metadata after `load`."""

    format = "JXL"

    def _open(self) -> None:
        self._size = _size(cast(BinaryIO, self.fp))
        self._mode = "RGB"
        self.tile = []

    def load(self) -> Any:
        if self._im is None:
            try:
                from pillow_jxl.JpegXLImagePlugin import JXLImageFile
            except ImportError as error:
                raise PhotoError(
                    f"{UNREADABLE} (JPEG XL needs `pip install 'crossmodal-retrieval[jxl]'`)"
                ) from error
            file = cast(BinaryIO, self.fp)
            file.seek(0)
            decoded: Any = cast(Any, JXLImageFile)(file)
            decoded.load()
            if decoded.size not in (self.size, self.size[::-1]):  # turned by the decoder
                raise PhotoError("damaged (two sizes in one JPEG XL)")
            self.info.update(decoded.info)
            self._mode, self._size, self.im = decoded.mode, decoded.size, decoded.im
            if not decoded.jpeg:  # the decoder turned it; of a JPEG, it gives the file
                self.getexif().pop(_ORIENTATION, None)
        return Image.Image.load(self)


def _size(file: BinaryIO) -> tuple[int, int]:
    """(width, height) from the header of the codestream; raises PhotoError."""
    file.seek(_codestream(file))
    start = file.read(16)
    if not start.startswith(BARE):
        raise PhotoError("damaged (no pixels in a JPEG XL)")
    bits, at = int.from_bytes(start[2:], "little"), 0

    def read(count: int) -> int:
        nonlocal at
        value = bits >> at & (1 << count) - 1
        at += count
        return value

    def side(small: int) -> int:
        return (read(5) + 1) * 8 if small else read(_BITS[read(2)]) + 1

    small = read(1)
    height = side(small)
    ratio = read(3)
    if ratio == 0:
        return side(small), height
    across, down = _RATIOS[ratio - 1]
    return height * across // down, height


def _codestream(file: BinaryIO) -> int:
    """Where the pixels start: at once, or in a box of a container."""
    file.seek(0)
    if file.read(2) == BARE:
        return 0
    at = 0
    for _ in range(_MAX_BOXES):
        file.seek(at)
        header = file.read(8)
        if len(header) < 8:
            break
        length, kind = struct.unpack(">I4s", header)
        start = at + 8
        if length == 1:
            length, start = int.from_bytes(file.read(8), "big"), at + 16
        if kind in (b"jxlc", b"jxlp"):
            return start + (4 if kind == b"jxlp" else 0)
        if length == 0 or at + length >= 1 << 62:
            break
        at += max(length, 8)
    raise PhotoError("damaged (no pixels in a JPEG XL)")
