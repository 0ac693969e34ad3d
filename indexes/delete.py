"""Delete an index: the files that belong to it, and nothing else.

Photos in or around its folder are never touched. Forgetting some of its photos is the catalogue's.
"""

import shutil
from pathlib import Path

from indexes.database import FILENAME
from indexes.errors import IndexMissingError
from indexes.index import STAGING
from indexes.locate import is_index
from indexes.lock import LOCK, lock
from indexes.snapshot import CACHE_FILES
from indexes.staged_rebuild import REBUILD


def delete(folder: Path) -> None:
    """Delete the index in `folder`: only files that belong to an index, never photos.

    Raises IndexMissingError or IndexBusyError.
    """
    if not is_index(folder):
        raise IndexMissingError(f"There is no index in {folder}.")
    with lock(folder):
        # The log before the catalogue: SQLite would replay it into a later one.
        for pattern in (f"{FILENAME}-*", FILENAME, *(f"{p}*" for p in CACHE_FILES)):
            for path in folder.glob(pattern):
                path.unlink()
        for name in (STAGING, REBUILD):
            shutil.rmtree(folder / name, ignore_errors=True)
    (folder / LOCK).unlink(missing_ok=True)
    try:
        folder.rmdir()
    except OSError:
        pass  # it holds other files, too
