"""Open a photo file with Pillow's readers of the allowed formats, and with no other.

Only the header is read; `decode` checks the size and reads the pixels. Pillow's registry of
formats, its limit on pixels and its warnings belong to the process that imports this package: they
are not changed, and its limit is not asked.
"""

import struct
from collections.abc import Callable
from typing import BinaryIO

from PIL import AvifImagePlugin, JpegImagePlugin, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from retrieval.errors import PhotoError
from retrieval.photos import jpeg_xl, readers
from retrieval.photos.photoshop import read_photoshop
from retrieval.photos.tiff import Tiff

_PREFIX = 16  # bytes that tell the format
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
_AVIF_BRANDS = (b"avif", b"avis")
_CONTAINER_BRANDS = (b"mif1", b"msf1")  # of HEIF and of AVIF
_TIFF = (b"MM\0*", b"II*\0", b"MM*\0", b"II\0*", b"MM\0+", b"II+\0")  # also mistaken and BigTIFF
_JPEG = b"\xff\xd8\xff"
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG_2000 = (b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  \r\n\x87\n")
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


def _is_pnm(prefix: bytes) -> bool:
    return prefix[:1] == b"P" and prefix[1:2] in b"123456f" and prefix[2:3] in b" \t\r\n\v\f#"


def _has_brand(*brands: bytes) -> Callable[[bytes], bool]:
    return lambda prefix: prefix[4:8] == b"ftyp" and prefix[8:12] in brands


_READERS: tuple[tuple[Callable[[bytes], bool], Callable[[BinaryIO], ImageFile]], ...] = (
    (_starts(_JPEG), JpegImagePlugin.jpeg_factory),
    (_starts(_PNG), readers.read_png),
    (_is_webp, readers.WebP),
    (_starts(b"GIF87a", b"GIF89a"), readers.Gif),
    (_starts(*_TIFF), Tiff),
    (_starts(b"BM"), readers.Bmp),
    (_has_brand(*_HEIF_BRANDS, *_CONTAINER_BRANDS), readers.read_heif),
    (_has_brand(*_AVIF_BRANDS, *_CONTAINER_BRANDS), AvifImagePlugin.AvifImageFile),
    (_starts(*_JPEG_2000), readers.read_jpeg_2000),
    (_starts(jpeg_xl.BARE, jpeg_xl.CONTAINER), jpeg_xl.JpegXl),
    (_starts(b"8BPS"), read_photoshop),
    (_is_pnm, readers.Pnm),
    (_is_dib, readers.Dib),
)
