"""Find the photos that a caption file names, in the places where data sets usually have them.

No caption is read here. The files of captions themselves are found elsewhere: by `sidecars` in an
indexed folder, by `retrieval.datasets.locate` in a data set.
"""

from collections.abc import Sequence
from pathlib import Path

from retrieval.captions.formats import Row, quoted
from retrieval.errors import DataSetError

_PHOTO_FOLDERS = (
    "images",
    "Images",
    "Flicker8k_Dataset",  # spelt so in the archive
    "Flickr8k_Dataset",
    "flickr30k-images",
    "flickr30k_images",
    *(f"{kind}{year}" for year in (2014, 2017) for kind in ("val", "train")),
)
_SAMPLE = 50  # photos that are looked for in every place


def find_photos(file: Path, rows: Sequence[Row], images: Path | None) -> tuple[Path, bool]:
    """The folder of a caption file's photos, without links, and whether to use file names alone.

    rows: of the caption file; images: the folder, if the user named it. The second value is True if
    the folders in the rows' paths are to be dropped. Raises DataSetError if no place has any of
    the photos.
    """
    if images is not None and not images.is_dir():
        raise DataSetError(
            f"There is no folder {images}. Name the folder of the photos with --images."
        )
    above = file.absolute().parent
    roots = [above, above.parent] if above.name == "annotations" else [above]
    places = (
        [images] if images is not None else [r / n for r in roots for n in ("", *_PHOTO_FOLDERS)]
    )
    if images is None:
        places += [root / "images" / name for root in roots for name in _PHOTO_FOLDERS]
    sample = rows[:: max(1, len(rows) // _SAMPLE)]
    best, most = (places[0], False), 0
    for place in places:
        for by_name in (False, True):
            names = (r.image.rpartition("/")[2] if by_name else r.image for r in sample)
            count = sum((place / name).is_file() for name in names) if place.is_dir() else 0
            if count > most:
                best, most = (place, by_name), count
    if not most and rows:
        raise DataSetError(
            f"The photos of {file} (such as {quoted(rows[0].image)}) are not "
            f"{f'in {images}' if images is not None else 'beside it'}. Say where they are with "
            "--images DIR."
        )
    return best[0].resolve(), best[1]
