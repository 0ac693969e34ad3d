"""The Index on many machines: a lake that is the truth, Milvus that is searched, and a mirror.

It is used as an index in a folder is: its folder is that of the mirror. What is written goes to the
lake; the mirror and Milvus follow.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from pathlib import Path

from indexes.arrays import Floats
from indexes.catalogue import IndexModel
from indexes.errors import ClusterError, IndexMissingError, RetrievalError, StorageError
from indexes.index import Index, Result
from indexes.index_roots import Root
from indexes.lake import manifest as manifests
from indexes.lake import mirror
from indexes.lake.embeddings import LakeEmbeddings, PartCache
from indexes.lake.lease import lease
from indexes.lake.location import Location
from indexes.lake.manifest import Manifest, Part
from indexes.lake.mirror import MirrorCatalogue
from indexes.lake.rewrite import Rewriter
from indexes.lake.schema import FileRow, removed
from indexes.lake.write_parts import write_files
from indexes.milvus.collection import Collection, Kind
from indexes.milvus.load import load
from indexes.milvus.mirrors import mirror_folder, read_mirror, write_mirror
from indexes.milvus.place import ClusterPlace
from indexes.milvus.snapshot import ClusterSnapshot
from indexes.milvus.state import State, read_state
from indexes.paths import as_path
from indexes.snapshot import Snapshot
from indexes.vectors.build import Plan

_LOOK_SECONDS = 5.0
"""So long may a search not see what was committed to the lake."""


class ReadMirror(MirrorCatalogue):
    """A mirror that is only read: what changes goes to the lake."""

    def transaction(self) -> AbstractContextManager[None]:
        return nullcontext()


class ClusterIndex(Index):
    """An open index on many machines. It holds the lease of the lake if it is writable.

    place: the collection; location: the lake; manifest: its newest version, of those that this
    process has seen.
    """

    catalogue: MirrorCatalogue

    def __init__(
        self,
        folder: Path,
        catalogue: MirrorCatalogue,
        place: ClusterPlace,
        manifest: Manifest,
        held: ExitStack,
    ) -> None:
        super().__init__(folder, catalogue)
        self.place, self.manifest = place, manifest
        self.location = Location(place.lake)
        self.collection = Collection(place)
        self._held = held
        self._looked = time.monotonic()
        self._loaded: tuple[Kind, State] | None = None
        self._parts = PartCache(self.location)
        database, changes = catalogue.database, catalogue.changes
        self._rewriter = Rewriter(
            catalogue, LakeEmbeddings(database, changes, self._parts), self.location
        )
        catalogue.embeddings = LakeEmbeddings(
            database, changes, self._parts, self._near, self._rewriter.put
        )

    @property
    def address(self) -> str:
        return f"{self.place}, lake {self.location.url}"

    def _take(self, version: int, model: IndexModel) -> Snapshot:
        return ClusterSnapshot(
            self.catalogue, model.dim, version, self.collection, self._load_state
        )

    def _load_state(self) -> tuple[Kind, State]:
        if self._loaded is None:
            about = self.collection.about()
            if about is None:
                raise ClusterError(
                    f"There is no collection {self.place.name} in Milvus at {self.place.address}. "
                    f"Make it again from its lake with `retrieval index --index {self.place} "
                    f"--lake {self.location.url}`."
                )
            self._loaded = (about.kind, read_state(self.location, self.place.name, about.token))
        return self._loaded

    def _near(self, ids: Sequence[int]) -> Mapping[int, Floats]:
        """The searchable embeddings of those of the photos that Milvus has."""
        return {i: row[:-1] for i, row in self.collection.values(ids, "vector").items()}

    # Opening -----------------------------------------------------------------------------------

    @classmethod
    def open(cls, folder: Path, writable: bool = False) -> "ClusterIndex":
        """Open the index of which `folder` is the mirror; brings it up to date."""
        place = read_mirror(folder)
        location = Location(place.lake)
        with ExitStack() as held:
            if writable:
                held.enter_context(lease(location))
            manifest = mirror.update(folder, location)
            catalogue = ReadMirror.open(folder)
            held.callback(catalogue.close)
            return cls(folder, catalogue, place, manifest, held.pop_all())

    @classmethod
    def locate_at(cls, place: ClusterPlace) -> Path:
        """The folder of the mirror of an index that there is; it is brought up to date.

        Raises IndexMissingError or ClusterError.
        """
        lake = Location.of(place.lake).url if place.lake else ""
        if not lake:
            collection = Collection(place)
            try:
                about = collection.about()
            finally:
                collection.close()
            if about is None:
                raise IndexMissingError(
                    f"There is no index {place}. Make one with `retrieval index FOLDER --index "
                    f"{place} --lake URL`; of a lake that there is, name it with ?lake=URL."
                )
            lake = about.lake
        mirror.update(mirror_folder(place, lake), Location(lake))
        try:
            return write_mirror(place, lake)
        except OSError as error:
            raise StorageError(
                f"The mirror of {place} cannot be written ({error.strerror}). Set XDG_CACHE_HOME "
                "to a folder with room for it."
            ) from error

    def close(self) -> None:
        self._parts.close()
        self.collection.close()
        self._held.close()

    # Reading -----------------------------------------------------------------------------------

    def read(self, work: Callable[[], Result]) -> Result:
        self._look()
        return super().read(work)

    def _look(self) -> None:
        """See what was committed to the lake since, at most every few seconds.

        If the lake cannot be reached, searches go on over what is known.
        """
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS or self._snapshots.is_held:
            return
        self._looked = now
        self._loaded = None
        self.collection.expect_changes()
        with suppress(RetrievalError, OSError):
            if manifests.latest_version(self.location) != self.manifest.version:
                self.manifest = mirror.update(self.folder, self.location)

    def roots(self) -> list[Root]:
        """The indexed folders and URLs; what is written of them is where they were indexed."""
        return [Root(i, as_path(absolute)) for i, _, absolute in self.catalogue.roots.all()]

    def size_bytes(self) -> int:
        """The size of the lake."""
        return sum(part.bytes for part in self.manifest.parts)

    # Writing -----------------------------------------------------------------------------------

    def commit(
        self,
        parts: Iterable[Part] = (),
        settings: Mapping[str, str] | None = None,
        fusion: str | None = None,
    ) -> None:
        """Add parts to the lake, and to the mirror; `refresh` brings them into Milvus."""
        self.manifest = manifests.commit(
            self.location, self.manifest, parts, settings=settings, fusion=fusion
        )
        manifests.delete_old(self.location, self.manifest.version)
        self._snapshots.drop()
        mirror.update(self.folder, self.location)
        self._snapshots.model = self.catalogue.model()

    def set_fusion(self, name: str) -> None:
        self.commit(self._rewriter.take(), fusion=name)

    def set_excluded(self, patterns: Sequence[str]) -> None:
        self.commit(settings={"exclude": "\n".join(patterns)})

    def set_included(self, patterns: Sequence[str]) -> None:
        self.commit(settings={"include": "\n".join(patterns)})

    def remove(self, places: Sequence[tuple[int, str]]) -> int:
        rows: dict[tuple[int, str], FileRow] = {}
        folders = {i: absolute for i, _, absolute in self.catalogue.roots.all()}
        for root_id, under in places:
            files = self.catalogue.files.below(root_id, under)
            ids = [file.photo_id for file in files.values() if file.photo_id is not None]
            hashes = {i: photo.hash for i, (photo, _) in self.catalogue.photos.get(ids).items()}
            for path, file in files.items():
                known = hashes.get(file.photo_id or 0)
                row = FileRow(folders[root_id], path, file.bytes, file.mtime_ns, known, file.reason)
                rows[root_id, path] = removed(row)
        self.commit([write_files(self.location, list(rows.values()))] if rows else [])
        return len(rows)

    def refresh(self, plan: Callable[[], Plan] | None = None) -> None:
        """Bring Milvus in line with the lake; plan: gives the biases. Raises ClusterError."""
        self.load_vectors(Plan() if plan is None else plan())

    def load_vectors(self, plan: Plan, kind: Kind | None = None, again: bool = False) -> int:
        """As `refresh`; returns how many photos were written or deleted.

        kind: of the index in Milvus; again: load all into a new collection.
        """
        if parts := self._rewriter.take():
            self.commit(parts)
        count = load(self.collection, self.catalogue, self.location, plan, kind, again)
        self._loaded = None
        self.collection.expect_changes()
        self._snapshots.drop()
        return count
