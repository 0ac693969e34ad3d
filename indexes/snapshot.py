"""What searches need from one version of an index: its vectors, their mean, biases, filters.

How the vectors are searched, each kind of index decides: see `indexes.folder_snapshot` and
`indexes.milvus.snapshot`. Which version is read, `indexes.snapshots` does.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from indexes.arrays import Floats, Ints, ascending
from indexes.biases import Biases
from indexes.catalogue import Catalogue
from indexes.photos import Filter
from indexes.vectors.store import About

_FILTERS = 8  # whose photos are kept in memory


@dataclass(frozen=True)
class GalleryStatistics:
    """What a query is compared with.

    photos: how many the index has. mean: of their cosines to the query (of a sample if they are
    many). searched: how many of them pass the filters.
    """

    photos: int
    mean: float
    searched: int


class Snapshot(ABC):
    """One version of a catalogue, as searches see it.

    version: what `Catalogue.version` gave; token: stands for this snapshot without keeping it in
    memory.
    """

    def __init__(self, catalogue: Catalogue, dim: int, version: int) -> None:
        self.version, self.token = version, object()
        self._catalogue, self._dim = catalogue, dim
        self._allowed: dict[Filter, Ints] = {}

    @abstractmethod
    def __len__(self) -> int:
        """The number of photos, including those that are missing from disk."""

    @abstractmethod
    def search(
        self,
        query: Floats,
        k: int,
        filters: Filter,
        bias: Biases | None,
        lowest: float | None,
    ) -> tuple[Ints, Floats]:
        """The `k` best photos for `query`, float32 [dim]: ids and cosines, best first.

        Photos that are missing from disk are left out. lowest: the lowest cosine, None for any.
        """

    @abstractmethod
    def cosines(self, query: Floats, ids: Ints) -> Floats:
        """The cosines of photos to `query`, float32 [n], as `search` gives them; -inf for others.

        ids: int64 [n].
        """

    @abstractmethod
    def known(self, ids: Sequence[int]) -> list[int]:
        """Those of the ids that belong to photos, in the same order."""

    @abstractmethod
    def nearest_ids(self, queries: Floats) -> set[int]:
        """As `Index.nearest_ids`."""

    @abstractmethod
    def biases(self, name: str, compute: Callable[[Floats], Floats]) -> Biases:
        """As `Index.biases`."""

    @abstractmethod
    def sample(self, most: int) -> Floats:
        """As `Index.sample`."""

    @property
    @abstractmethod
    def mean(self) -> Floats:
        """The mean of the vectors, float32 [dim]; of a sample if they are many."""

    @property
    @abstractmethod
    def about(self) -> About | None:
        """What kind of vectors is searched, None without any."""

    @property
    def is_outdated(self) -> bool:
        """Whether the vectors lack so much that they should be written again."""
        return False

    @cached_property
    def missing(self) -> Ints:
        """The ids of the photos that are missing from disk, int64 [n]."""
        return self._catalogue.photos.missing()

    def allowed(self, filters: Filter) -> Ints | None:
        """The ids of the photos that pass the filters, int64 [n], ascending; None without any.

        Those of the last few filters are kept: people refine a query, and look at one folder.
        """
        if filters == Filter():
            return None
        if filters not in self._allowed:
            if len(self._allowed) >= _FILTERS:
                self._allowed.pop(next(iter(self._allowed)))
            self._allowed[filters] = ascending(self._catalogue.photos.matching(filters))
        return self._allowed[filters]

    def passing(self, ids: Sequence[int], filters: Filter) -> list[int]:
        """Those of the photos that are on disk and pass the filters, in the same order."""
        known, allowed = self.known(ids), self.allowed(filters)
        if allowed is None:
            keep = ~np.isin(known, self.missing)
        else:
            keep = np.isin(known, allowed, assume_unique=True)
        return [i for i, is_kept in zip(known, keep.tolist(), strict=True) if is_kept]

    def count(self, filters: Filter) -> int:
        """How many photos are on disk and pass the filters."""
        allowed = self.allowed(filters)
        return len(self) - len(self.missing) if allowed is None else len(allowed)
