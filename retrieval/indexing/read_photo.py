"""Read what indexing needs of one photo file: its pixels, its facts, and the texts inside it.

A process that decodes imports this module, so it imports little. What becomes of it is decided in
`encode`.
"""

from dataclasses import dataclass
from typing import BinaryIO

from PIL import Image

from retrieval.captions.metadata import embedded_texts
from retrieval.errors import PhotoError
from retrieval.photos.decode import (
    INCOMPLETE,
    DecodeJpeg,
    check_image,
    decode_image,
    decodes_here,
    needs_process,
    open_photo_here,
)
from retrieval.photos.decoder_processes import DecoderProcesses
from retrieval.photos.exif import PhotoFacts, read_facts
from retrieval.photos.files import reading
from retrieval.photos.open_image import open_image
from retrieval.photos.size import check_bytes
from retrieval.photos.walk import is_raw


@dataclass(frozen=True)
class PhotoReader:
    """How the photos of a run are read.

    max_megapixels: larger photos are bad; processes: where to decode what is not plain JPEG or PNG
    in sRGB.
    """

    max_megapixels: float
    processes: DecoderProcesses

    def pixels(
        self, file: BinaryIO, name: str, target: int, decode: DecodeJpeg | None
    ) -> tuple[Image.Image, PhotoFacts, tuple[str, ...]]:
        """Pixels and facts as `open_photo` returns them, and texts, not yet cleaned.

        Raises PhotoError.
        """
        limit = self.max_megapixels
        photo: Image.Image | None
        with reading():
            if decodes_here(file, name):
                photo, read = _pixels(file, name, limit, target, decode, here=True)
                if photo is not None and read is not None:
                    return photo, read[0], read[1]
            photo, (found, texts, incomplete) = self.processes.call(
                _pixels, file, name, limit, target
            )
        if photo is None:
            raise PhotoError("it has no pixels")
        if incomplete:
            photo.info[INCOMPLETE] = True
        return photo, PhotoFacts(**found), tuple(texts)

    def metadata(self, file: BinaryIO, name: str) -> tuple[PhotoFacts | None, tuple[str, ...]]:
        """Facts and texts of a file whose pixels are not needed.

        The facts of a camera's raw file, which are those of the preview in it, are None. Raises
        PhotoError.
        """
        limit = self.max_megapixels
        if decodes_here(file, name):
            facts, texts = _metadata(file, limit)[1]
        else:
            found, texts = self.processes.call(_metadata, file, limit)[1]
            facts = PhotoFacts(**found)
        return None if is_raw(name) else facts, tuple(texts)

    def texts(self, file: BinaryIO, name: str) -> tuple[str, ...]:
        """The texts inside a file whose pixels are not needed; none if it cannot be opened.

        Raises what `DecoderProcesses` raises if there is no process.
        """
        if decodes_here(file, name):
            return _texts(file, self.max_megapixels)[1]
        try:
            return tuple(self.processes.call(_texts, file, self.max_megapixels)[1])
        except PhotoError:  # what is wrong with a photo is found when it is decoded
            return ()


Read = tuple[PhotoFacts, tuple[str, ...], bool]
"""Facts, texts, and whether the file lacks its end."""


def _pixels(
    file: BinaryIO,
    name: str,
    max_megapixels: float,
    target: int,
    decode: DecodeJpeg | None = None,
    here: bool = False,
) -> tuple[Image.Image, Read] | tuple[None, None]:
    """Pixels and what is read with them; none if `here`, and another process is to decode it."""
    if is_raw(name):  # its texts are its own, its pixels those of the preview in it
        _, texts = _texts(file, max_megapixels)
        photo, facts = open_photo_here(file, name, max_megapixels, target, decode)
        return photo, (facts, texts, False)
    check_bytes(file, max_megapixels)
    with open_image(file) as image:
        if here and needs_process(image):
            return None, None
        check_image(image, max_megapixels)
        texts = tuple(embedded_texts(image))
        photo, facts = decode_image(image, file, max_megapixels, target, decode)
    return photo, (facts, texts, INCOMPLETE in photo.info)


def _metadata(
    file: BinaryIO, max_megapixels: float
) -> tuple[None, tuple[PhotoFacts, tuple[str, ...]]]:
    check_bytes(file, max_megapixels)
    with open_image(file) as image:
        return None, (read_facts(image), tuple(embedded_texts(image)))


def _texts(file: BinaryIO, max_megapixels: float) -> tuple[None, tuple[str, ...]]:
    try:
        check_bytes(file, max_megapixels)
        with open_image(file) as image:
            check_image(image, max_megapixels)
            return None, tuple(embedded_texts(image))
    except Exception:  # what is wrong with a photo is found when it is decoded
        return None, ()
