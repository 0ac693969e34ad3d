"""The Index: one folder on disk that holds a catalogue and its vectors, and keeps them in step.

Reading needs nothing but the folder; writing needs the lock (`indexes.lock`). Many processes may
search while one writes.
"""

import json
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from indexes.arrays import Floats
from indexes.biases import Biases
from indexes.catalogue import Catalogue, IndexModel
from indexes.database import place_catalogue
from indexes.errors import StorageError
from indexes.locate import FILENAME
from indexes.paths import is_folder
from indexes.photos import Filter
from indexes.regular_files import delete_tree
from indexes.snapshot import GalleryStatistics, Snapshot
from indexes.snapshots import Snapshots
from indexes.vector_files import VectorFiles, caches
from indexes.vectors import flat
from indexes.vectors.build import Plan
from indexes.vectors.store import About

STAGING = "new.tmp"
Result = TypeVar("Result")


@dataclass(frozen=True)
class Root:
    """An indexed folder: its id in the catalogue and where it is now."""

    id: int
    path: Path

    def inside(self, path: Path) -> str | None:
        """An absolute path as one in this folder, '' for the folder itself; None if outside."""
        if not path.is_relative_to(self.path):
            return None
        inside = path.relative_to(self.path).as_posix()
        return "" if inside == "." else inside


