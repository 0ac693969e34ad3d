"""Where an index is: in a folder of its own, or in `.retrieval` of a folder or of one above it."""

import os
from pathlib import Path

FILENAME = "catalogue.db"
FOLDER_NAME = ".retrieval"


def is_index(folder: Path) -> bool:
    """Whether `folder` holds an index, which may be damaged, or one that is not to be trusted."""
    return os.path.lexists(folder / FILENAME)


def index_at(folder: Path) -> Path | None:
    """The index in `folder` itself or in its `.retrieval`; None if there is none."""
    return next(filter(is_index, (folder, folder / FOLDER_NAME)), None)


def find(start: Path) -> Path | None:
    """The index in `.retrieval` of `start` or of the nearest folder above it."""
    for folder in (start, *start.parents):
        if is_index(folder / FOLDER_NAME):
            return folder / FOLDER_NAME
    return None
