"""Where a lake is: a folder, or a URL that fsspec reads (s3, gcs, memory and others).

Files are written whole or not at all: in a folder under a temporary name first; an object store
shows an object once it is complete. What the files mean is not known here.
"""

import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from indexes.atomic_write import sync_names
from indexes.errors import IndexDamagedError, StorageError
from indexes.paths import stays_inside

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_LOCAL = ("", "file", "local")


@dataclass(frozen=True)
class Location:
    """A place for files. url: absolute, as others may open it, too; see `Location.of`."""

    url: str

    @classmethod
    def of(cls, place: str | os.PathLike[str]) -> "Location":
        """The location that a user names: a folder, from here, or a URL."""
        text = os.fspath(place)
        scheme, separator, rest = text.partition("://")
        if separator and scheme not in _LOCAL:
            return cls(text.rstrip("/"))
        path = rest if separator else text
        return cls(str(Path(path).expanduser().absolute()))

    @property
    def folder(self) -> Path | None:
        """The folder, None if it is in an object store."""
        return None if "://" in self.url else Path(self.url)

    @cached_property
    def storage(self) -> "tuple[AbstractFileSystem, str]":
        """fsspec's file system of the place, and the path in it; raises StorageError."""
        from fsspec.core import url_to_fs

        try:
            filesystem, root = url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise StorageError(
                f"{self.url} cannot be opened ({error}). Install what fsspec needs for it, such as "
                "s3fs or gcsfs, or name a folder."
            ) from error
        return filesystem, root.rstrip("/")

    def open(self, name: str) -> IO[bytes]:
        """A file, for reading anywhere in it; raises FileNotFoundError or StorageError."""
        if self.folder is not None:
            return self._path(name).open("rb")
        filesystem, root = self.storage
        with _explained(self.url, name):
            file: Any = filesystem.open(f"{root}/{_checked(name)}", "rb")
            return file  # type: ignore[no-any-return]

    def read(self, name: str, most: int) -> bytes:
        """The content of a file of at most `most` bytes; raises as `open`, or IndexDamagedError."""
        with self.open(name) as file:
            content = file.read(most + 1)
        if len(content) > most:
            raise IndexDamagedError(f"{self.url}/{name} is larger than such a file can be.")
        return content

    def names(self, folder: str) -> dict[str, int]:
        """The files directly in a folder, as `folder/name`, with their bytes; none if missing."""
        if self.folder is not None:
            return self._local_names(folder)
        filesystem, root = self.storage
        filesystem.invalidate_cache()
        with suppress(FileNotFoundError), _explained(self.url, folder):
            found = filesystem.ls(f"{root}/{_checked(folder)}", detail=True)
            return {
                f"{folder}/{str(entry['name']).rpartition('/')[2]}": int(entry["size"] or 0)
                for entry in found
                if entry["type"] == "file"
            }
        return {}

    def _local_names(self, folder: str) -> dict[str, int]:
        found = {}
        with suppress(FileNotFoundError), os.scandir(self._path(folder)) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    if entry.is_file(follow_symlinks=False) and not entry.name.endswith(".tmp"):
                        found[f"{folder}/{entry.name}"] = entry.stat(follow_symlinks=False).st_size
        return found

    def write(self, name: str, content: bytes) -> None:
        """Write a file, or replace it; raises StorageError."""
        with _explained(self.url, name, writes=True):
            if self.folder is None:
                filesystem, root = self.storage
                filesystem.pipe_file(f"{root}/{_checked(name)}", content)
                return
            temporary = self._temporary(name, content)
            temporary.replace(self._path(name))
            sync_names(temporary.parent)

    def create(self, name: str, content: bytes) -> bool:
        """Write a file unless there is one of this name; returns whether it was written.

        Of several writers at once, one succeeds: in a folder, and in stores that know conditional
        writes. Raises StorageError.
        """
        with _explained(self.url, name, writes=True):
            if self.folder is None:
                return self._create_object(name, content)
            temporary = self._temporary(name, content)
            try:
                os.link(temporary, self._path(name))
            except FileExistsError:
                return False
            finally:
                temporary.unlink(missing_ok=True)
            sync_names(temporary.parent)
            return True

    def _create_object(self, name: str, content: bytes) -> bool:
        filesystem, root = self.storage
        path = f"{root}/{_checked(name)}"
        if filesystem.exists(path):
            return False
        try:
            filesystem.pipe_file(path, content, mode="create")
        except FileExistsError:
            return False
        except (TypeError, NotImplementedError):  # no conditional writes
            filesystem.pipe_file(path, content)
        return True

    def delete(self, name: str) -> None:
        """Delete a file, if it is there; raises StorageError."""
        with suppress(FileNotFoundError), _explained(self.url, name):
            if self.folder is not None:
                self._path(name).unlink()
            else:
                filesystem, root = self.storage
                filesystem.rm_file(f"{root}/{_checked(name)}")

    def _temporary(self, name: str, content: bytes) -> Path:
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        return temporary

    def _path(self, name: str) -> Path:
        return Path(self.url) / _checked(name)


class _explained:
    """What goes wrong with a file, as StorageError.

    writes: whether it is written, so that what is missing is its bucket; else FileNotFoundError
    passes through.
    """

    def __init__(self, url: str, name: str, writes: bool = False) -> None:
        self._what, self._writes = f"{url}/{name}", writes

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        passes = isinstance(error, FileNotFoundError) and not self._writes
        if isinstance(error, OSError) and not passes:
            raise StorageError(
                f"{self._what} cannot be read or written ({error.strerror or error}). "
                "Check the place that --lake names, and its access rights."
            ) from error


def _checked(name: str) -> str:
    """A name inside the lake; raises IndexDamagedError if it leaves it."""
    if not name or not stays_inside(name):
        raise IndexDamagedError(f"The lake names the file {name[:80]!r}, which lies outside it.")
    return name