class Index:
    """An open index, for a `with` block or `close`. catalogue: all that is known of the photos."""

    def __init__(self, folder: Path, catalogue: Catalogue) -> None:
        self.folder = folder
        self.catalogue = catalogue
        self._snapshots = Snapshots(folder, catalogue)

    @property
    def model(self) -> IndexModel:
        """How the embeddings were computed."""
        return self._snapshots.model

    @classmethod
    def create(cls, folder: Path, model: IndexModel) -> "Index":
        """An empty index in `folder`, whose lock the caller holds; raises StorageError.

        The catalogue is built in a folder of its own and then moved: a process that is killed
        half-way leaves no index rather than a broken one.
        """
        staging = folder / STAGING
        try:
            delete_tree(staging)  # left by a process that was killed
            staging.mkdir(parents=True)
            try:
                with Catalogue.create(staging, model) as catalogue:
                    catalogue.database.checkpoint()  # only the main file is moved
                place_catalogue(staging, folder)
            finally:
                with suppress(OSError):  # the next run deletes what is left
                    delete_tree(staging)
        except OSError as error:
            raise StorageError(
                f"The index folder {folder} cannot be created ({error.strerror}). Choose a place "
                "that can be written with --index DIR."
            ) from error
        return cls.open(folder, writable=True)

    @classmethod
    def open(cls, folder: Path, writable: bool = False) -> "Index":
        """Open an index; raises IndexMissingError or IndexDamagedError."""
        catalogue = Catalogue.open(folder, writable)
        try:
            return cls(folder, catalogue)
        except BaseException:
            catalogue.close()
            raise

    def close(self) -> None:
        self.catalogue.close()

    def __enter__(self) -> "Index":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Folders -----------------------------------------------------------------------------------

    def roots(self) -> list[Root]:
        """The indexed folders, where they are now, as paths without links.

        A folder that moved together with its index is found by its path relative to the index, one
        that stayed while the index moved by its absolute path.
        """
        found = []
        for root_id, relative, absolute in self.catalogue.roots.all():
            moved = (self.folder.resolve() / relative).resolve()
            path = moved if relative and is_folder(moved) else Path(absolute).resolve()
            found.append(Root(root_id, path))
        return found

    def is_unavailable(self, root: Root) -> bool:
        """Whether a folder is missing, or is as empty as the mount point of a missing disk."""
        if not is_folder(root.path):
            return True
        index = self.folder.resolve()
        return not any(path.resolve() != index for path in root.path.iterdir())

    def add_root(self, folder: Path) -> tuple[Root, str]:
        """Make `folder` a part of the index; returns its root and the path inside that root.

        A folder inside a root stays a part of it; roots inside the folder become a part of it.
        """
        folder = folder.resolve()
        roots = self.roots()
        for root in roots:
            inside = root.inside(folder)
            if inside is not None:
                self._put_root(root.path, self.folder, root.id)
                return root, inside
        with self.catalogue.transaction():
            new = Root(self._put_root(folder, self.folder), folder)
            for root in roots:
                if root.path.is_relative_to(folder):
                    prefix = root.path.relative_to(folder).as_posix()
                    self.catalogue.merge_root(root.id, new.id, prefix)
        return new, ""

    def prepare_move(self, folder: Path) -> None:
        """Store where the roots are seen from `folder`, to which the index is about to move."""
        for root in self.roots():
            self._put_root(root.path, folder, root.id)

    def _put_root(self, path: Path, index: Path, root_id: int | None = None) -> int:
        try:
            relative = os.path.relpath(path, index.resolve())
        except ValueError:  # another drive, on Windows
            relative = ""
        if root_id is not None and (root_id, relative, str(path)) in self.catalogue.roots.all():
            return root_id  # most runs find it as it was
        return self.catalogue.roots.put(relative, str(path), root_id)

    def locate(self, path: Path) -> tuple[Root, str] | None:
        """The root that holds `path` and the path inside it; None outside every root."""
        absolute, roots = path.absolute(), self.roots()
        for candidate in (Path(os.path.normpath(absolute)), absolute.resolve()):
            for root in roots:
                inside = root.inside(candidate)
                if inside is not None:
                    return root, inside
        return None

    # Settings ----------------------------------------------------------------------------------

    def excluded(self) -> list[str]:
        """The shell patterns of files and folders to leave out."""
        return [p for p in self.catalogue.setting("exclude", "").split("\n") if p]

    def set_excluded(self, patterns: Sequence[str]) -> None:
        self.catalogue.set_setting("exclude", "\n".join(patterns))

    def included(self) -> list[str]:
        """The shell patterns of hidden files and folders of the system to bring in."""
        return [p for p in self.catalogue.setting("include", "").split("\n") if p]

    def set_included(self, patterns: Sequence[str]) -> None:
        self.catalogue.set_setting("include", "\n".join(patterns))

    def caption_files(self) -> list[Path]:
        """The files of captions that the user named."""
        try:
            return [Path(str(p)) for p in json.loads(self.catalogue.setting("captions", "[]"))]
        except (ValueError, TypeError):
            return []

    def set_caption_files(self, files: Sequence[Path]) -> None:
        self.catalogue.set_setting("captions", json.dumps([str(file) for file in files]))

    def set_fingerprint(self, fingerprint: str) -> None:
        """Record the hash of the model's weights, of an index that was made without them."""
        self.catalogue.set_fingerprint(fingerprint)
        self._snapshots.model = self.catalogue.model()

    def set_fusion(self, name: str) -> None:
        """Record which weights fused the photos with their captions."""
        self.catalogue.set_fusion(name)
        self._snapshots.model = self.catalogue.model()

    # Searching ---------------------------------------------------------------------------------

    def read(self, work: Callable[[], Result]) -> Result:
        """What `work` returns; all that it reads of this index is of one version of it.

        What other processes commit, prune or rebuild meanwhile is not seen. `work` may be called
        twice, and should be short: while it reads, SQLite's log can only grow. Raises
        IndexReplacedError if the index was rebuilt with another model.
        """
        return self._snapshots.read(work)

    def version(self) -> object:
        """The same object as long as the index does not change, for who keeps what was read."""
        with self._snapshot() as snapshot:
            return snapshot.token

    def _snapshot(self) -> AbstractContextManager[Snapshot]:
        """The version of the index that the block reads: that of `read`, else the latest."""
        return self._snapshots.hold()

    def search(
        self,
        query: Floats,
        k: int,
        filters: Filter = Filter(),
        bias: Biases | None = None,
        min_score: float | None = None,
    ) -> list[tuple[int, float]]:
        """The `k` best photos for `query`, float32 [dim], as (photo id, cosine), best first.

        Best is the highest cosine or, with `bias`, the highest cosine less the photo's bias.
        min_score: only photos with at least this cosine.
        """
        with self._snapshot() as snapshot:
            ids, scores = snapshot.search(query, k, snapshot.allowed(filters), bias, min_score)
        return [(int(i), float(s)) for i, s in zip(ids, scores, strict=True)]

    def cosines(self, query: Floats, ids: Sequence[int]) -> Floats:
        """The cosines of these photos to `query`, float32 [n]; -inf for those not searched."""
        with self._snapshot() as snapshot:
            return snapshot.cosines(query, np.array(ids, np.int64))

    def mean_cosine(self, query: Floats) -> float:
        """The mean cosine of the photos to `query`, float32 [dim]; of 2,000 photos if many."""
        with self._snapshot() as snapshot:
            return float(snapshot.mean @ query)

    def filter_ids(self, ids: Sequence[int], filters: Filter) -> list[int]:
        """Those of the photos that are on disk and pass the filters, in the same order."""
        with self._snapshot() as snapshot:
            known, allowed = snapshot.known(ids), snapshot.allowed(filters)
            if allowed is None:
                keep = ~np.isin(known, snapshot.missing)
            else:
                keep = np.isin(known, allowed, assume_unique=True)
        return [i for i, is_kept in zip(known, keep.tolist(), strict=True) if is_kept]

    def nearest_ids(self, queries: Floats) -> set[int]:
        """The ids of the photos that are the nearest to one of `queries`, float32 [m, dim]."""
        with self._snapshot() as snapshot:
            return flat.nearest_ids(snapshot.parts, queries)

    def biases(self, name: str, compute: Callable[[Floats], Floats]) -> Biases:
        """The bias of every photo, from the file of this name, and from `compute` for newer ones.

        name: letters, digits and dashes; it changes with everything that `compute` depends on but
        the photos and their captions. compute: from embeddings, float32 [n, dim], to biases,
        float32 [n], where each depends on its own embedding alone.
        """
        with self._snapshot() as snapshot:
            return snapshot.biases(name, compute)

    def gallery_statistics(self, query: Floats, filters: Filter = Filter()) -> GalleryStatistics:
        """What `search` compares `query`, float32 [dim], with.

        The mean is that of the whole index: a filter may leave too few photos to estimate it.
        """
        with self._snapshot() as snapshot:
            allowed = snapshot.allowed(filters)
            searched = self.photo_count() if allowed is None else len(allowed)
            return GalleryStatistics(len(snapshot), self.mean_cosine(query), searched)

    def has_any(self, filters: Filter) -> bool:
        """Whether any photo passes the filters."""
        with self._snapshot() as snapshot:
            allowed = snapshot.allowed(filters)
            return len(snapshot) > 0 if allowed is None else len(allowed) > 0

    def photo_count(self) -> int:
        """How many photos can be found."""
        with self._snapshot() as snapshot:
            return len(snapshot) - len(snapshot.missing)

    # Keeping vectors and catalogue in step -----------------------------------------------------

    def refresh(self, plan: Callable[[], Plan] | None = None) -> None:
        """Bring the vectors in line with the catalogue after a change by this process.

        They are written again if they lack many photos; old files are deleted. plan: gives what
        they are written with; it is called only then, and then, too, if another kind of vectors is
        wanted. Without it they are exact. Raises StorageError.
        """
        self._snapshots.drop()
        files = self._snapshots.files
        if self._is_outdated(files, other_kinds=plan is not None):
            self._snapshots.drop()  # frees its memory first
            made = Plan() if plan is None else plan()
            files.rewrite(self.catalogue, self.model.dim, made)
            self._snapshots.drop()
        files.delete_old()

    def _is_outdated(self, files: VectorFiles, other_kinds: bool) -> bool:
        """Whether the vectors should be written again; other_kinds: also as another kind."""
        if files.open(self.catalogue, self.model.dim) is None:
            return True
        with self._snapshot() as snapshot:
            stored = snapshot.stored
            if stored is None or files.is_outdated(stored, len(snapshot.newer), snapshot.changes):
                return True
        return other_kinds and files.is_other_kind(self.catalogue, stored)

    def sample(self, most: int) -> Floats:
        """The vectors of up to `most` photos, evenly spaced: float32 [n, dim]."""
        with self._snapshot() as snapshot:
            return flat.sample_rows(snapshot.parts, self.model.dim, most)

    def vectors(self) -> About | None:
        """What kind of vectors is searched, None if the index holds no photos."""
        with self._snapshot() as snapshot:
            return None if snapshot.stored is None else snapshot.stored.about

    def size_bytes(self) -> int:
        """The size of the index on disk."""
        total = 0
        stored = [file for cache in caches(self.folder) for file in (cache, *cache.glob("*"))]
        for path in (*self.folder.glob(f"{FILENAME}*"), *stored):
            with suppress(FileNotFoundError):  # another process may be renaming it
                total += path.lstat().st_size
        return total
