"""Open TIFF files: those of up to 8 bits a channel with Pillow, deeper ones with tifffile.

Pillow keeps the upper 8 bits of deep colours, reads white-is-zero as it is stored, and lacks many
layouts. tifffile reads the numbers, and `levels` makes pixels of them. Compressions that tifffile
lacks (LZW, without imagecodecs) are left to Pillow.
"""

from typing import Any, BinaryIO, cast

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from retrieval.errors import PhotoError
from retrieval.photos.readers import unlimited

_WIDTH, _LENGTH, _BITS, _PHOTOMETRIC, _ORIENTATION, _LARGEST, _EXTRA = (
    256, 257, 258, 262, 274, 281, 338,
)  # fmt: skip
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _CMYK = 0, 1, 2, 5
_ASSOCIATED_ALPHA, _ALPHA = 1, 2  # values of ExtraSamples
_MAX_BYTES_A_PIXEL = 32  # of all channels; four of float64


class Tiff(unlimited(TiffImageFile, "load_prepare")):  # type: ignore[misc]
    """The first picture of a TIFF; 8 bits a channel after `load`, whatever is stored."""

    _pillow_reads = True
    _converted = False

    def _setup(self) -> None:
        try:
            super()._setup()
        except (SyntaxError, KeyError):
            size = self.tag_v2.get(_WIDTH), self.tag_v2.get(_LENGTH)
            if self._photometric() is None or not all(isinstance(side, int) for side in size):
                raise
            self._pillow_reads, self._mode = False, "RGB"
            self._tile_size = self._size = size
            if self.tag_v2.get(_ORIENTATION) in (5, 6, 7, 8):  # as Pillow does it
                self._size = size[::-1]

    def load(self) -> Any:
        deep = max(self.tag_v2.get(_BITS, (1,))) > 8 or not self._pillow_reads
        if deep and not self._converted and self._photometric() is not None:
            self._converted = True
            self._load_deep()
        return super().load()

    def _photometric(self) -> int | None:
        """What the numbers mean, if it is something that is made into pixels here."""
        value = self.tag_v2.get(_PHOTOMETRIC, _WHITE_IS_ZERO)
        known = (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _CMYK)
        return value if value in known else None

    def _load_deep(self) -> None:
        """Make pixels of the numbers, turned upright as Pillow does it with others."""
        import numpy as np

        try:
            values = self._numbers()
        except Exception:  # whatever tifffile lacks, or finds damaged
            if not self._pillow_reads:
                raise
            super().load()
            if self.mode in ("I", "F") or self.mode.startswith("I;16"):
                turned = np.asarray(self)[..., None]  # by Pillow
                self._mode, self.im = _as_pixels(turned, self.tag_v2)
            return
        self.tile: list[Any] = []
        self._mode, self.im = _as_pixels(values, self.tag_v2)
        self.load_end()

    def _numbers(self) -> Any:
        """The numbers as they are stored: [height, width, channels]."""
        import numpy as np
        from tifffile import TiffFile

        file = cast(BinaryIO, self.fp)
        file.seek(0)
        with TiffFile(cast(Any, file)) as opened:
            page: Any = opened.pages[0]
            planes, depth, height, width, channels = page.shaped
            if depth != 1 or (width, height) != tuple(self._tile_size):
                raise PhotoError("a TIFF of this kind is not read")
            if planes * channels * page.dtype.itemsize > _MAX_BYTES_A_PIXEL:
                raise PhotoError("a TIFF of this kind is not read: too many bytes a pixel")
            values = page.asarray(squeeze=False, maxworkers=1).reshape(page.shaped)[:, 0]
        return np.moveaxis(values, 0, -1)[..., 0, :] if planes > 1 else values[0]


def _as_pixels(values: Any, tags: Any) -> tuple[str, Any]:
    """(mode, Pillow's pixels) of numbers [height, width, channels], which the tags explain."""
    from retrieval.photos.levels import find_limits, to_bytes

    photometric = tags.get(_PHOTOMETRIC, _WHITE_IS_ZERO)
    extra = tags.get(_EXTRA, ())
    channels = values.shape[2]
    colours = {_RGB: 3, _CMYK: 4}.get(photometric, 3 if channels - len(extra) >= 3 else 1)
    if channels < colours:
        raise PhotoError("damaged (a TIFF without its colours)")
    limits = find_limits(
        values[..., :colours], max(tags.get(_BITS, (1,))), _largest(tags, values.dtype)
    )
    pixels = to_bytes(values[..., :colours], limits)
    if photometric == _WHITE_IS_ZERO:
        pixels = 255 - pixels
    mode = {1: "L", 3: "RGB", 4: "CMYK"}[colours]
    image = Image.frombytes(mode, (values.shape[1], values.shape[0]), pixels.tobytes())
    kind = extra[0] if extra and channels > colours else 0
    if kind in (_ASSOCIATED_ALPHA, _ALPHA) and mode != "CMYK":
        bands = image.convert("RGB")
        alpha = Image.fromarray(to_bytes(values[..., colours], (0.0, limits[1])))
        if kind == _ASSOCIATED_ALPHA:  # multiplied by alpha already
            image = Image.merge("RGBa", (*bands.split(), alpha)).convert("RGBA")
        else:
            bands.putalpha(alpha)
            image = bands
    return image.mode, image.im


def _largest(tags: Any, dtype: Any) -> int:
    """The largest number that may occur, as the file says; 0 if it does not."""
    value = tags.get(_LARGEST, 0)
    value = max(value) if isinstance(value, tuple) and value else value
    return value if isinstance(value, int) and value > 0 and dtype.kind in "ui" else 0
