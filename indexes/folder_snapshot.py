"""What searches need from one version of an index in a folder: stored vectors and newer ones.

The stored vectors may have been written at another version: what this one has replaced or does not
have is left out of them, and what they lack is read from the catalogue. Which version is read,
`indexes.snapshots` decides; when vectors are written, `indexes.vector_files`.
"""

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np

from indexes.arrays import Floats, Ints
from indexes.biases import Biases
from indexes.catalogue import Catalogue
from indexes.photos import Filter
from indexes.snapshot import Snapshot
from indexes.vector_files import VectorFiles
from indexes.vectors import flat, gpu
from indexes.vectors.build import compute_bias
from indexes.vectors.rows import Bias, Rows, Selection
from indexes.vectors.store import About


class FolderSnapshot(Snapshot):
    """One version of a catalogue, as searches see it.

    version: what `Catalogue.version` gave. stored: the vectors on disk, None if there are none;
    changed: the ids in them that are not searched, since they were replaced or removed; newer: the
    rows that are not in them, or as they are now; changes: how many photos changed since they were
    written.
    """

    def __init__(self, catalogue: Catalogue, dim: int, version: int, files: VectorFiles) -> None:
        super().__init__(catalogue, dim, version)
        self._files = files
        self._biases: dict[str, Biases] = {}
        self._nothing = np.empty(0, np.int64)
        self.stored = files.open(catalogue, dim) or files.write_exact(catalogue, dim)
        self.changes = 0
        self.changed, self.newer = self._differences()
        self._searched: Rows | None = None if self.stored is None else self.stored.rows

    def _differences(self) -> tuple[Ints, Rows]:
        embeddings, nothing = self._catalogue.embeddings, np.empty(0, np.int64)
        if self.stored is None:
            return nothing, Rows(*embeddings.all_searchable(self._dim, verified=True))
        ids = self.stored.rows.ids
        newest = embeddings.last_id()
        last = int(ids[-1]) if len(ids) else 0
        changed = self._catalogue.changes.since(self.stored.about.changes)
        self.changes = len(changed)
        replaced = embeddings.present(changed[changed <= last])
        beyond = ids[np.searchsorted(ids, newest, side="right") :]  # of a later version
        new_ids, new_rows = embeddings.all_searchable(self._dim, after=last)
        if len(replaced):
            rows = embeddings.searchable(replaced.tolist(), self._dim)
            new_ids = np.concatenate([replaced, new_ids])
            new_rows = np.concatenate([rows, new_rows])
        return np.sort(np.concatenate([changed[changed <= last], beyond])), Rows(new_ids, new_rows)

    @property
    def parts(self) -> list[Rows]:
        """The vectors: those on disk, if there are any, then those that are newer."""
        return [self.newer] if self._searched is None else [self._searched, self.newer]

    def __len__(self) -> int:
        stored = 0 if self.stored is None else len(self.stored.rows)
        return stored - self._changed_count + len(self.newer)

    @cached_property
    def _changed_count(self) -> int:
        if self.stored is None or not len(self.changed):
            return 0
        return int((self.stored.rows.positions(self.changed) >= 0).sum())

    @cached_property
    def _excluded(self) -> Ints:
        """The ids in the stored vectors that no search may find, int64 [n]."""
        return np.concatenate([self.missing, self.changed])

    def known(self, ids: Sequence[int]) -> list[int]:
        wanted = np.array(ids, np.int64)
        known = self.newer.positions(wanted) >= 0
        if self.stored is not None:
            here = self.stored.rows.positions(wanted) >= 0
            known |= here & ~np.isin(wanted, self.changed)
        return [i for i, is_known in zip(ids, known.tolist(), strict=True) if is_known]

    def search(
        self,
        query: Floats,
        k: int,
        filters: Filter,
        bias: Biases | None,
        lowest: float | None,
    ) -> tuple[Ints, Floats]:
        """As `Snapshot.search`."""
        allowed = self.allowed(filters)
        self._use_gpus(bias)
        missing = self.missing if allowed is None else self._nothing
        excluded = self._excluded if allowed is None else self.changed
        selections = [Selection(allowed, excluded, lowest), Selection(allowed, missing, lowest)]
        parts = self.parts
        return flat.search(
            parts, query, k, selections[-len(parts) :], None if bias is None else bias.parts
        )

    def cosines(self, query: Floats, ids: Ints) -> Floats:
        found = np.full(len(ids), -np.inf, np.float32)
        stored = [] if self.stored is None else [self.stored.rows]
        for part in (*stored, self.newer):  # the newer one decides
            positions = part.positions(ids)
            here = positions >= 0
            found[here] = part.scores_at(positions[here], query)
        return found

    def _use_gpus(self, bias: Biases | None) -> None:
        """Search the stored vectors on GPUs once searches of many vectors are many."""
        if self.stored is not None and self._searched is self.stored.rows:
            of_stored = None if bias is None else bias.parts[0]
            self._searched = gpu.after_many_searches(self.stored, of_stored)

    @cached_property
    def mean(self) -> Floats:
        stored = None if self.stored is None else self.stored.mean()
        if stored is not None:  # rows that are newer are few
            return stored
        return flat.mean_row(self.parts, self._dim, flat.MEAN_SAMPLE)

    def biases(self, name: str, compute: Callable[[Floats], Floats]) -> Biases:
        """As `Index.biases`."""
        if name not in self._biases:
            parts = (
                []
                if self.stored is None
                else [Bias(name, self.stored.bias(name, lambda rows: compute_bias(rows, compute)))]
            )
            parts.append(Bias(name, compute_bias(self.newer, compute)))
            self._biases[name] = Biases([part.ids for part in self.parts], parts)
        return self._biases[name]

    def nearest_ids(self, queries: Floats) -> set[int]:
        return flat.nearest_ids(self.parts, queries)

    def sample(self, most: int) -> Floats:
        return flat.sample_rows(self.parts, self._dim, most)

    @property
    def about(self) -> About | None:
        return None if self.stored is None else self.stored.about

    @property
    def is_outdated(self) -> bool:
        if self.stored is None:
            return True
        return self._files.is_outdated(self.stored, len(self.newer), self.changes)
