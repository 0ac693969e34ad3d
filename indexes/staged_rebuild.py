"""A new index that is there when it is complete, in the place of an old one or of none.

Until then an old index stays as it was and can be searched.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from indexes.catalogue import IndexModel
from indexes.database import Database, place_catalogue
from indexes.errors import StorageError
from indexes.index import STAGING, Index
from indexes.lock import HOLDER
from indexes.regular_files import delete_file, delete_tree
from indexes.vector_files import caches

REBUILD = "rebuild.tmp"


@contextmanager
def staged_rebuild(folder: Path, model: IndexModel) -> Iterator[Index]:
    """Give an empty index, which replaces the one in `folder` when the block ends.

    The caller holds the lock. If the block raises, the disk is full or the process is killed, the
    old index stays.

    The new catalogue is moved out of its log and checked page by page; then its content replaces
    that of the old one in one transaction of SQLite. Renaming the file would be cheaper, but is
    never safe: the old log has to go first, which loses what only the log has if the process is
    killed before the new name is there, and a search that opens the files at that moment reads
    one catalogue with the log of the other.
    """
    staging = folder / REBUILD
    delete_litter(folder)
    try:
        with Index.create(staging, model) as new:
            yield new
            new.prepare_move(folder)
            new.catalogue.database.checkpoint()
        with closing(Database.open_main_file(staging)) as successor:
            damage = successor.damage()
            if damage is not None:
                raise StorageError(
                    f"The new index could not be read back ({damage}): check the disk and the "
                    "memory, then run the same command again."
                )
            with closing(Database.open(folder, writable=True)) as old:
                successor.copy_to(old)
        for path in caches(staging):
            with suppress(OSError):  # the next search computes it
                path.replace(folder / path.name)
    except StorageError as error:
        raise StorageError(f"{error} The index {folder} is as it was before.") from error
    finally:
        with suppress(OSError):  # the next run deletes what is left
            delete_tree(staging)


@contextmanager
def staged_creation(folder: Path, model: IndexModel) -> Iterator[Index]:
    """Give an empty index, which is moved into `folder`, where none is, when the block ends.

    The caller holds the lock. If the block raises or the process is killed, there is no index.
    """
    staging = folder / REBUILD
    delete_litter(folder)
    try:
        with Index.create(staging, model) as new:
            yield new
            new.prepare_move(folder)
            new.catalogue.database.checkpoint()
        place_catalogue(staging, folder)
    except OSError as error:
        raise StorageError(
            f"The index {folder} could not be written ({error.strerror}). Choose another place "
            "with --index DIR."
        ) from error
    finally:
        with suppress(OSError):  # the next run deletes what is left
            delete_tree(staging)


def delete_litter(folder: Path) -> None:
    """Delete what killed processes left in the folder of an index; the caller holds the lock.

    What cannot be deleted stays, and is an error for whoever needs its name.
    """
    for name in (STAGING, REBUILD):
        with suppress(OSError):
            delete_tree(folder / name)
    for path in folder.glob(f"{HOLDER}.*.tmp"):
        delete_file(path)
