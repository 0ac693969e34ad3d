"""The public functions that change or check an index as a whole, without encoding a photo."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from indexes.check.report import CheckReport
from indexes.index import Index
from indexes.lock import lock
from indexes.milvus.mirrors import refuse_mirror
from retrieval.api import find_index
from retrieval.errors import QueryError
from retrieval.indexing.trust import check_trust
from retrieval.query import AnyPath, as_list
from retrieval.search.locate import find_from_here


@dataclass(frozen=True)
class FuseReport:
    """What `fuse` did. folder: of the index; fusion: its name; photos: how many it changed."""

    folder: Path
    fusion: str
    photos: int


def fuse(where: AnyPath | None = None, trust: bool = False) -> FuseReport:
    """Fuse the photos of an index with their captions again, by the current fusion of its model.

    Nothing is encoded: captions that changed wait for the next `index`. where: as for
    `find_index`; trust: as for `open`. Raises RetrievalError.
    """
    from retrieval.fusion.store import load_fusion
    from retrieval.indexing.fuse import fuse_photos
    from retrieval.ranking.vector_plan import vector_plan

    folder = find_index(where)
    with lock(folder), Index.open(folder, writable=True) as opened:
        check_trust(opened, trust)
        fusion = load_fusion(opened.model.fingerprint, opened.model.dim)
        count = fuse_photos(opened, fusion)
        opened.refresh(lambda: vector_plan(opened, None))
    return FuseReport(folder, fusion.name, count)


def check(
    where: AnyPath | None = None,
    repair: bool = False,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> "CheckReport":
    """Check everything in an index against everything else; photos are not read.

    repair: mend what can be mended; what is dropped, the next `index` encodes again. progress:
    called with what is checked, how many are done, and of how many. where: as for `find_index`.
    Raises IndexMissingError, IndexBusyError, and IndexDamagedError if the index cannot be opened at
    all.
    """
    from indexes.check.run import check_index, repair_index

    folder = find_index(where)
    refuse_mirror(folder, "`retrieval check`")
    if not repair:
        return check_index(folder, progress)
    with lock(folder):
        return repair_index(folder, progress)


def remove(paths: AnyPath | Sequence[AnyPath], where: AnyPath | None = None) -> int:
    """Remove photos, or folders of photos, from an index; returns how many files. Files stay.

    paths: one or several.
    An indexed folder that is removed as a whole is not indexed again, unless it is the only one.
    where: as for `find_index`. Raises QueryError for a path that is not in the index.
    """
    from retrieval.ranking.vector_plan import vector_plan

    folder = find_index(where)
    with lock(folder), Index.open(folder, writable=True) as opened:
        chosen = []
        for path in (Path(name).expanduser() for name in as_list(paths)):
            located = opened.locate(path)
            places = find_from_here(opened, path)
            if located is not None and not located[1]:
                places = [(located[0].id, "")]  # a whole folder, even if it has no photos
            if not places:
                raise QueryError(
                    f"{path} is not in the index {folder}. `retrieval info` lists its folders."
                )
            chosen += places
        count = opened.remove(chosen)
        opened.refresh(lambda: vector_plan(opened, None))
        return count


def delete_index(where: AnyPath | None = None) -> Path:
    """Delete a whole index; returns its folder. Photos stay. where: as for `find_index`.

    Raises IndexMissingError or IndexBusyError.
    """
    from indexes.delete import delete

    folder = find_index(where)
    refuse_mirror(folder, "Deleting a whole index")
    delete(folder)
    return folder
