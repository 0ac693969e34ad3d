"""A rebuild beside the index that it will replace, and deleting an index.

Until a rebuild is done the old index stays as it was and can be searched.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from indexes.catalogue import Catalogue, IndexModel
from indexes.database import FILENAME, put_catalogue
from indexes.errors import IndexMissingError
from indexes.index import STAGING, Index
from indexes.locate import is_index
from indexes.lock import LOCK, lock

SUCCESSOR = "rebuild.tmp"


@contextmanager
def staged_rebuild(folder: Path, model: IndexModel) -> Iterator[Index]:
    """An empty index that takes the place of the one in `folder` when the block ends well.

    Until then, and if it ends in an error or a kill, the old one stays as it was and can be
    searched. The caller holds the lock.
    """
    staging = folder / SUCCESSOR
    shutil.rmtree(staging, ignore_errors=True)
    try:
        with Index.create(staging, model) as new:
            yield new
            for root in new.roots():
                new._put_root(root.path, root.id, home=folder)
        with Catalogue.open(folder, writable=True) as old:
            old.checkpoint()
        put_catalogue(staging, folder)
        for made_already in (*staging.glob("vectors-*.faiss"), *staging.glob("bias-*.bin")):
            made_already.replace(folder / made_already.name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def delete(folder: Path) -> None:
    """Delete the index in `folder`: only files that an index is made of, never photos."""
    if not is_index(folder):
        raise IndexMissingError(f"There is no index in {folder}.")
    with lock(folder):
        for pattern in (f"{FILENAME}-*", FILENAME, "vectors-*.faiss*", "bias-*.bin*"):
            for path in folder.glob(pattern):
                path.unlink()
        for name in (STAGING, SUCCESSOR):
            shutil.rmtree(folder / name, ignore_errors=True)
    (folder / LOCK).unlink(missing_ok=True)
    try:
        folder.rmdir()
    except OSError:
        pass  # something else lives there
