"""Walk folders and find the files that may be photos, by the ending of their names.

Only names and sizes are looked at. Symbolic links are not followed: they may lead outside the
indexed folder or around in circles; the folder they point to can be indexed by its own name.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path

PHOTO_SUFFIXES = frozenset(
    "jpg jpeg jpe jfif png webp gif tif tiff bmp dib heic heif hif avif".split()
)
RAW_SUFFIXES = frozenset(
    "3fr arw cr2 cr3 crw dcr dng erf iiq kdc mef mos mrw nef nrw orf pef raf raw rw2 rwl sr2 srf "
    "srw x3f".split()
)
# Folders that systems and NAS boxes keep for themselves: copies, thumbnails and rubbish.
_SYSTEM_FOLDERS = frozenset(
    ("@eadir", "#recycle", "$recycle.bin", "system volume information", "__macosx", "lost+found")
)


@dataclass(frozen=True)
class Found:
    """A file that may be a photo: its path in the root, bytes, and time of change in ns."""

    path: str
    bytes: int
    mtime_ns: int


@dataclass
class Walk:
    """What a walk met besides photos. Filled while `walk` is being iterated."""

    unreadable: list[str] = field(default_factory=list)  # folders, as paths in the root
    links: int = 0
    raw: int = 0


def walk(root: Path, under: str, exclude: Sequence[str], raw: bool, met: Walk) -> Iterator[Found]:
    """Every file below `root`/`under` whose name ends like a photo's, in order of path.

    exclude: shell patterns, matched against the path in the root and against each name.
    raw: whether files of cameras' own formats count as photos; else they are counted in `met`.
    Hidden files and folders, systems' own folders and links are left out.
    """
    pending = [under]
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(root / folder if folder else root) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            met.unreadable.append(folder)
            continue
        inner = []
        for entry in listed:
            path = f"{folder}/{entry.name}" if folder else entry.name
            if entry.name.startswith(".") or _excluded(path, entry.name, exclude):
                continue
            try:
                if entry.is_symlink():
                    met.links += 1
                elif entry.is_dir():
                    if entry.name.lower() not in _SYSTEM_FOLDERS:
                        inner.append(path)
                elif entry.is_file():
                    suffix = entry.name.rpartition(".")[2].lower()
                    if suffix in RAW_SUFFIXES and not raw:
                        met.raw += 1
                    elif suffix in PHOTO_SUFFIXES or suffix in RAW_SUFFIXES:
                        state = entry.stat()
                        if stat.S_ISREG(state.st_mode):
                            yield Found(path, state.st_size, state.st_mtime_ns)
            except OSError:
                continue  # vanished between the listing and the look
        pending.extend(reversed(inner))


def _excluded(path: str, name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(path, p) or fnmatchcase(name, p) for p in patterns)


def is_below(path: str, folder: str) -> bool:
    """Whether a path in a root is `folder` ('' for the root itself) or inside it."""
    return not folder or path == folder or path.startswith(f"{folder}/")


def has_rawpy() -> bool:
    """Whether camera raw files can be read (the optional group `raw`)."""
    return find_spec("rawpy") is not None
