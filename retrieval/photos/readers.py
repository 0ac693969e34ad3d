"""Pillow's readers of image files, made safe: sizes come before pixels, metadata never matters.

Each is a class or a function that opens a file whose first bytes fit; `open_image` chooses among
them, and `tiff` and `jpeg_xl` have theirs. Pillow's limit on pixels is a global of Pillow that
other threads may use: it is not asked, and not changed.
"""

import os
import struct
import zlib
from types import FunctionType, ModuleType
from typing import Any, BinaryIO, cast

from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    Jpeg2KImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    WebPImagePlugin,
)
from PIL.ImageFile import ImageFile

from retrieval.errors import PhotoError

_PNG_CHUNKS_BEHIND = (b"eXIf", b"iTXt", b"tEXt", b"zTXt")
_PNG_PIXELS = b"fdAT"  # of an animation; its name says that it is metadata
_MAX_CHUNKS, _MAX_CHUNK = 100_000, 1 << 24  # of a PNG file; bytes of one with metadata
_MAX_PROFILE = 1 << 22  # bytes
_MAX_BEHIND = 1 << 20  # bytes of a chunk behind the pixels
_CODESTREAM, _LONG_BOX, _MAX_BOXES = b"\xff\x4f\xff\x51", 1, 1000  # of JPEG 2000

# Pillow's module without its limit on pixels, which some readers ask by themselves.
_IMAGE = ModuleType(Image.__name__)
vars(_IMAGE).update(vars(Image), _decompression_bomb_check=lambda *_, **__: None)


