"""Writing a file in one step: its name never stands for half a file, even after a crash.

Caches, models and results are written this way. The catalogue is not: SQLite has its own.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary path in the same folder to write to; it replaces `path` at the end.

    The content reaches the disk before the name does. If the block raises, or the process is
    killed, `path` stays as it was; a block that raises leaves no temporary file. A link at either
    name is replaced, never written through. Raises OSError, and only if `path` was not replaced.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        temporary.open("xb").close()
        yield temporary
        replace_synced(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def replace_synced(source: Path, target: Path) -> None:
    """Rename a finished file; its content reaches the disk first, its name before this returns."""
    with source.open("rb+") as file:
        os.fsync(file.fileno())
    source.replace(target)
    sync_names(target.parent)


def sync_names(folder: Path) -> None:
    """Write the names in a folder to disk, where folders can be synced (not on Windows).

    Folders that cannot be read and some network mounts do not allow it. The file is complete all
    the same; only a power failure in the next seconds could bring the old one back.
    """
    if not hasattr(os, "O_DIRECTORY"):
        return
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
