"""Decode one photo file: upright RGB pixels of its first frame, at the scale that a model needs.

Every file is hostile until read: sizes are checked before anything else is read, what is not plain
JPEG or PNG in sRGB is decoded in another process, and every failure becomes a PhotoError with a
short reason. Which formats are read is decided in `open_image`.
"""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from retrieval.errors import PhotoError
from retrieval.photos.colour import lab_to_rgb, needs_conversion, to_srgb
from retrieval.photos.decoder_processes import DecoderProcesses, can_start_processes
from retrieval.photos.exif import PhotoFacts, read_facts, turn_upright
from retrieval.photos.files import printable, reading
from retrieval.photos.open_image import is_plain, open_image
from retrieval.photos.raw import raw_preview
from retrieval.photos.size import check_bytes, check_size, default_max_megapixels
from retrieval.photos.walk import is_raw

DecodeJpeg = Callable[[bytes, int], Image.Image | None]
"""Decodes the bytes of a JPEG file to RGB, each side divided by the number; None if it cannot."""
_MAX_METADATA = 1 << 20  # bytes of a JPEG file that are not pixels; more is unusual
_STRIP = 256  # rows
_MISSING_GREY = (126, 130)  # what decoders show in place of pixels that a JPEG file lacks
_MIN_SHOWN = 0.25  # of the rows of a JPEG file that lacks its end
INCOMPLETE = "incomplete"
"""The key of `info` that a photo has whose file lacks its end."""


def open_photo(
    file: BinaryIO,
    name: str,
    max_megapixels: float,
    target: int,
    decode: DecodeJpeg | None = None,
    processes: DecoderProcesses | None = None,
) -> tuple[Image.Image, PhotoFacts]:
    """Open and decode a photo, or the preview in a camera's raw file, as `decode_image` does.

    name: of the file; its ending marks a raw file. processes: where to decode what is not plain
    JPEG or PNG, None for one that is started for this photo alone. Raises PhotoError;
    FileNotFoundError if the file vanished.
    """
    with reading():
        if decodes_here(file, name):
            with _opened(file, name, max_megapixels) as (image, source):
                if not needs_process(image):
                    return decode_image(image, source, max_megapixels, target, decode)
        with DecoderProcesses() if processes is None else nullcontext(processes) as used:
            photo, found = used.call(open_photo_here, file, name, max_megapixels, target)
    if photo is None:
        raise PhotoError("it has no pixels")
    return photo, PhotoFacts(**found)


def decodes_here(file: BinaryIO, name: str) -> bool:
    """Whether this process opens a file: if it is plain JPEG or PNG, or there is no other."""
    return (is_plain(file) and not is_raw(name)) or not can_start_processes()


def needs_process(image: Image.Image) -> bool:
    """Whether another process is to decode an opened image: it has a profile to be applied."""
    return needs_conversion(image) and can_start_processes()


def check_image(image: Image.Image, max_megapixels: float) -> None:
    """Raise PhotoError if an opened image is too large. After this, its metadata can be read."""
    check_size(image.size, max_megapixels)
    if image.format == "JXL":  # its metadata comes with its pixels
        image.load()


def open_photo_here(
    file: BinaryIO,
    name: str,
    max_megapixels: float,
    target: int,
    decode: DecodeJpeg | None = None,
) -> tuple[Image.Image, PhotoFacts]:
    """`open_photo` in this process, whatever the format."""
    with _opened(file, name, max_megapixels) as (image, source):
        return decode_image(image, source, max_megapixels, target, decode)


@contextmanager
def _opened(
    file: BinaryIO, name: str, max_megapixels: float
) -> Iterator[tuple[Image.Image, BinaryIO]]:
    """The image in a file, opened, and the file that it is in: a raw file has one inside."""
    check_bytes(file, max_megapixels)
    source = raw_preview(file, max_megapixels) if is_raw(name) else file
    with open_image(source) as image:
        yield image, source


def decode_image(
    image: Image.Image,
    file: BinaryIO,
    max_megapixels: float,
    target: int,
    decode: DecodeJpeg | None = None,
) -> tuple[Image.Image, PhotoFacts]:
    """Decode an image that was opened from `file`, for a model that takes `target` pixels a side.

    Returns the first frame, upright, in RGB, at least twice `target` wide and high if the file is
    (JPEG is decoded at a smaller scale: several times faster, and the same after resizing), and
    its facts. decode: tried first, on plain JPEG files that are whole. A JPEG that lacks its end is
    shown as far as it goes, and has INCOMPLETE in its `info`. Raises PhotoError if the image is too
    large, and whatever Pillow raises.
    """
    check_image(image, max_megapixels)
    facts = read_facts(image)
    if image.format == "TIFF":  # Pillow's size is upright, and so will be its pixels
        facts = replace(facts, width=image.width, height=image.height)
    pixels = _pixels(image, file, 2 * target, decode)
    photo = to_srgb(_to_eight_bits(turn_upright(pixels), 2 * target), image)
    if INCOMPLETE in pixels.info:
        photo.info[INCOMPLETE] = True
    return photo, facts


