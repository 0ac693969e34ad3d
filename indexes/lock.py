"""The lock on an index: one process at a time may change it.

The operating system frees the lock when the process ends, however it ends.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from indexes.atomic_write import atomic_write
from indexes.errors import IndexBusyError, StorageError
from indexes.regular_files import check_own_files, delete_file, read_regular

LOCK, HOLDER = "lock", "holder.json"
_MOST_HOLDER_BYTES = 1000


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold the lock on the index in `folder`, which is created if it is missing.

    Raises IndexBusyError, which names the process that holds the lock, or StorageError.
    """
    from filelock import FileLock, Timeout

    check_own_files(folder, (LOCK, HOLDER))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file_lock = FileLock(folder / LOCK)
        file_lock.acquire(timeout=0)
    except Timeout:
        raise IndexBusyError(
            f"The index {folder} is being changed by another process{_holder(folder)}. Wait until "
            "it is done, then run the same command again. Searching works meanwhile."
        ) from None
    except OSError as error:
        raise StorageError(
            f"The index folder {folder} cannot be written ({error.strerror}). Choose another place "
            "with --index DIR."
        ) from error
    try:
        _write_holder(folder)
        yield
    finally:
        delete_file(folder / HOLDER)
        file_lock.release()


def _write_holder(folder: Path) -> None:
    holder = {"pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    try:
        with atomic_write(folder / HOLDER) as temporary:
            temporary.write_text(json.dumps(holder))
    except OSError:
        pass  # it only makes the message of a second process more helpful


def _holder(folder: Path) -> str:
    found = _read_holder(folder)
    return f" (process {found[0]}, since {found[1]})" if found else ""


def is_held(folder: Path) -> bool:
    """Whether a process that is still there wrote that it holds the lock; the lock is not taken."""
    import psutil

    found = _read_holder(folder)
    try:
        return found is not None and psutil.pid_exists(found[0])
    except (OverflowError, ValueError):
        return False


def _read_holder(folder: Path) -> tuple[int, str] | None:
    """The process that holds the lock, and since when; None if nothing sensible is written."""
    try:
        holder = json.loads(read_regular(folder / HOLDER, _MOST_HOLDER_BYTES))
        pid, since = int(holder["pid"]), str(holder["since"])[:19]
        return (pid, since) if since.isprintable() else None
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
