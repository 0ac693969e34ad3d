"""Files in the folder of an index, opened without following links.

The folder may have been unpacked from a stranger's archive: a link, a pipe or a device under one of
our names is not read, written or waited for. What a file holds is for its reader to check.
"""

import os
import shutil
import stat
from pathlib import Path
from typing import BinaryIO

from indexes.errors import StorageError

# Missing on Windows, where `is_regular` alone decides.
_SAFE_FLAGS = (
    getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)  # opening a pipe would wait for its other end
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)


def is_regular(path: Path) -> bool:
    """Whether `path` is a file of its own: no link, folder, pipe or device."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (OSError, ValueError):
        return False


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading; raises OSError for anything else."""
    if not is_regular(path):
        raise FileNotFoundError(f"{path} is missing or not a regular file")
    descriptor = _open_in_folder(path)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{path} is not a regular file")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _open_in_folder(path: Path) -> int:
    """Open a file by its name in a folder that is opened first.

    A `.retrieval` that is replaced by a link meanwhile is not followed, as `check_own_files` says.
    """
    if os.open not in os.supports_dir_fd or not hasattr(os, "O_DIRECTORY"):  # Windows
        return os.open(path, os.O_RDONLY | _SAFE_FLAGS)
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    if path.parent.name == ".retrieval":
        flags |= os.O_NOFOLLOW
    folder = os.open(path.parent, flags)
    try:
        return os.open(path.name, os.O_RDONLY | _SAFE_FLAGS, dir_fd=folder)
    finally:
        os.close(folder)


def read_regular(path: Path, most: int) -> bytes:
    """All of a regular file of at most `most` bytes; raises OSError for anything else."""
    with open_regular(path) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(f"{path} has more than {most} bytes")
    return data


def delete_tree(path: Path) -> None:
    """Delete a folder of ours with all that is in it; a link in its place goes, not its target.

    Raises OSError if something is left.
    """
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)
        if path.exists():
            raise OSError(f"{path} could not be deleted")


def delete_file(path: Path) -> None:
    """Delete a file, or a link in its place, if it is there; a folder of that name stays."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)


def check_own_files(folder: Path, names: tuple[str, ...]) -> None:
    """Raise StorageError if `folder` is a linked `.retrieval`, or one of its files is no file.

    A folder that the user names may be a link; one that is found by its name alone may not.
    """
    if folder.name == ".retrieval" and folder.is_symlink():
        raise StorageError(
            f"{folder} is a link, which an unpacked archive may have brought along. If you made "
            f"it, name the folder behind it with --index {os.path.realpath(folder)}."
        )
    for name in names:
        path = folder / name
        try:
            mode = path.lstat().st_mode
        except (OSError, ValueError):  # SQLite deletes its files when it is done with them
            continue
        if not stat.S_ISREG(mode):
            raise StorageError(
                f"{path} is a link, pipe, device or folder, which no index has; nothing was "
                "read or written through it. Remove it if this index is yours, and run the same "
                "command again."
            )
