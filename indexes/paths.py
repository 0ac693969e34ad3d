"""Paths as the catalogue stores them: relative to an indexed folder, with `/`.

A path is TEXT, or BLOB where the bytes of the name are not UTF-8 (surrogates in Python). The folder
may be one of an object store.
"""

import os
import re
from pathlib import Path
from typing import Any

from indexes.rows import RowError

# A scheme of one letter would be a drive of Windows; Path makes one slash of several.
_URL = re.compile("[A-Za-z][A-Za-z0-9+.-]+:/")


class UrlPath(type(Path())):  # type: ignore[misc]
    """The URL of a folder or file in an object store. No file of this machine has this path."""

    def __str__(self) -> str:
        return re.sub(":/+", "://", super().__str__(), count=1)

    def relative_to(self, *other: Any, **options: Any) -> Path:
        """The part below another URL: no URL itself."""
        return Path(*super().relative_to(*other, **options).parts)

    def is_absolute(self) -> bool:
        """Whether it is meant from anywhere: yes."""
        return True

    def absolute(self) -> "UrlPath":
        """The URL itself."""
        return self

    def resolve(self, strict: bool = False) -> "UrlPath":
        """The URL itself."""
        return self


def as_path(text: str | Path) -> Path:
    """A path of this machine, or a URL, as users type them."""
    return UrlPath(text) if _URL.match(str(text)) else Path(text)


def to_sql(path: str) -> str | bytes:
    """A path as the value of a column."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return os.fsencode(path)
    return path


def from_sql(path: str | bytes) -> str:
    """The inverse of `to_sql`; raises RowError if the path leaves its folder."""
    name = path if isinstance(path, str) else os.fsdecode(path)
    if not stays_inside(name):
        raise RowError(f"files.path: {name[:80]!r} leaves the indexed folder")
    return name


def stays_inside(path: str | bytes) -> bool:
    """Whether a stored path stays inside its folder."""
    name = path if isinstance(path, str) else os.fsdecode(path)
    if name.startswith("/") or "\0" in name:
        return False
    return ".." not in name or ".." not in name.split("/")


def is_folder(path: Path) -> bool:
    """Whether a folder is there. A stored path may be one that no folder can have."""
    return os.path.isdir(path)  # noqa: PTH112 - Path.is_dir raises for some paths


def is_file(path: Path) -> bool:
    """As `is_folder`, of a file."""
    return os.path.isfile(path)  # noqa: PTH113


def below(root_id: int, path: str) -> tuple[str, list[Any]]:
    """A condition on `files f` and its values: in this root, at or below `path` ('' for all)."""
    if not path:
        return "f.root_id = ?", [root_id]
    # Each range has all columns of the index: SQLite would else read all files of the root.
    ranges = [("f.path = ?", [to_sql(path)])]
    first, last = to_sql(f"{path}/"), to_sql(f"{path}0")  # '0' follows '/'
    ranges.append(("f.path >= ? AND f.path < ?", [first, last]))
    if isinstance(first, str):
        # Names that are not UTF-8 are stored as bytes, which SQLite sorts after all text.
        as_bytes: list[Any] = [os.fsencode(f"{path}/"), os.fsencode(f"{path}0")]
        ranges.append(("f.path >= ? AND f.path < ?", as_bytes))
    condition = " OR ".join(f"(f.root_id = ? AND {one})" for one, _ in ranges)
    return f"({condition})", [value for _, some in ranges for value in (root_id, *some)]
