"""Walk folders and find the files that may be photos, by the endings of their names.

No file is opened. Symbolic links are not followed: they may lead outside the indexed folder or in
circles; the folder that a link points to can be indexed by its own path.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path

from retrieval.photos.files import mtime_ns

PHOTO_SUFFIXES = frozenset(
    "jpg jpeg jpe jfif mpo png webp gif tif tiff bmp dib heic heif hif avif jxl "
    "jp2 j2k j2c jpc jpf jpx pbm pgm ppm pnm pfm psd".split()
)
RAW_SUFFIXES = frozenset(
    "3fr arw cr2 cr3 crw dcr dng erf iiq kdc mef mos mrw nef nrw orf pef raf raw rw2 rwl sr2 srf "
    "srw x3f".split()
)
# Folders of operating systems and NAS boxes: copies, thumbnails and deleted files.
_SYSTEM_FOLDERS = frozenset(
    ("@eadir", "#recycle", "$recycle.bin", "system volume information", "__macosx", "lost+found")
)


@dataclass(frozen=True)
class FoundFile:
    """A file that may be a photo: its path in the root, bytes, and time of change in ns."""

    path: str
    bytes: int
    mtime_ns: int


@dataclass
class LeftOut:
    """What a walk left out. `walk` fills it while it is iterated."""

    unreadable: list[str] = field(default_factory=list)  # folders, as paths in the root
    links: int = 0
    raw: int = 0  # camera raw files


def walk(
    root: Path, under: str, exclude: Sequence[str], raw: bool, left_out: LeftOut
) -> Iterator[FoundFile]:
    """Every file below `root`/`under` whose name ends like a photo's, in order of path.

    exclude: shell patterns, matched against the path in the root and against each name.
    raw: whether to find camera raw files; if not, they are counted in `left_out`.
    Hidden files and folders, folders of the system and links are left out.
    """
    pending = [under]
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(root / folder if folder else root) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            left_out.unreadable.append(folder)
            continue
        inner = []
        for entry in listed:
            path = f"{folder}/{entry.name}" if folder else entry.name
            if entry.name.startswith(".") or _excluded(path, entry.name, exclude):
                continue
            try:
                if entry.is_symlink():
                    left_out.links += 1
                elif entry.is_dir():
                    if entry.name.lower() not in _SYSTEM_FOLDERS:
                        inner.append(path)
                elif entry.is_file():
                    if is_raw(entry.name) and not raw:
                        left_out.raw += 1
                    elif is_raw(entry.name) or _suffix(entry.name) in PHOTO_SUFFIXES:
                        state = entry.stat()
                        if stat.S_ISREG(state.st_mode):
                            yield FoundFile(path, state.st_size, mtime_ns(state))
            except OSError:
                continue  # it vanished after the folder was listed
        pending.extend(reversed(inner))


def _excluded(path: str, name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(path, p) or fnmatchcase(name, p) for p in patterns)


def is_below(path: str, folder: str) -> bool:
    """Whether a path in a root is `folder` ('' for the root itself) or inside it."""
    return not folder or path == folder or path.startswith(f"{folder}/")


def is_raw(name: str) -> bool:
    """Whether a file is of a camera's own format, by the ending of its name."""
    return _suffix(name) in RAW_SUFFIXES


def has_rawpy() -> bool:
    """Whether camera raw files can be read (the optional group `raw`)."""
    return find_spec("rawpy") is not None


def _suffix(name: str) -> str:
    return name.rpartition(".")[2].lower()
