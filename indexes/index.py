"""The Index: one folder on disk that holds a catalogue and its vectors, and keeps them in step.

Reading needs nothing but the folder; writing needs the lock (`indexes.lock`). Many processes may
search while one writes.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Self, TypeVar

import numpy as np

from indexes.arrays import Floats
from indexes.biases import Biases
from indexes.catalogue import Catalogue, IndexModel
from indexes.database import place_catalogue
from indexes.errors import StorageError
from indexes.folder_snapshot import FolderSnapshot
from indexes.index_roots import IndexRoots
from indexes.locate import FILENAME
from indexes.milvus.mirrors import is_mirror
from indexes.photos import Filter
from indexes.regular_files import delete_tree
from indexes.snapshot import GalleryStatistics, Snapshot
from indexes.snapshots import Snapshots
from indexes.vector_files import VectorFiles, caches
from indexes.vectors.build import Plan
from indexes.vectors.store import About

STAGING = "new.tmp"
Result = TypeVar("Result")


class Index(IndexRoots):
    """An open index. Use it as a context manager, or call `close`.

    catalogue: all that is known of the photos.
    """

    def __init__(self, folder: Path, catalogue: Catalogue) -> None:
        super().__init__(folder, catalogue)
        self._files = VectorFiles(folder)
        self._snapshots = Snapshots(folder, catalogue, self._take)

    def _take(self, version: int, model: IndexModel) -> Snapshot:
        """What searches see of this version of the catalogue."""
        return FolderSnapshot(self.catalogue, model.dim, version, self._files)

    @property
    def model(self) -> IndexModel:
        """How the embeddings were computed."""
        return self._snapshots.model

    @property
    def address(self) -> str:
        """Where it is, as users name it."""
        return str(self.folder)

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
        """Open an index; raises IndexMissingError or IndexDamagedError.

        The folder of a mirror stands for an index on many machines.
        """
        if is_mirror(folder):
            from indexes.milvus.cluster_index import ClusterIndex

            return ClusterIndex.open(folder, writable)
        catalogue = Catalogue.open(folder, writable)
        try:
            return cls(folder, catalogue)
        except BaseException:
            catalogue.close()
            raise

    def close(self) -> None:
        self.catalogue.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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
            ids, scores = snapshot.search(query, k, filters, bias, min_score)
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
            return snapshot.passing(ids, filters)

    def nearest_ids(self, queries: Floats) -> set[int]:
        """The ids of the photos that are the nearest to one of `queries`, float32 [m, dim]."""
        with self._snapshot() as snapshot:
            return snapshot.nearest_ids(queries)

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
            mean = float(snapshot.mean @ query)
            return GalleryStatistics(len(snapshot), mean, snapshot.count(filters))

    def has_any(self, filters: Filter) -> bool:
        """Whether any photo passes the filters."""
        with self._snapshot() as snapshot:
            return len(snapshot) > 0 if filters == Filter() else snapshot.count(filters) > 0

    def photo_count(self) -> int:
        """How many photos can be found."""
        with self._snapshot() as snapshot:
            return snapshot.count(Filter())

    # Changing ----------------------------------------------------------------------------------

    def remove(self, places: Sequence[tuple[int, str]]) -> int:
        """Forget the files at or below these (root id, path); returns how many there were.

        A root that is removed as a whole goes, unless it is the only one. `refresh` has to follow.
        """
        catalogue = self.catalogue
        with catalogue.transaction():
            count = sum(catalogue.forget_files(*place) for place in places)
            for root_id, under in places:
                if not under and len(self.roots()) > 1:
                    catalogue.forget_root(root_id)
            catalogue.update_presence()
        return count

    # Keeping vectors and catalogue in step -----------------------------------------------------

    def refresh(self, plan: Callable[[], Plan] | None = None) -> None:
        """Bring the vectors in line with the catalogue after a change by this process.

        They are written again if they lack many photos; old files are deleted. plan: gives what
        they are written with; it is called only then, and then, too, if another kind of vectors is
        wanted. Without it they are exact. Raises StorageError.
        """
        self._snapshots.drop()
        files = self._files
        if self._is_outdated(other_kinds=plan is not None):
            self._snapshots.drop()  # frees its memory first
            made = Plan() if plan is None else plan()
            files.rewrite(self.catalogue, self.model.dim, made)
            self._snapshots.drop()
        files.delete_old()

    def _is_outdated(self, other_kinds: bool) -> bool:
        """Whether the vectors should be written again; other_kinds: also as another kind."""
        stored = self._files.open(self.catalogue, self.model.dim)
        if stored is None:
            return True
        with self._snapshot() as snapshot:
            if snapshot.is_outdated:
                return True
        return other_kinds and self._files.is_other_kind(self.catalogue, stored)

    def sample(self, most: int) -> Floats:
        """The vectors of up to `most` photos, evenly spaced: float32 [n, dim]."""
        with self._snapshot() as snapshot:
            return snapshot.sample(most)

    def vectors(self) -> About | None:
        """What kind of vectors is searched, None if the index holds no photos."""
        with self._snapshot() as snapshot:
            return snapshot.about

    def size_bytes(self) -> int:
        """The size of the index on disk."""
        total = 0
        stored = [file for cache in caches(self.folder) for file in (cache, *cache.glob("*"))]
        for path in (*self.folder.glob(f"{FILENAME}*"), *stored):
            with suppress(FileNotFoundError):  # another process may be renaming it
                total += path.lstat().st_size
        return total
