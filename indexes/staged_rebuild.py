"""A new index that replaces an old one when it is complete, and deleting an index.

Until then the old index stays as it was and can be searched.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from indexes.catalogue import Catalogue, IndexModel
from indexes.database import FILENAME, move_catalogue
from indexes.errors import IndexMissingError
from indexes.index import STAGING, Index
from indexes.locate import is_index
from indexes.lock import LOCK, lock
from indexes.snapshot import CACHE_FILES

REBUILD = "rebuild.tmp"


@contextmanager
def staged_rebuild(folder: Path, model: IndexModel) -> Iterator[Index]:
    """Give an empty index, which replaces the one in `folder` when the block ends.

    If the block raises, or the process is killed, the old index stays. The caller holds the lock.
    """
    staging = folder / REBUILD
    shutil.rmtree(staging, ignore_errors=True)
    try:
        with Index.create(staging, model) as new:
            yield new
            new.prepare_move(folder)
        with Catalogue.open(folder, writable=True) as old:
            old.database.checkpoint()
        move_catalogue(staging, folder)
        for pattern in CACHE_FILES:
            for path in staging.glob(pattern):
                path.replace(folder / path.name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


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