def load_photo(
    path: Path | str,
    target: int,
    max_megapixels: float | None = None,
    processes: DecoderProcesses | None = None,
) -> Image.Image:
    """The photo in a file, as `open_photo` returns it; raises PhotoError with the path."""
    limit = max_megapixels or default_max_megapixels(1)
    try:
        if not Path(path).is_file():
            folder = Path(path).is_dir()
            raise PhotoError("it is a folder" if folder else "there is no such file")
        with reading(), Path(path).open("rb") as file:
            return open_photo(file, str(path), limit, target, None, processes)[0]
    except (PhotoError, FileNotFoundError) as error:
        raise PhotoError(f"{printable(path)} cannot be used as a photo: {error}.") from error


def photo_from_bytes(data: bytes, target: int) -> Image.Image:
    """The photo in `data`, as `open_photo` returns it; raises PhotoError."""
    try:
        return open_photo(io.BytesIO(data), "", default_max_megapixels(1), target)[0]
    except PhotoError as error:
        raise PhotoError(f"Standard input cannot be used as a photo: {error}.") from error


def _pixels(
    image: Image.Image, file: BinaryIO, enough: int, decode: DecodeJpeg | None
) -> Image.Image:
    """An open image with its pixels, at least `enough` wide and high if it has as many.

    `decode` gets only photos that shrink: decoders differ at full size, hardly after it. It has the
    scales of JPEG itself: 1/2, 1/4 and 1/8.
    """
    shrink = max(s for s in (1, 2, 4, 8) if s == 1 or s * enough <= min(image.size))
    if decode is not None and shrink > 1 and (data := _plain_jpeg(image, file)):
        photo = decode(data, shrink)
        if photo is not None and photo.size == tuple(-(-side // shrink) for side in image.size):
            photo.info.update(image.info)  # its orientation
            return photo
    image.draft("RGB", (enough, enough))
    try:
        image.load()
    except OSError as error:
        if image.format not in ("JPEG", "MPO") or "truncated" not in str(error):
            raise
        return _as_far_as_it_goes(file, enough, error)
    return image


def _as_far_as_it_goes(file: BinaryIO, enough: int, error: OSError) -> Image.Image:
    """The pixels of a JPEG file that lacks its end; raises the error if most of them are missing.

    Pillow would show them if a global of it were set. Here the file gets an end.
    """
    import numpy as np

    file.seek(0)
    image = open_image(io.BytesIO(file.read() + b"\xff\xd9"))
    image.draft("RGB", (enough, enough))
    image.load()
    rows = np.asarray(image.convert("RGB")).reshape(image.height, -1)
    low, high = _MISSING_GREY
    shown = np.flatnonzero((rows.min(1) < low) | (rows.max(1) > high))
    if not len(shown) or shown[-1] + 1 < _MIN_SHOWN * image.height:
        raise error
    image.info[INCOMPLETE] = True
    return image


def _plain_jpeg(image: Image.Image, file: BinaryIO) -> bytes | None:
    """The bytes of a whole JPEG file that every decoder reads in the same way; else None."""
    plain = image.format == "JPEG" and image.mode in ("RGB", "L")
    if not plain or image.info.get("adobe_transform") == 0:
        return None
    limit = 3 * image.width * image.height + _MAX_METADATA
    file.seek(0)
    data = file.read(limit + 1)
    return data if len(data) <= limit and _has_end(data) else None


def _has_end(jpeg: bytes) -> bool:
    """Whether an end marker follows the pixels; one in the metadata may end a thumbnail there."""
    at = 2
    while jpeg[at : at + 1] == b"\xff" and jpeg[at + 1 : at + 2] != b"\xda":
        at += 2 + int.from_bytes(jpeg[at + 2 : at + 4])
    return jpeg.find(b"\xff\xd9", at) > 0


def _to_eight_bits(image: Image.Image, enough: int) -> Image.Image:
    """Convert any mode to RGB, or leave it in CMYK: deep greys are scaled, not clipped;
    transparency becomes white."""
    shorter = min(image.size)
    if shorter > 2 * enough and image.mode in ("L", "RGB", "CMYK"):
        image = image.reduce(shorter // enough)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _deep_to_grey(image).convert("RGB")
    if image.mode == "CMYK" or (image.mode == "RGB" and "transparency" not in image.info):
        return image  # what its colours are depends on its profile
    if image.mode == "LAB":
        return lab_to_rgb(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return _on_white(image)
    return image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    """A transparent image over white, converted in strips to take less memory."""
    whole = Image.new("RGB", image.size)
    for top in range(0, image.height, _STRIP):
        box = (0, top, image.width, min(top + _STRIP, image.height))
        # As `crop`, which asks Pillow's limit on pixels.
        strip = image.resize((box[2], box[3] - top), Image.Resampling.NEAREST, box)
        strip = strip.convert("RGBA")
        white = Image.new("RGBA", strip.size, "white")
        whole.paste(Image.alpha_composite(white, strip).convert("RGB"), box)
    return whole


def _deep_to_grey(image: Image.Image) -> Image.Image:
    """Greys of 16 bits, of floats, or beyond 16 bits, which are scaled by their range, to 8."""
    import numpy as np

    from retrieval.photos.levels import find_limits, to_bytes

    values = np.asarray(image)
    limits = (0.0, 65535.0)
    if image.mode == "F":
        limits = find_limits(values)
    elif values.min() < 0 or values.max() > limits[1]:
        limits = float(values.min()), float(values.max())
    return Image.fromarray(to_bytes(values, limits))
