"""Decode one photo file: upright RGB pixels of its first frame, at the scale that a model needs.

Every file is hostile until read: sizes are checked before pixels are decoded, and every failure
becomes a PhotoError with a short reason. Which formats are read is decided in `open_image`.
"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

from PIL import Image, ImageOps

from retrieval.errors import PhotoError
from retrieval.photos.exif import PhotoFacts, read_facts
from retrieval.photos.files import TOO_LARGE, printable, reading
from retrieval.photos.open_image import open_image
from retrieval.photos.walk import is_raw

DecodeJpeg = Callable[[bytes, int], Image.Image | None]
"""Decodes the bytes of a JPEG file to RGB, each side divided by the number; None if it cannot."""
_MAX_METADATA = 1 << 20  # bytes of a JPEG file that are not pixels; more is unusual
_BYTES_PER_PIXEL = 16  # at worst: decoded, converted and turned copies at the same time
_MEMORY_SHARE = 0.3
_SMALLEST_LIMIT, _LARGEST_LIMIT = 20, 500  # megapixels


def default_max_megapixels(workers: int) -> float:
    """The largest photo that each of `workers` threads can decode at once in free memory."""
    import psutil  # searches do not need it

    available = psutil.virtual_memory().available
    fits = available * _MEMORY_SHARE / max(workers, 1) / _BYTES_PER_PIXEL / 1e6
    return float(min(max(fits, _SMALLEST_LIMIT), _LARGEST_LIMIT))


def open_photo(
    file: BinaryIO,
    name: str,
    max_megapixels: float,
    target: int,
    decode: DecodeJpeg | None = None,
) -> tuple[Image.Image, PhotoFacts]:
    """Open and decode a photo, or the preview in a camera's raw file, as `decode_image` does.

    name: of the file; its ending marks a raw file. Raises PhotoError; FileNotFoundError if the
    file vanished.
    """
    with reading():
        source = _raw_preview(file) if is_raw(name) else file
        with open_image(source) as image:
            return decode_image(image, source, max_megapixels, target, decode)


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
    its facts. decode: tried first, on plain JPEG files that are whole. Raises PhotoError if the
    image is too large, and whatever Pillow raises.
    """
    check_size(image, max_megapixels)
    facts = read_facts(image)
    upright = ImageOps.exif_transpose(_pixels(image, file, 2 * target, decode))
    return _to_rgb(upright, 2 * target), facts


def load_photo(path: Path | str, target: int, max_megapixels: float | None = None) -> Image.Image:
    """The photo in a file, as `open_photo` returns it; raises PhotoError with the path."""
    limit = max_megapixels or default_max_megapixels(1)
    try:
        if not Path(path).is_file():
            folder = Path(path).is_dir()
            raise PhotoError("it is a folder" if folder else "there is no such file")
        with reading(), Path(path).open("rb") as file:
            return open_photo(file, str(path), limit, target)[0]
    except (PhotoError, FileNotFoundError) as error:
        raise PhotoError(f"{printable(path)} cannot be used as a photo: {error}.") from error


def photo_from_bytes(data: bytes, target: int) -> Image.Image:
    """The photo in `data`, as `open_photo` returns it; raises PhotoError."""
    try:
        return open_photo(io.BytesIO(data), "", default_max_megapixels(1), target)[0]
    except PhotoError as error:
        raise PhotoError(f"Standard input cannot be used as a photo: {error}.") from error


def check_size(image: Image.Image, max_megapixels: float) -> None:
    """Raise PhotoError for an image without pixels, or with more than the limit."""
    width, height = image.size
    if width < 1 or height < 1:
        raise PhotoError("it has no pixels")
    if width * height > max_megapixels * 1e6:
        raise PhotoError(
            f"{TOO_LARGE}: {width} × {height} pixels, over the limit of {max_megapixels:.3g} "
            "megapixels (raise it with --max-megapixels)"
        )


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
    image.load()
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


def _to_rgb(image: Image.Image, enough: int) -> Image.Image:
    """Convert any mode to RGB: deep greys are scaled, not clipped; transparency becomes white."""
    shorter = min(image.size)
    if shorter > 2 * enough and image.mode in ("L", "RGB", "CMYK"):
        image = image.reduce(shorter // enough)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _deep_to_grey(image).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        transparent = image.convert("RGBA")
        white = Image.new("RGBA", transparent.size, "white")
        return Image.alpha_composite(white, transparent).convert("RGB")
    return image.convert("RGB")


def _deep_to_grey(image: Image.Image) -> Image.Image:
    """16-bit, 32-bit or float greys to 8 bits; values beyond 16 bits are scaled by their range."""
    import numpy as np

    values = np.asarray(image).astype(np.float32)
    values = np.nan_to_num(values, posinf=0.0, neginf=0.0)
    low, high = 0.0, 65535.0
    if values.min() < 0 or values.max() > high or image.mode == "F":
        low, high = float(values.min()), float(values.max())
    scaled = (values - low) * (255.0 / ((high - low) or 1.0))
    return Image.fromarray(scaled.round().astype(np.uint8))


def _raw_preview(file: BinaryIO) -> BinaryIO:
    """The JPEG preview in a camera's raw file, or else the developed photo as BMP.

    Raises PhotoError.
    """
    try:
        import rawpy
    except ImportError as error:
        raise PhotoError(
            "camera raw files need `pip install 'crossmodal-retrieval[raw]'`"
        ) from error
    try:
        with rawpy.imread(file) as raw:
            try:
                preview = raw.extract_thumb()
            except (rawpy.LibRawNoThumbnailError, rawpy.LibRawUnsupportedThumbnailError):
                preview = None
            if preview is not None and preview.format == rawpy.ThumbFormat.JPEG:
                return io.BytesIO(cast(bytes, preview.data))
            pixels = preview.data if preview is not None else raw.postprocess(half_size=True)
    except rawpy.LibRawError as error:
        raise PhotoError(f"damaged (no camera raw file: {error})") from error
    buffer = io.BytesIO()
    Image.fromarray(cast(Any, pixels)).save(buffer, "BMP")
    buffer.seek(0)
    return buffer
