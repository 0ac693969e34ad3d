"""Open a photo file with Pillow's readers of the allowed formats, and with no other.

Only the header is read; `decode` checks the size and reads the pixels. Pillow's registry of
formats, its limit on pixels and its warnings belong to the process that imports this package: they
are not changed, and its limit is not asked.
"""

import struct
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import BinaryIO, cast

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
    from pi_heif.as_plugin import HeifImageFile  # takes a while, and most folders have no HEIF

    return cast(ImageFile, HeifImageFile(file))


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


_READERS: tuple[tuple[Callable[[bytes], bool], Callable[[BinaryIO], ImageFile]], ...] = (
    (_starts(b"\xff\xd8\xff"), JpegImagePlugin.jpeg_factory),
    (_starts(b"\x89PNG\r\n\x1a\n"), PngImagePlugin.PngImageFile),
    (_is_webp, _unlimited(WebPImagePlugin.WebPImageFile, "_open")),
    (_starts(b"GIF87a", b"GIF89a"), _FirstFrame),
    (_starts(*_TIFF), _unlimited(TiffImagePlugin.TiffImageFile, "load_prepare")),
    (_starts(b"BM"), BmpImagePlugin.BmpImageFile),
    (_is_dib, BmpImagePlugin.DibImageFile),
    (_has_brand(*_HEIF_BRANDS, *_CONTAINER_BRANDS), _read_heif),
    (_has_brand(*_AVIF_BRANDS, *_CONTAINER_BRANDS), AvifImagePlugin.AvifImageFile),
)
