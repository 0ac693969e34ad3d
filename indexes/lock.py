"""The right to change an index, held by one process at a time.

The operating system frees the lock when the process ends, however it ends.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from indexes.errors import IndexBusyError, StorageError

LOCK, HOLDER = "lock", "holder.json"


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold the right to change the index in `folder`; raises IndexBusyError, saying who has it."""
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = FileLock(folder / LOCK)
        held.acquire(timeout=0)
    except Timeout:
        raise IndexBusyError(
            f"The index {folder} is being changed by another process{_holder(folder)}. Wait until "
            "it is done, then run the same command again; searching works meanwhile."
        ) from None
    except OSError as error:
        raise StorageError(
            f"The index folder {folder} cannot be written ({error.strerror}). Choose another place "
            "with --index DIR."
        ) from error
    try:
        _note_holder(folder)
        yield
    finally:
        (folder / HOLDER).unlink(missing_ok=True)
        held.release()


def _note_holder(folder: Path) -> None:
    note = {"pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    try:
        (folder / HOLDER).write_text(json.dumps(note))
    except OSError:
        pass  # only there to be told to a second process


def _holder(folder: Path) -> str:
    try:
        note = json.loads((folder / HOLDER).read_text())
        return f" (process {int(note['pid'])}, since {str(note['since'])[:19]})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