def with_globals(reader: type[ImageFile], method: str, **names: object) -> type[ImageFile]:
    """A reader whose method uses these objects in place of the global ones of its module.

    A reader that no longer has the method is returned as it is.
    """
    function = vars(reader).get(method)
    if not isinstance(function, FunctionType):
        return reader
    copy = FunctionType(
        function.__code__,
        {**function.__globals__, **names},
        method,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return type(reader.__name__, (reader,), {method: copy})


def unlimited(reader: type[ImageFile], method: str) -> type[ImageFile]:
    """A reader whose method does not ask Pillow's limit on pixels: `check_size` has our own."""
    return with_globals(reader, method, Image=_IMAGE)


WebP = unlimited(WebPImagePlugin.WebPImageFile, "_open")


class Gif(unlimited(GifImagePlugin.GifImageFile, "_seek")):  # type: ignore[misc]
    """A GIF of which only the first frame is read, whatever is to be done after it.

    Pillow would fill as much memory as the frame takes before anything has checked its size.
    """

    disposal_method = property(lambda _: 0, lambda *_: None)


class Bmp(BmpImagePlugin.BmpImageFile):
    """A BMP whose alpha is left out if it is zero everywhere: many programs never fill it in."""

    def load(self) -> Any:
        access = super().load()
        if self.mode == "RGBA" and self.im.getband(3).getextrema() == (0, 0):
            self.im.fillband(3, 255)
        return access


class Dib(Bmp, BmpImagePlugin.DibImageFile):
    """A BMP without the header of its file."""


# PNG -------------------------------------------------------------------------------------------


class _PngStream(PngImagePlugin.PngStream):
    """The chunks of a PNG. Those with metadata may be damaged, wrong or large: then they are left
    out, and their checksums are not asked."""

    def call(self, cid: bytes, pos: int, length: int) -> bytes:
        if not _is_metadata(cid):
            return super().call(cid, pos, length)
        if length <= _MAX_CHUNK:
            try:
                return super().call(cid, pos, length)
            except AttributeError:  # unknown: the caller skips it
                raise
            except Exception:  # noqa: S110 - metadata is an extra
                pass
        cast(BinaryIO, self.fp).seek(pos + length)
        return b""

    def crc(self, cid: bytes, data: bytes) -> None:
        if _is_metadata(cid):
            self.crc_skip(cid, data)
        else:
            super().crc(cid, data)

    def chunk_iCCP(self, pos: int, length: int) -> bytes:
        """As Pillow's, for profiles of over a megabyte, too."""
        data = cast(BinaryIO, self.fp).read(length)
        packed = data.partition(b"\0")[2][1:]
        profile = zlib.decompressobj().decompress(packed, _MAX_PROFILE + 1)
        if len(profile) <= _MAX_PROFILE:
            self.im_info["icc_profile"] = profile
        return data


def _is_metadata(chunk: bytes) -> bool:
    return chunk[:1].islower() and chunk != _PNG_PIXELS


class _Png(with_globals(PngImagePlugin.PngImageFile, "_open", PngStream=_PngStream)):  # type: ignore[misc]
    """A PNG of which only the first picture is read, as `Gif` does."""

    dispose_op = property(lambda _: 0, lambda *_: None)


def read_png(file: BinaryIO) -> ImageFile:
    image: Any = _Png(file)
    position = file.tell()
    try:
        _read_behind_pixels(image, file)
    except Exception:  # noqa: S110 - metadata is an extra
        pass
    file.seek(position)
    return cast(ImageFile, image)


def _read_behind_pixels(image: Any, file: BinaryIO) -> None:
    """Add the metadata that follows the pixels of a PNG to its `info`, without decoding them."""
    behind = False
    file.seek(8)
    for _ in range(_MAX_CHUNKS):
        length, kind = struct.unpack(">I4s", file.read(8))
        if kind == b"IEND" or image.png is None:
            return
        behind = behind or kind == b"IDAT"
        if behind and kind in _PNG_CHUNKS_BEHIND and length <= _MAX_BEHIND:
            image.png.call(kind, file.tell(), length)
            file.seek(4, os.SEEK_CUR)  # its checksum
        else:
            file.seek(length + 4, os.SEEK_CUR)


# Other formats ---------------------------------------------------------------------------------


class Pnm(PpmImagePlugin.PpmImageFile):
    """A PNM (PBM, PGM, PPM). Pillow decodes those of an unusual depth byte by byte, in Python."""

    def load(self) -> Any:
        if self.tile and self.tile[0].codec_name == "ppm":
            self._load_binary()
        return super().load()

    def _load_binary(self) -> None:
        import numpy as np

        from retrieval.photos.levels import to_bytes

        _, maximum = cast(tuple[str, int], self.tile[0].args)
        bands = len(self.getbands())
        count = self.width * self.height * bands
        kind = np.dtype("u1" if maximum < 256 else ">u2")
        file = cast(BinaryIO, self.fp)
        file.seek(self.tile[0].offset)
        data = file.read(count * kind.itemsize)
        if len(data) < count * kind.itemsize:
            raise OSError("image file is truncated")
        pixels = to_bytes(np.frombuffer(data, kind).reshape(self.height, -1), (0, maximum))
        self._mode = "RGB" if bands == 3 else "L"
        self.tile = []
        self.im = Image.frombytes(self.mode, self.size, pixels.tobytes()).im


def read_heif(file: BinaryIO) -> ImageFile:
    from pillow_heif.as_plugin import HeifImageFile  # slow to import; most folders have no HEIF

    image: ImageFile = cast(Any, HeifImageFile)(file)
    return image


def read_jpeg_2000(file: BinaryIO) -> ImageFile:
    """A JPEG 2000 whose header and whose pixels are of one size.

    The header is what is checked; the decoder allocates what the pixels ask for.
    """
    image = Jpeg2KImagePlugin.Jpeg2KImageFile(file)
    position = file.tell()
    file.seek(_codestream(file) + len(_CODESTREAM))
    width, height, left, top = struct.unpack(">4I", file.read(20)[4:])
    if (width - left, height - top) != image.size:
        raise PhotoError("damaged (two sizes in one JPEG 2000)")
    file.seek(position)
    return image


def _codestream(file: BinaryIO) -> int:
    """Where the pixels of a JPEG 2000 start."""
    at = 0
    for _ in range(_MAX_BOXES):
        file.seek(at)
        header = file.read(16)
        if header.startswith(_CODESTREAM):
            return at
        length, kind, long = struct.unpack(">I4sQ", header)
        start = at + (16 if length == _LONG_BOX else 8)
        if kind == b"jp2c":
            return start
        at += max(long if length == _LONG_BOX else length, 8)
        if at >= 1 << 62 or length == 0:
            break
    raise PhotoError("damaged (no pixels in a JPEG 2000)")
