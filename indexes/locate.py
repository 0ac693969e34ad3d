"""Where an index is: in a folder, or in the nearest folder above that keeps one."""

from pathlib import Path

from indexes.database import FILENAME

FOLDER_NAME = ".retrieval"


def is_index(folder: Path) -> bool:
    """Whether `folder` is an index (it may still be a damaged one)."""
    return (folder / FILENAME).is_file()


def index_at(where: Path) -> Path | None:
    """The index that `where` is, or that the folder `where` keeps; None if there is none."""
    return next(filter(is_index, (where, where / FOLDER_NAME)), None)


def find(start: Path) -> Path | None:
    """The index that `start` or the nearest folder above it keeps in `.retrieval`."""
    for folder in (start, *start.parents):
        if is_index(folder / FOLDER_NAME):
            return folder / FOLDER_NAME
    return None
