"""Read a camera's raw file as an image file: the preview that it holds, or the photo developed.

rawpy (the optional group `raw`) does the work. It allocates what a file asks for, so sizes are
checked before: of the file, and of the picture that its header promises.
"""

import io
import os
from typing import Any, BinaryIO, cast

from PIL import Image

from retrieval.errors import PhotoError
from retrieval.photos.files import TOO_LARGE
from retrieval.photos.size import check_size

_MAX_BYTES = 1 << 29  # rawpy reads all of a file; those of the largest cameras have 300 MB


def raw_preview(file: BinaryIO, max_megapixels: float) -> BinaryIO:
    """The JPEG preview in a camera's raw file, or else the developed photo as BMP.

    Raises PhotoError.
    """
    try:
        import rawpy
    except ImportError as error:
        raise PhotoError(
            "camera raw files need `pip install 'crossmodal-retrieval[raw]'`"
        ) from error
    length = file.seek(0, os.SEEK_END)
    if length > _MAX_BYTES:
        raise PhotoError(f"{TOO_LARGE}: {length:,} bytes, over the limit of {_MAX_BYTES:,}")
    file.seek(0)
    try:
        with rawpy.imread(file) as raw:  # the header alone is read here
            check_size((raw.sizes.raw_width, raw.sizes.raw_height), max_megapixels)
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
