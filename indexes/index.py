"""The Index: one folder on disk that keeps catalogue and vectors in step.

Reading needs nothing but the folder; writing needs the lock (`lock`). Many may search while one
writes.
"""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from indexes import biases, gpu, vectors
from indexes.arrays import Floats, Ints
from indexes.biases import Biases
from indexes.catalogue import Catalogue, Filter, IndexModel
from indexes.database import FILENAME, put_catalogue
from indexes.errors import IndexReplacedError, StorageError

STAGING = "new.tmp"
_FEW, _FEW_SHARE = 256, 0.01  # newer photos that a vector file may lack
_SAMPLE = 2000  # photos whose mean stands for that of all
_FIRST_LOOK = 512  # nearest photos that a bias is tried on first


@dataclass(frozen=True)
class Root:
    """An indexed folder: its id in the catalogue and where it is now."""

    id: int
    path: Path

    def inside(self, path: Path) -> str | None:
        """An absolute path as one in this folder, '' for the folder itself; None outside."""
        if not path.is_relative_to(self.path):
            return None
        inside = path.relative_to(self.path).as_posix()
        return "" if inside == "." else inside


@dataclass(frozen=True)
class GalleryStatistics:
    """What a query was compared with: photos held by the index, the mean of their cosines to the
    query (of a sample where they are many), and how many of them the filter let through."""

    held: int
    mean: float
    searched: int


