"""Walk folders and find the files that may be photos, by the endings of their names.

No file is opened. Symbolic links are not followed: they may lead outside the indexed folder or in
circles; the folder that a link points to can be indexed by its own path.
"""

import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib.util import find_spec
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from indexes.locate import FOLDER_NAME
from retrieval.photos.files import composed, mtime_ns

PHOTO_SUFFIXES = frozenset(
    "jpg jpeg jpe jfif mpo png webp gif tif tiff bmp dib heic heif hif avif jxl "
    "jp2 j2k j2c jpc jpf jpx pbm pgm ppm pnm pfm psd".split()
)
RAW_SUFFIXES = frozenset(
    "3fr arw cr2 cr3 crw dcr dng erf iiq kdc mef mos mrw nef nrw orf pef raf raw rw2 rwl sr2 srf "
    "srw x3f".split()
)
# Folders of operating systems and NAS boxes, in lower case: copies, thumbnails and deleted files.
# Those that begin with a dot are hidden anyway.
_SYSTEM_FOLDERS = frozenset(
    (
        "$recycle.bin",
        "recycler",
        "recycled",
        "system volume information",
        "__macosx",
        "lost+found",
        "network trash folder",
        "temporary items",
        "@eadir",
        "#recycle",
        "#snapshot",
        "@tmp",
        "@sharesnap",
        "@recycle",
        "@recently-snapshot",
        "@transcode",
        "~snapshot",
    )
)
_TEXTS = frozenset("txt xmp json jsonl ndjson csv tsv caption".split())  # may hold captions
_KINDS = (
    dict.fromkeys(PHOTO_SUFFIXES, "photo")
    | dict.fromkeys(RAW_SUFFIXES, "raw")
    | dict.fromkeys(_TEXTS, "text")
)  # of files, by the endings of their names
_SYSTEM_FILES = frozenset(("thumbs.db", "ehthumbs.db", "desktop.ini", "picasa.ini"))
_MOST_ENDINGS = 1000  # that are told apart
_NAME = attrgetter("name")


class FoundFile(NamedTuple):  # there may be millions
    """A file that may be a photo: its path in the root, bytes, and time of change in ns."""

    path: str
    bytes: int
    mtime_ns: int


class FoundText(NamedTuple):
    """A file that may hold captions. ctime_ns: when its content or permissions changed."""

    path: str
    bytes: int
    mtime_ns: int
    ctime_ns: int


@dataclass
class LeftOut:
    """What a walk left out. `walk` fills it while it is iterated.

    unreadable: folders, as paths in the root; links, hidden_photos, raw (camera raw files): how
    many; system_folders, hidden_folders: how many by name; endings: how many other files by the
    ending of their name, in lower case, without texts that may be captions.
    """

    unreadable: list[str] = field(default_factory=list)
    links: int = 0
    hidden_photos: int = 0
    raw: int = 0
    system_folders: Counter[str] = field(default_factory=Counter)
    hidden_folders: Counter[str] = field(default_factory=Counter)
    endings: Counter[str] = field(default_factory=Counter)


def walk(
    root: Path,
    under: str,
    exclude: Sequence[str],
    raw: bool,
    left_out: LeftOut,
    include: Sequence[str] = (),
    texts: list[FoundText] | None = None,
) -> Iterator[FoundFile]:
    """Every file below `root`/`under` whose name ends like a photo's, in order of path.

    exclude: shell patterns, matched against the path in the root and against each name, in either
    Unicode form. raw: whether to find camera raw files; if not, they are counted in `left_out`.
    Hidden files and folders and folders of the system are left out, but those that match `include`;
    links and indexes always are. texts: gets the files that may hold captions, whatever patterns
    there are, since a list may name photos anywhere.
    """
    exclude, include = [composed(p) for p in exclude], [composed(p) for p in include]
    pending = [under]
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(root / folder if folder else root) as entries:
                listed = sorted(entries, key=_NAME)
        except OSError:
            left_out.unreadable.append(folder)
            continue
        inner = []
        for entry in listed:
            name = entry.name
            path = f"{folder}/{name}" if folder else name
            kind = _KINDS.get(_suffix(name))
            if kind == "text" and texts is not None:
                _add_text(entry, path, texts)
            if name == FOLDER_NAME or (exclude and _matches(path, name, exclude)):
                continue
            try:
                special = name[0] == "." or (kind is None and name.lower() in _SYSTEM_FOLDERS)
                if special and not _is_included(path, name, include):
                    _count_special(entry, left_out)
                elif entry.is_file(follow_symlinks=False):
                    if kind == "raw" and not raw:
                        left_out.raw += 1
                    elif kind == "photo" or kind == "raw":
                        state = entry.stat(follow_symlinks=False)
                        if stat.S_ISREG(state.st_mode):
                            yield FoundFile(path, state.st_size, mtime_ns(state))
                    else:
                        _count_other(name, left_out.endings)
                elif entry.is_symlink():
                    left_out.links += 1
                elif entry.is_dir():
                    inner.append(path)
            except OSError:
                continue  # it vanished after the folder was listed
        pending.extend(reversed(inner))


def _add_text(entry: os.DirEntry[str], path: str, texts: list[FoundText]) -> None:
    """Note a file that may hold captions; a link as what it points to, since lists may be links."""
    try:
        state = entry.stat()
    except OSError:
        return
    texts.append(FoundText(path, state.st_size, state.st_mtime_ns, state.st_ctime_ns))


def _count_special(entry: os.DirEntry[str], left_out: LeftOut) -> None:
    name = entry.name
    if entry.is_symlink():
        return
    if entry.is_dir():
        folders = left_out.hidden_folders if name.startswith(".") else left_out.system_folders
        _count(name, folders)
    # ._NAME is what macOS writes about NAME on disks of others: it is no photo.
    elif _suffix(name) in PHOTO_SUFFIXES | RAW_SUFFIXES and not name.startswith("._"):
        left_out.hidden_photos += 1


def _count_other(name: str, endings: Counter[str]) -> None:
    ending = _suffix(name) if "." in name else ""
    if ending not in _TEXTS and name.lower() not in _SYSTEM_FILES:
        _count(ending, endings)


def _count(key: str, counter: Counter[str]) -> None:
    if key in counter or len(counter) < _MOST_ENDINGS:
        counter[key] += 1


def _matches(path: str, name: str, patterns: Sequence[str]) -> bool:
    """Whether a path, or a name in it, matches one of the patterns, which are composed."""
    if not patterns:
        return False
    path, name = composed(path), composed(name)
    return any(fnmatchcase(path, p) or fnmatchcase(name, p) for p in patterns)


def _is_included(path: str, name: str, include: Sequence[str]) -> bool:
    """Whether a hidden or system entry is wanted, or a folder in it is."""
    inner = f"{composed(path)}/"
    return _matches(path, name, include) or any(p.startswith(inner) for p in include)


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
