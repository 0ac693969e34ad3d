"""Compare folders with the catalogue: which files to read, which came back, which are missing.

Names, sizes and times are compared; no file is opened, and nothing is written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from indexes.files import File
from indexes.index import Root
from retrieval.photos.files import NO_PERMISSION, TOO_LARGE, UNREADABLE
from retrieval.photos.walk import FoundFile, LeftOut, has_rawpy, is_below, walk


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


def find_changes(
    root: Root, under: str, known: Mapping[str, File], exclude: Sequence[str], retry_large: bool
) -> FolderChanges:
    """Walk a folder and compare it with the catalogue.

    known: the files that the catalogue has below `under`, by path; exclude: shell patterns;
    retry_large: whether to read again what was too large, as after a change of the limit.
    """
    missing = dict(known)
    left_out = LeftOut()
    to_read: list[ChangedFile] = []
    returned: list[File] = []
    unchanged = skipped = 0
    for found in walk(root.path, under, exclude, has_rawpy(), left_out):
        file = missing.pop(found.path, None)
        if file is None or _is_to_read(file, found, retry_large):
            to_read.append(ChangedFile(root, found, file))
        elif file.reason:
            skipped += 1
        elif file.present:
            unchanged += 1
        else:
            returned.append(replace(file, present=True))
    return FolderChanges(
        root,
        under,
        tuple(to_read),
        tuple(returned),
        frozenset(
            path
            for path, file in missing.items()
            if file.present
            and not file.elsewhere
            and not any(is_below(path, folder) for folder in left_out.unreadable)
        ),
        unchanged,
        skipped,
        tuple(_notes(left_out)),
    )


def _is_to_read(file: File, found: FoundFile, retry_large: bool) -> bool:
    """Whether a known file changed, or failed for a reason that may be over."""
    if (file.bytes, file.mtime_ns) != (found.bytes, found.mtime_ns):
        return True
    reason = file.reason or ""
    if reason.startswith(TOO_LARGE):
        return retry_large
    return reason.startswith((NO_PERMISSION, UNREADABLE))


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
    return notes
