"""Open the composite of a Photoshop file: all layers as one picture, which most files have.

Pillow reads those of 8 bits. Of 16 and 32 bits it is given the bytes of all numbers as one tall
grey picture, and `levels` makes pixels of them. Layers are not read.
Adobe, Photoshop File Formats Specification.
"""

import io
import struct
from typing import Any, BinaryIO, cast

from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.PsdImagePlugin import PsdImageFile

from retrieval.errors import PhotoError

_HEADER = struct.Struct(">4sH6xHIIHH")  # signature, version, channels, height, width, depth, mode
_GREY, _RGB, _CMYK = 1, 3, 4
_MODES = {_GREY: "L", _RGB: "RGB", _CMYK: "CMYK"}
_TYPES = {16: ">u2", 32: ">f4"}
_VERSION_INFO = 1057  # a resource; its fifth byte says whether there is a composite
_MAX_BYTES_A_PIXEL = 16  # of all channels


def read_photoshop(file: BinaryIO) -> ImageFile:
    """The composite; raises PhotoError if the file has none, or is of a kind that is not read.

    Its alpha is left out: it is a selection, or the colours are those on white already.
    """
    header = file.read(_HEADER.size)
    file.seek(0)
    if len(header) < _HEADER.size:
        raise PhotoError("truncated")
    *_, depth, _ = _HEADER.unpack(header)
    image = _Deep(file) if depth in _TYPES else PsdImageFile(file)
    for number, _, data in image.resources:
        if number == _VERSION_INFO and len(data) > 4 and data[4] == 0:
            raise PhotoError(
                "a Photoshop file without a composite (save it again with maximum compatibility)"
            )
    if image.mode == "RGBA":
        image._mode, image.tile = "RGB", image.tile[:3]
    return image


class _Deep(ImageFile):
    """A Photoshop file of 16 or 32 bits a channel."""

    format = "PSD"

    def _open(self) -> None:
        file = cast(BinaryIO, self.fp)
        signature, version, channels, height, width, depth, mode = _HEADER.unpack(
            file.read(_HEADER.size)
        )
        too_deep = channels * depth > 8 * _MAX_BYTES_A_PIXEL
        if version != 1 or mode not in _MODES or channels == 0 or too_deep:
            raise PhotoError("a Photoshop file of this kind is not read")
        self._mode, self._size, self.tile = _MODES[mode], (width, height), []
        self._channels, self._type = channels, _TYPES[depth]
        tall = _HEADER.pack(signature, version, 1, height * channels, width * depth // 8, 8, _GREY)
        self._bytes = PsdImageFile(cast(Any, _WithHeader(file, tall)))
        self.resources = self._bytes.resources
        self.info.update(self._bytes.info)

    def load(self) -> Any:
        if self._im is None:
            import numpy as np

            from retrieval.photos.levels import find_limits, to_bytes

            self._bytes.load()
            values = np.frombuffer(self._bytes.tobytes(), self._type)
            planes = values.reshape(self._channels, self.height, self.width)
            bands = len(self.getbands())
            if bands > self._channels:
                raise PhotoError("damaged (a Photoshop file without its colours)")
            whole = (0.0, 65535.0) if self._type == ">u2" else find_limits(planes[:bands])
            pixels = [to_bytes(plane, whole) for plane in planes[:bands]]
            if self.mode == "CMYK":
                pixels = [255 - plane for plane in pixels]
            self.im = Image.merge(self.mode, [Image.fromarray(plane) for plane in pixels]).im
        return Image.Image.load(self)


class _WithHeader:
    """An open file whose first bytes are others."""

    def __init__(self, file: BinaryIO, header: bytes) -> None:
        self._file, self._header = file, header
        file.seek(0)

    def read(self, count: int = -1) -> bytes:
        at = self._file.tell()
        data = self._file.read(count)
        if at < len(self._header):
            start = self._header[at:][: len(data)]
            data = start + data[len(start) :]
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()
