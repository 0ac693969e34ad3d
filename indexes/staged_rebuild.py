"""A new index that replaces an old one when it is complete.

Until then the old index stays as it was and can be searched.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from indexes.catalogue import Catalogue, IndexModel
from indexes.database import move_catalogue
from indexes.index import Index
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
