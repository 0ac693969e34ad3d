"""Delete an index: the files that belong to it, and nothing else.

Photos in or around its folder are never touched. Forgetting some of its photos is the catalogue's.
"""

from pathlib import Path

from indexes.database import SQLITE_FILES
from indexes.errors import IndexMissingError
from indexes.locate import is_index
from indexes.lock import LOCK, lock
from indexes.regular_files import delete_file, delete_tree
from indexes.staged_rebuild import delete_litter
from indexes.vector_files import caches


def delete(folder: Path) -> None:
    """Delete the index in `folder`: only files that belong to an index, never photos.

    Raises IndexMissingError or IndexBusyError.
    """
    if not is_index(folder):
        raise IndexMissingError(f"There is no index in {folder}.")
    with lock(folder):
        # The catalogue first: without its log it would be an older state of the index. A log that
        # a killed process leaves is deleted by whoever creates the next index here.
        for name in SQLITE_FILES:
            delete_file(folder / name)
        for path in caches(folder):
            delete_tree(path)
        delete_litter(folder)
    delete_file(folder / LOCK)
    try:
        folder.rmdir()
    except OSError:
        pass  # it holds other files, too