class Index:
    """An open index. Use it as a context manager, or call `close`.

    catalogue: everything known of the photos; made: the model that made the embeddings.
    """

    def __init__(self, folder: Path, catalogue: Catalogue) -> None:
        self.folder = folder
        self.catalogue = catalogue
        self.model = catalogue.model()
        self._parts: list[vectors.Part] | None = None
        self._parts_version = -1
        self._searches = 0  # of these parts
        self._average: Floats | None = None
        self._biases: dict[str, Biases] = {}
        self._file = self._identity()

    @classmethod
    def create(cls, folder: Path, model: IndexModel) -> "Index":
        """Make an empty index in `folder`, whose lock the caller holds.

        The catalogue is made under another name first, so that a process killed half-way leaves no
        index rather than a broken one.
        """
        staging = folder / STAGING
        try:
            shutil.rmtree(staging, ignore_errors=True)  # of a process that was killed
            staging.mkdir(parents=True)
            try:
                with Catalogue.create(staging, model) as catalogue:
                    catalogue.checkpoint()  # only the one file is moved, so all has to be in it
                put_catalogue(staging, folder)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
        except OSError as error:
            raise StorageError(
                f"The index folder {folder} cannot be made ({error.strerror}). Choose a place that "
                "can be written with --index DIR."
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

        A folder that moved together with its index is found by its path relative to the index,
        one that stayed while the index moved by its absolute path.
        """
        found = []
        for root_id, relative, absolute in self.catalogue.roots():
            moved = (self.folder.resolve() / relative).resolve()
            place = moved if relative and moved.is_dir() else Path(absolute).resolve()
            found.append(Root(root_id, place))
        return found

    def is_away(self, root: Root) -> bool:
        """Whether a folder is not there, or is as empty as the mount point of a missing disk."""
        if not root.path.is_dir():
            return True
        home = self.folder.resolve()
        return not any(path.resolve() != home for path in root.path.iterdir())

    def add_root(self, folder: Path) -> tuple[Root, str]:
        """Make `folder` a part of the index; returns its root and the path inside that root.

        A folder inside a known root stays a part of it; a folder around known roots takes them in.
        """
        folder = folder.resolve()
        roots = self.roots()
        for root in roots:
            inside = root.inside(folder)
            if inside is not None:
                self._put_root(root.path, root.id)
                return root, inside
        with self.catalogue.transaction():
            new = Root(self._put_root(folder), folder)
            for root in roots:
                if root.path.is_relative_to(folder):
                    prefix = root.path.relative_to(folder).as_posix()
                    self.catalogue.absorb_root(root.id, new.id, prefix)
        return new, ""

    def _put_root(self, folder: Path, root_id: int | None = None, home: Path | None = None) -> int:
        try:
            relative = os.path.relpath(folder, (home or self.folder).resolve())
        except ValueError:  # another drive, on Windows
            relative = ""
        return self.catalogue.put_root(relative, str(folder), root_id)

    def locate(self, path: Path) -> tuple[Root, str] | None:
        """The root that holds `path` and the path inside it; None outside every root."""
        absolute, roots = path.absolute(), self.roots()
        for candidate in (Path(os.path.normpath(absolute)), absolute.resolve()):
            for root in roots:
                inside = root.inside(candidate)
                if inside is not None:
                    return root, inside
        return None

    def excluded(self) -> list[str]:
        """The shell patterns of what is left out of the folders."""
        return [p for p in self.catalogue.setting("exclude", "").split("\n") if p]

    def set_excluded(self, patterns: Sequence[str]) -> None:
        self.catalogue.set_setting("exclude", "\n".join(patterns))

    def caption_lists(self) -> list[Path]:
        """Files of captions that the user named."""
        try:
            return [Path(str(p)) for p in json.loads(self.catalogue.setting("captions", "[]"))]
        except (ValueError, TypeError):
            return []

    def set_caption_lists(self, files: Sequence[Path]) -> None:
        self.catalogue.set_setting("captions", json.dumps([str(file) for file in files]))

    # Vectors -----------------------------------------------------------------------------------

    def search(
        self,
        query: Floats,
        k: int,
        chosen: Filter = Filter(),
        bias: Biases | None = None,
        lowest: float | None = None,
    ) -> list[tuple[int, float]]:
        """The `k` best photos for `query`, float32 [dim], as (photo id, cosine), best first.

        Best is the highest cosine or, with `bias`, the highest cosine less the photo's bias.
        lowest: only photos of this cosine at least.
        """
        parts = self._vectors_at_hand()
        allowed = None if chosen == Filter() else self.catalogue.allowed(chosen)
        excluded_ids = self.catalogue.absent() if allowed is None else None

        def nearest(count: int) -> tuple[Ints, Floats]:
            ids, scores = vectors.search(parts, query, count, allowed, excluded_ids)
            enough = len(scores) if lowest is None else int((scores >= lowest).sum())
            return ids[:enough], scores[:enough]

        ids, scores = nearest(k) if bias is None else _biased(nearest, k, bias)
        return [(int(i), float(s)) for i, s in zip(ids, scores, strict=True)]

    def cosines(self, query: Floats, ids: Sequence[int]) -> Floats:
        """The cosines of these photos to `query`, float32 [n], as they are ordered in `ids`."""
        result: Floats = self.catalogue.search_embeddings(ids, self.model.dim) @ query
        return result

    def set_fusion(self, name: str) -> None:
        """Note by what the photos are fused with their captions."""
        self.catalogue.set_fusion(name)
        self.model = self.catalogue.model()

    def mean_cosine(self, query: Floats) -> float:
        """What cosine to `query`, float32 [dim], is usual: the mean, of a sample if many.

        That of 2,000 sampled photos is off by about 0.002.
        """
        parts = self._vectors()  # notices what other processes changed
        if self._average is None:
            self._average = vectors.average(parts, self.model.dim, _SAMPLE)
        return float(self._average @ query)

    def filter_ids(self, ids: Sequence[int], chosen: Filter) -> list[int]:
        """Those of the photos that are there and fit a filter, in the same order."""
        if chosen == Filter():
            excluded_ids = set(self.catalogue.absent().tolist())
            return [i for i in ids if i not in excluded_ids]
        allowed = set(self.catalogue.allowed(chosen).tolist())
        return [i for i in ids if i in allowed]

    def nearest_ids(self, queries: Floats) -> set[int]:
        """The ids of the photos that are the nearest to one of `queries`, float32 [m, dim]."""
        return vectors.nearest_ids(self._vectors(), queries)

    def biases(self, name: str, compute: Callable[[Floats], Floats]) -> Biases:
        """The bias of every photo, from the file of this name, and from `compute` for newer ones.

        name: letters, digits and dashes; it changes with all that `compute` depends on but the
        photos. compute: from embeddings, float32 [n, dim], to biases, float32 [n], each by itself.
        """
        parts = self._vectors()  # notices what other processes changed
        if name not in self._biases:
            path = self.folder / f"bias-{name}-{self.catalogue.generation()}.bin"
            known = biases.load(path)
            last = int(known.ids[-1]) if len(known.ids) else 0
            if not all(known.cover(p.ids, upto=last) for p in parts):
                known, last = biases.NONE, 0  # not of this index, whatever it says
            ids, rows = self.catalogue.all_search_embeddings(self.model.dim, after=last)
            if len(ids):
                stored = len(known.ids)
                known = known.extended(ids, compute(rows))
                if not stored or len(ids) > _FEW + stored * _FEW_SHARE:
                    with suppress(OSError):  # a cache: the next search computes it again
                        biases.save(known, path)
            self._biases[name] = known
        return self._biases[name]

    def gallery_statistics(self, query: Floats, chosen: Filter = Filter()) -> GalleryStatistics:
        """What `search` compares `query`, float32 [dim], with.

        held and mean are of the whole index whatever the filter, which may leave too few photos to
        tell what is usual. The mean cosine of 2,000 sampled photos is off by about 0.002.
        """
        held = self._held()
        searched = self.present() if chosen == Filter() else len(self.catalogue.allowed(chosen))
        return GalleryStatistics(held, self.mean_cosine(query), searched)

    def _held(self) -> int:
        return sum(map(len, self._vectors()))

    def present(self) -> int:
        """How many photos can be found."""
        return self._held() - len(self.catalogue.absent())

    def _vectors(self) -> list[vectors.Part]:
        """The vector file and, as a second part, what the catalogue has beyond it.

        Kept until another process changes the catalogue.
        """
        if self._identity() != self._file:
            raise self._replaced()
        version = self.catalogue.version()
        if self._parts is None or version != self._parts_version:
            self._parts_version, self._searches = version, 0
            self._average, self._biases = None, {}
            if self.catalogue.model() != self.model:
                raise self._replaced()
            path = self._vector_file()
            stored = vectors.load(path, self.model.dim)
            last = 0
            if stored is not None and len(stored):
                last = int(stored.ids.max())
            ids, rows = self.catalogue.all_search_embeddings(self.model.dim, after=last)
            newer = vectors.Part(ids, rows)
            if stored is None:
                try:
                    vectors.save(newer, path)
                except (OSError, RuntimeError):
                    pass  # a cache: a full or read-only disk only makes the next search slower
            self._parts = [newer] if stored is None else [stored, newer]
        return self._parts

    def _vectors_at_hand(self) -> list[vectors.Part]:
        """The vectors for a search, on graphics cards when searches of many vectors are many."""
        parts = self._vectors()
        self._searches += 1
        if self._searches == gpu.OFTEN:
            self._parts = [gpu.to_gpus(part) if len(part) >= gpu.LARGE else part for part in parts]
        return self._parts or parts

    def _identity(self) -> tuple[int, int]:
        """Which file the catalogue is; a rebuild puts another one in its place."""
        try:
            state = (self.folder / FILENAME).stat()
        except OSError:
            return (0, 0)
        return (state.st_dev, state.st_ino)

    def _replaced(self) -> IndexReplacedError:
        return IndexReplacedError(f"The index {self.folder} was rebuilt meanwhile. Open it again.")

    def _vector_file(self) -> Path:
        return self.folder / f"vectors-{self.catalogue.generation()}.faiss"

    def refresh(self) -> None:
        """Write the vector file anew if the catalogue went well beyond it; drop those of the past.

        A search adds what the file lacks; rewriting all for a few photos would cost more.
        """
        self._parts = None
        path = self._vector_file()
        parts = self._vectors()
        if len(parts) > 1 and len(parts[1]) > _FEW + len(parts[0]) * _FEW_SHARE:
            self._parts = None
            try:
                vectors.save(
                    vectors.Part(*self.catalogue.all_search_embeddings(self.model.dim)), path
                )
            except (OSError, RuntimeError) as error:
                raise StorageError(
                    f"The vectors could not be written to {path} ({error}). The photos are kept in "
                    "the catalogue; make room and run `retrieval index` again."
                ) from error
        generation = self.catalogue.generation()
        for old in (*self.folder.glob("vectors-*.faiss*"), *self.folder.glob("bias-*.bin*")):
            if not old.stem.endswith(f"-{generation}"):
                old.unlink(missing_ok=True)

    def size_bytes(self) -> int:
        """What the index takes on disk."""
        total = 0
        for pattern in (f"{FILENAME}*", "vectors-*.faiss", "bias-*.bin"):
            for path in self.folder.glob(pattern):
                with suppress(FileNotFoundError):  # another process may be renaming
                    total += path.stat().st_size
        return total


def _biased(
    nearest: Callable[[int], tuple[Ints, Floats]], k: int, bias: Biases
) -> tuple[Ints, Floats]:
    """The k photos of highest cosine less bias, exactly, from a search by cosine alone.

    A photo that was not among the nearest has at most the last one's cosine, and at least the
    lowest of all biases is taken off it. Once that is below the k-th best, no such photo can be
    among the first k; until then more are looked at.
    """
    count = max(_FIRST_LOOK, 4 * k)
    while True:
        ids, scores = nearest(count)
        biased = scores - bias.of(ids)
        order = np.lexsort((ids, -biased))[:k]
        if len(ids) < count or biased[order[-1]] > scores[-1] - bias.lowest:
            return ids[order], scores[order]
        count *= 4
