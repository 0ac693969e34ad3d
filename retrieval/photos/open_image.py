"""Open a photo file with Pillow's readers of the allowed formats, and with no other.

Only the header is read; `decode` checks the size and reads the pixels. Pillow's registry of
formats, its limit on pixels and its warnings belong to the process that imports this package: they
are not changed, and its limit is not asked.
"""

import os
import struct
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any, BinaryIO, cast

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)
from PIL.ImageFile import ImageFile

from retrieval.errors import PhotoError

_PREFIX = 16  # bytes that tell the format
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
_AVIF_BRANDS = (b"avif", b"avis")
_CONTAINER_BRANDS = (b"mif1", b"msf1")  # of HEIF and of AVIF
_TIFF = (b"MM\0*", b"II*\0", b"MM*\0", b"II\0*", b"MM\0+", b"II+\0")  # also mistaken and BigTIFF
_JPEG = b"\xff\xd8\xff"
_PNG = b"\x89PNG\r\n\x1a\n"
_METADATA_CHUNKS = (b"eXIf", b"iTXt", b"tEXt", b"zTXt")
_MAX_CHUNKS, _MAX_METADATA = 100_000, 1 << 20  # of a PNG file; bytes of one chunk
_DIB_HEADERS = (12, 40, 52, 56, 64, 108, 124)  # their lengths


def open_image(file: BinaryIO) -> ImageFile:
    """The image in a file, from its start, with its size and metadata and without its pixels.

    The content decides the format, not the name. Pillow reads many more formats, some of them
    dangerous (EPS starts Ghostscript) or decoded before their size is known (ICO, ICNS). A JPEG
    file of several pictures has the format MPO, and is read as its first. Raises PhotoError for an
    empty file, UnidentifiedImageError if no reader takes it, and whatever a reader raises.
    """
    file.seek(0)
    prefix = file.read(_PREFIX)
    if not prefix:
        raise PhotoError("empty")
    for matches, read in _READERS:
        if matches(prefix):
            file.seek(0)
            try:
                return read(file)
            except (SyntaxError, IndexError, TypeError, struct.error):
                continue  # what Pillow's readers raise for a file of another format
    raise UnidentifiedImageError("no image of an allowed format")


def is_plain(file: BinaryIO) -> bool:
    """Whether a file is JPEG or PNG, whose decoders have long survived damaged files."""
    file.seek(0)
    prefix = file.read(_PREFIX)
    file.seek(0)
    return prefix.startswith((_JPEG, _PNG))


def _starts(*signatures: bytes) -> Callable[[bytes], bool]:
    return lambda prefix: prefix.startswith(signatures)


def _is_webp(prefix: bytes) -> bool:
    form, chunk = prefix[8:12], prefix[12:16]
    return prefix[:4] == b"RIFF" and form == b"WEBP" and chunk in (b"VP8 ", b"VP8X", b"VP8L")


def _is_dib(prefix: bytes) -> bool:
    return int.from_bytes(prefix[:4], "little") in _DIB_HEADERS


def _has_brand(*brands: bytes) -> Callable[[bytes], bool]:
    return lambda prefix: prefix[4:8] == b"ftyp" and prefix[8:12] in brands


def _read_heif(file: BinaryIO) -> ImageFile:
    from pillow_heif.as_plugin import HeifImageFile  # slow to import; most folders have no HEIF

    image: ImageFile = cast(Any, HeifImageFile)(file)
    return image


# Pillow's module without its limit on pixels, which some readers ask by themselves.
_IMAGE = ModuleType(Image.__name__)
vars(_IMAGE).update(vars(Image), _decompression_bomb_check=lambda *_, **__: None)


def _unlimited(reader: type[ImageFile], name: str) -> type[ImageFile]:
    """A reader whose method `name` does not ask Pillow's limit on pixels: `check_size` has our own.

    The limit is a global of Pillow that other threads may use, so the method is copied, with other
    globals. A reader that no longer has the method is returned as it is.
    """
    method = vars(reader).get(name)
    if not isinstance(method, FunctionType):
        return reader
    names = {**method.__globals__, "Image": _IMAGE}
    copy = FunctionType(method.__code__, names, name, method.__defaults__, method.__closure__)
    copy.__kwdefaults__ = method.__kwdefaults__
    return type(reader.__name__, (reader,), {name: copy})


class _FirstFrame(_unlimited(GifImagePlugin.GifImageFile, "_seek")):  # type: ignore[misc]
    """A GIF of which only the first frame is read, whatever is to be done after it.

    Pillow would fill as much memory as the frame takes before anything has checked its size.
    """

    disposal_method = property(lambda _: 0, lambda *_: None)


class _FirstPicture(PngImagePlugin.PngImageFile):
    """A PNG of which only the first picture is read, as `_FirstFrame` does with a GIF."""

    dispose_op = property(lambda _: 0, lambda *_: None)


def _read_png(file: BinaryIO) -> ImageFile:
    image = _FirstPicture(file)
    position = file.tell()
    try:
        _read_behind_pixels(image, file)
    except Exception:  # noqa: S110 - metadata is an extra
        pass
    file.seek(position)
    return image


def _read_behind_pixels(image: PngImagePlugin.PngImageFile, file: BinaryIO) -> None:
    """Add the metadata that follows the pixels of a PNG to its `info`, without decoding them."""
    behind = False
    file.seek(len(_PNG))
    for _ in range(_MAX_CHUNKS):
        length, kind = struct.unpack(">I4s", file.read(8))
        if kind == b"IEND" or image.png is None:
            return
        behind = behind or kind == b"IDAT"
        if behind and kind in _METADATA_CHUNKS and length <= _MAX_METADATA:
            image.png.call(kind, file.tell(), length)
            file.seek(4, os.SEEK_CUR)  # its checksum
        else:
            file.seek(length + 4, os.SEEK_CUR)


_READERS: tuple[tuple[Callable[[bytes], bool], Callable[[BinaryIO], ImageFile]], ...] = (
    (_starts(_JPEG), JpegImagePlugin.jpeg_factory),
    (_starts(_PNG), _read_png),
    (_is_webp, _unlimited(WebPImagePlugin.WebPImageFile, "_open")),
    (_starts(b"GIF87a", b"GIF89a"), _FirstFrame),
    (_starts(*_TIFF), _unlimited(TiffImagePlugin.TiffImageFile, "load_prepare")),
    (_starts(b"BM"), BmpImagePlugin.BmpImageFile),
    (_is_dib, BmpImagePlugin.DibImageFile),
    (_has_brand(*_HEIF_BRANDS, *_CONTAINER_BRANDS), _read_heif),
    (_has_brand(*_AVIF_BRANDS, *_CONTAINER_BRANDS), AvifImagePlugin.AvifImageFile),
)
