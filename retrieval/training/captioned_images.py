"""Captioned photos as the training of a model reads them, decoded one by one when they are needed.

Augmentation is not done here.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from PIL import Image

from indexes.errors import RetrievalError
from retrieval.datasets.captioned import CaptionedPhoto, CaptionedSet
from retrieval.datasets.embedding_cache import drop_unreadable
from retrieval.errors import DataSetError
from retrieval.photos.decode import open_photo
from retrieval.photos.decoder_processes import DecoderProcesses
from retrieval.photos.size import default_max_megapixels
from retrieval.training.options import Log, Progress

LoadImage = Callable[[], Image.Image]
"""Returns one upright RGB photo; raises DataSetError if it cannot be read."""


_THREADS = 4


@dataclass(frozen=True)
class CaptionedImages:
    """Photos, each with one caption or more."""

    photos: Sequence[LoadImage]
    captions: Sequence[Sequence[str]]


def captioned_images(
    captioned: CaptionedSet, size: int, processes: DecoderProcesses
) -> CaptionedImages:
    """The photos of a set, decoded at no less than `size` pixels on the shorter side.

    processes: where to decode what is not plain JPEG or PNG, for as long as photos are loaded.
    """
    limit = default_max_megapixels(_THREADS)

    def loader(photo: CaptionedPhoto) -> LoadImage:
        def load() -> Image.Image:
            try:
                return _decode(photo, limit, size, processes)
            except (RetrievalError, OSError) as error:
                raise DataSetError(
                    f"{photo.name} cannot be read ({error}). Replace the photo or remove it from "
                    "the captions."
                ) from error

        return load

    return CaptionedImages(
        [loader(photo) for photo in captioned.photos],
        [photo.captions for photo in captioned.photos],
    )


def readable_photos(
    captioned: CaptionedSet, size: int, log: Log, progress: Progress
) -> CaptionedSet:
    """The set without the photos that cannot be decoded; each is decoded once to find out.

    Raises DataSetError if no photo is left.
    """
    limit = default_max_megapixels(_THREADS)

    def reason(photo: CaptionedPhoto) -> str | None:
        try:
            _decode(photo, limit, size, processes)
        except (RetrievalError, OSError) as error:
            return str(error)
        return None

    reasons = {}
    with DecoderProcesses() as processes, ThreadPoolExecutor(_THREADS) as threads:
        for position, found in enumerate(threads.map(reason, captioned.photos)):
            if found is not None:
                reasons[position] = found
            progress("Checking photos", position + 1, len(captioned.photos))
    return drop_unreadable(captioned, reasons, True, log)


def _decode(
    photo: CaptionedPhoto, limit: float, size: int, processes: DecoderProcesses
) -> Image.Image:
    with photo.open() as file:
        return open_photo(file, photo.path, limit, size, processes=processes)[0]
