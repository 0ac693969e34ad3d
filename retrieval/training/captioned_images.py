"""Captioned photos as the training of a model reads them, decoded one by one when they are needed.

Augmentation is not done here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

from indexes.errors import RetrievalError
from retrieval.datasets.captioned import CaptionedPhoto, CaptionedSet
from retrieval.errors import DataSetError
from retrieval.photos.decode import default_max_megapixels, open_photo

LoadImage = Callable[[], Image.Image]
"""Returns one upright RGB photo; raises DataSetError if it cannot be read."""


@dataclass(frozen=True)
class CaptionedImages:
    """Photos, each with one caption or more."""

    photos: Sequence[LoadImage]
    captions: Sequence[Sequence[str]]


def captioned_images(captioned: CaptionedSet, size: int) -> CaptionedImages:
    """The photos of a set, decoded at no less than `size` pixels on the shorter side."""
    limit = default_max_megapixels(4)

    def loader(photo: CaptionedPhoto) -> LoadImage:
        def load() -> Image.Image:
            try:
                with photo.open() as file:
                    return open_photo(file, photo.path, limit, size)[0]
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
