"""Compare folders with the catalogue: which files to read, which came back, which are missing.

Names, sizes and times are compared; no file is opened, and nothing is written.
"""

import gc
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from indexes.files import File
from indexes.index_roots import Root
from retrieval.photos.files import NO_PERMISSION, TOO_LARGE, UNREADABLE, printable
from retrieval.photos.walk import FoundFile, FoundText, LeftOut, has_rawpy, is_below, walk

RETRIED = (NO_PERMISSION, UNREADABLE)
"""How the reasons begin for which a file is read again by every run."""


@dataclass(frozen=True)
class Scan:
    """What a folder (the part `under` of a root) has: files that may be photos, and texts."""

    root: Root
    under: str
    files: list[FoundFile] = field(default_factory=list)
    texts: list[FoundText] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=LeftOut)


def scan(root: Root, under: str, exclude: Sequence[str], include: Sequence[str]) -> Scan:
    """Walk a folder. exclude, include: shell patterns."""
    found = Scan(root, under)
    # Python would look through millions of values again and again for cycles, which none is in.
    collects = gc.isenabled()
    gc.disable()
    try:
        found.files.extend(
            walk(root.path, under, exclude, has_rawpy(), found.left_out, include, found.texts)
        )
    finally:
        if collects:
            gc.enable()
    return found


@dataclass(frozen=True)
class ChangedFile:
    """A file to read, as the folder has it, and what the catalogue has at its path, if anything."""

    root: Root
    found: FoundFile
    before: File | None


@dataclass(frozen=True)
class FolderChanges:
    """How a folder (the part `under` of a root) differs from the catalogue.

    to_read: files that are new or changed, or failed for a reason that may be over; returned:
    known files that were missing and are back as they were; missing: paths of files that were
    there. unchanged, skipped: how many other files there are, photos and bad ones.
    """

    root: Root
    under: str
    to_read: tuple[ChangedFile, ...]
    returned: tuple[File, ...]
    missing: frozenset[str]
    unchanged: int
    skipped: int
    notes: tuple[str, ...]


def find_changes(scan: Scan, known: Mapping[str, File], retry_large: bool) -> FolderChanges:
    """Compare a folder with the catalogue.

    known: the files that the catalogue has there, by path; retry_large: whether to read again what
    was too large, as after a change of the limit.
    """
    missing = dict(known)
    to_read: list[ChangedFile] = []
    returned: list[File] = []
    unchanged = skipped = 0
    for found in scan.files:
        file = missing.pop(found.path, None)
        if file is None or is_to_read(file, found, retry_large):
            to_read.append(ChangedFile(scan.root, found, file))
        elif file.reason:
            skipped += 1
        elif file.present:
            unchanged += 1
        else:
            returned.append(replace(file, present=True))
    return FolderChanges(
        scan.root,
        scan.under,
        tuple(to_read),
        tuple(returned),
        frozenset(
            path
            for path, file in missing.items()
            if file.present
            and not file.elsewhere
            and not any(is_below(path, folder) for folder in scan.left_out.unreadable)
        ),
        unchanged,
        skipped,
        tuple(_notes(scan.left_out)),
    )


def is_to_read(file: File, found: FoundFile, retry_large: bool) -> bool:
    """Whether a known file changed, or failed for a reason that may be over."""
    if (file.bytes, file.mtime_ns) != (found.bytes, found.mtime_ns):
        return True
    reason = file.reason or ""
    if reason.startswith(TOO_LARGE):
        return retry_large
    return reason.startswith(RETRIED)


def _notes(left_out: LeftOut) -> list[str]:
    """Sentences about what a walk left out."""
    notes = []
    if left_out.unreadable:
        names = ", ".join(repr(name or ".") for name in left_out.unreadable[:3])
        notes.append(
            f"{len(left_out.unreadable)} folder(s) could not be opened ({names}); their photos "
            "stay in the index."
        )
    if left_out.links:
        notes.append(
            f"{left_out.links} symbolic link(s) were not followed; to index what they point to, "
            "name its own path."
        )
    if left_out.raw:
        notes.append(
            f"{left_out.raw} camera raw file(s) were left out; `pip install "
            "'crossmodal-retrieval[raw]'` to index them too."
        )
    special = [
        f"{sum(names.values()):,} {what} ({_most_common(names)})"
        for what, names in (
            ("folder(s) of the system", left_out.system_folders),
            ("hidden folder(s)", left_out.hidden_folders),
        )
        if names
    ]
    if left_out.hidden_photos:
        special.append(f"{left_out.hidden_photos:,} hidden photo(s)")
    if special:
        notes.append(
            f"{' and '.join(special)} were left out; `retrieval index --include NAME` indexes them."
        )
    if left_out.endings:
        endings = Counter({f".{e}" if e else "without": n for e, n in left_out.endings.items()})
        notes.append(
            f"{sum(endings.values()):,} file(s) were left out because their names do not end like "
            f"a photo's ({_most_common(endings, counted=True)})."
        )
    return notes


def _most_common(names: Counter[str], counted: bool = False) -> str:
    """The most common names, those with the same number in their order."""
    several = sorted(names.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{n:,} {printable(name)}" if counted else printable(name) for name, n in several[:5]]
    return ", ".join([*shown, *(["…"] if len(several) > 5 else [])])
