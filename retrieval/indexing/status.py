"""What an index holds, and how its folders differ from it now.

Nothing is written and no file is opened: names, sizes and times are compared.
"""

from dataclasses import dataclass, field
from pathlib import Path

from indexes.catalogue import IndexModel
from indexes.index import Index
from indexes.paths import is_folder
from indexes.vectors.store import About
from retrieval.photos.walk import LeftOut, has_rawpy, is_below, walk


@dataclass(frozen=True)
class Status:
    """What an index holds.

    photos, files, missing, skipped: as in the catalogue (missing: photos that are no longer on
    disk, but not forgotten); reasons: the skipped files as (path, reason); new, changed, gone: how
    many files were added to the folders, changed or deleted since the last run, None if the
    folders were not walked. vectors: how they are searched, None for an index without photos.
    dates: how many photos have their time from each source, '' without a time; places: how many
    have coordinates. address: where the index is, as users name it.
    """

    folder: Path
    model: IndexModel
    roots: tuple[Path, ...]
    bytes: int
    photos: int
    files: int
    missing: int
    skipped: int
    reasons: tuple[tuple[Path, str], ...]
    excluded: tuple[str, ...] = ()
    included: tuple[str, ...] = ()
    new: int | None = None
    changed: int | None = None
    gone: int | None = None
    vectors: About | None = None
    dates: dict[str, int] = field(default_factory=dict)
    places: int = 0
    address: str = ""


def status(index: Index, look: bool = True) -> Status:
    """Describe an index. look: whether to walk its folders for new, changed and missing files."""
    roots = index.roots()
    folders = {root.id: root.path for root in roots}
    new = changed = gone = 0
    exclude, include = index.excluded(), index.included()
    for root in roots if look else ():
        if not root.path.is_absolute():
            continue  # a URL
        known = {p: f for p, f in index.catalogue.files.below(root.id).items() if f.present}
        if not is_folder(root.path):
            gone += sum(not file.elsewhere for file in known.values())
            continue
        left_out = LeftOut()
        for found in walk(root.path, "", exclude, has_rawpy(), left_out, include):
            file = known.pop(found.path, None)
            if file is None:
                new += 1
            elif (file.bytes, file.mtime_ns) != (found.bytes, found.mtime_ns):
                changed += 1
        gone += sum(
            not file.elsewhere and not any(is_below(p, f) for f in left_out.unreadable)
            for p, file in known.items()
        )
    return Status(
        folder=index.folder,
        model=index.model,
        roots=tuple(folders.values()),
        bytes=index.size_bytes(),
        reasons=tuple(
            (folders[i] / p, r) for i, p, r in index.catalogue.files.skipped() if i in folders
        ),
        excluded=tuple(exclude),
        included=tuple(include),
        new=new if look else None,
        changed=changed if look else None,
        gone=gone if look else None,
        vectors=index.vectors(),
        dates=index.catalogue.facts.sources(),
        places=index.catalogue.facts.count_places(),
        address=index.address,
        **index.catalogue.counts(),
    )
