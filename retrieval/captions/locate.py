"""Find the parts of a captioned photo set on disk: the captions, the photos, the tars.

A data set is named by its folder or its caption file; the rest is looked for where the usual data
sets have it. No caption is read here.
"""

import stat
from collections.abc import Sequence
from pathlib import Path

from retrieval.captions.formats import Row, quoted, unknown_format
from retrieval.errors import DataSetError
from retrieval.photos.files import real_path

_CAPTION_FILES = (
    "captions.jsonl",
    "metadata.jsonl",
    "dataset_*.json",
    "dataset.json",
    "captions_*.json",
    "annotations/captions_*.json",
    "*.token.txt",
    "*.token",
    "captions.txt",
    "captions.csv",
    "results.csv",
)
_PHOTO_FOLDERS = (
    "images",
    "Images",
    "Flicker8k_Dataset",  # spelt so in the archive
    "Flickr8k_Dataset",
    "flickr30k-images",
    "flickr30k_images",
    *(f"{kind}{year}" for year in (2014, 2017) for kind in ("val", "train")),
)
_COMPRESSED = (".gz", ".tgz", ".bz2", ".xz", ".zst", ".zip")
_SAMPLE = 50  # photos that are looked for in every place


def find_shards(where: Path) -> list[tuple[Path, str | None]]:
    """The tars that `where` is or has, each with its split: the subfolder it is in, if any."""
    if where.is_file():
        return [(where, None)] if where.suffix.lower() == ".tar" else []
    if not where.is_dir() or any(next(where.glob(name), None) for name in _CAPTION_FILES):
        return []
    return [(path, None) for path in sorted(where.glob("*.tar"))] or [
        (path, path.parent.name) for path in sorted(where.glob("*/*.tar"))
    ]


def holds_captions(folder: Path) -> bool:
    """Whether a folder has a caption file or tars, by their names."""
    names = (*_CAPTION_FILES, "*.tar", "*/*.tar")
    return folder.is_dir() and any(next(folder.glob(name), None) for name in names)


def find_caption_file(where: Path) -> Path:
    """The caption file; raises DataSetError if there is none or more than one."""
    if where.is_file():
        if where.suffix.lower() in _COMPRESSED:
            raise unknown_format(where, "it is compressed: unpack it first")
        return where
    if not where.is_dir():
        raise DataSetError(f"There is no data set {where}. Name a folder or a file that exists.")
    for name in _CAPTION_FILES:
        found = sorted(where.glob(name))
        if len(found) > 1:
            listed = ", ".join(str(path.relative_to(where)) for path in found)
            raise DataSetError(f"{where} holds several data sets: {listed}. Name one of the files.")
        if found:
            return found[0]
    raise unknown_format(where, "no captions in it")


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


def in_folder(folder: Path, path: str) -> str | None:
    """What is wrong with the photo `path` in `folder`; None if it is a file inside it."""
    try:
        state = (folder / path).lstat()
        if stat.S_ISLNK(state.st_mode):
            real = real_path(folder, path)
            if real is None:
                return f"the photo {quoted(path)} is a link that leads out of {folder}"
            state = real.stat()
    except (OSError, ValueError, RuntimeError):
        return f"there is no photo {quoted(path)} in {folder}"
    return None if stat.S_ISREG(state.st_mode) else f"{quoted(path)} in {folder} is not a file"
