"""What searches need from one version of an index on many machines.

Milvus names candidates, the mirror decides which of them may be found. Answers are those of a
folder's index as far as Milvus finds them: all with FLAT, nearly all with the other kinds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from indexes.arrays import Floats, Ints
from indexes.biases import Biases
from indexes.lake.embeddings import LakeEmbeddings
from indexes.lake.mirror import MirrorCatalogue
from indexes.milvus.collection import EXACT_KINDS, MOST_HITS, Collection, Kind
from indexes.milvus.filters import condition
from indexes.milvus.state import State
from indexes.photos import Filter
from indexes.snapshot import Snapshot
from indexes.vectors.store import About

_FEWEST = 64  # candidates
_MORE_CANDIDATES = 4  # for each hit, of kinds that score by codes
_OTHER_BIAS = 1_000  # candidates at least, if they are ordered by another bias
_LISTED = 20_000  # ids of photos that Milvus is told at most
_BANK_BATCH = 500
_SAMPLE = 2_000


@dataclass(frozen=True)
class ClusterBiases(Biases):
    """The biases of photos in Milvus. name: as in `Snapshot.biases`; values: gives them by id."""

    name: str = ""
    values: Callable[[Ints], Floats] = lambda ids: np.zeros(len(ids), np.float32)
    typical: float = 0.0

    @property
    def mean(self) -> float:
        return self.typical

    def of(self, ids: Ints) -> Floats:
        return self.values(ids)


class ClusterSnapshot(Snapshot):
    """One version of the mirror, and the collection as it is.

    loaded: the kind of the collection, and what is loaded into it; raises ClusterError.
    """

    def __init__(
        self,
        catalogue: MirrorCatalogue,
        dim: int,
        version: int,
        collection: Collection,
        loaded: Callable[[], tuple[Kind, State]],
    ) -> None:
        super().__init__(catalogue, dim, version)
        self._collection, self._loaded = collection, loaded
        self._seen: dict[int, float] = {}  # the built-in biases of the last hits

    @property
    def _kind(self) -> Kind:
        return self._loaded()[0]

    @property
    def _state(self) -> State:
        return self._loaded()[1]

    @property
    def _embeddings(self) -> LakeEmbeddings:
        embeddings = self._catalogue.embeddings
        assert isinstance(embeddings, LakeEmbeddings)
        return embeddings

    @cached_property
    def _count(self) -> int:
        return self._embeddings.count()

    def __len__(self) -> int:
        return self._count

    def known(self, ids: Sequence[int]) -> list[int]:
        there = set(self._embeddings.present(np.array(ids, np.int64)).tolist())
        return [i for i in ids if i in there]

    def search(
        self,
        query: Floats,
        k: int,
        filters: Filter,
        bias: Biases | None,
        lowest: float | None,
    ) -> tuple[Ints, Floats]:
        """As `Snapshot.search`; of at most 16,384 candidates."""
        allowed = self.allowed(filters)
        if not k or (allowed is not None and not len(allowed)):
            return np.empty(0, np.int64), np.empty(0, np.float32)
        if allowed is not None and len(allowed) <= _LISTED:
            where = f"id in {allowed.tolist()}"
        else:
            where = condition(filters, self._catalogue)
        built_in = isinstance(bias, ClusterBiases) and bias.name == self._state.ordering
        other = bias is not None and not built_in
        share = 1.0 if allowed is None else len(allowed) / max(len(self), 1)
        most = min(MOST_HITS, len(self) if allowed is None else len(allowed))
        limit = min(self._first_limit(k, other), max(most, 1))
        while True:
            ids, scores, ordered_by = self._candidates(
                *(query, limit, where, share, bias if other else None),
                biased=bias is not None and not other,
            )
            is_all = len(ids) < limit or limit >= MOST_HITS
            ids, scores, ordered_by = self._chosen(ids, scores, ordered_by, allowed, lowest)
            if len(ids) >= k or is_all:
                break
            limit = min(4 * limit, MOST_HITS)
        order = np.lexsort((ids, -ordered_by))[:k]
        return ids[order], scores[order]

    def _first_limit(self, k: int, other_bias: bool) -> int:
        limit = k + len(self.missing) // 100 + k // 10 + 16
        if self._kind not in EXACT_KINDS:
            limit = max(limit, _MORE_CANDIDATES * k)
        if other_bias:
            limit = max(limit, 10 * k, _OTHER_BIAS)
        return max(limit, _FEWEST)

    def _candidates(
        self,
        query: Floats,
        limit: int,
        where: str,
        share: float,
        other: Biases | None,
        biased: bool,
    ) -> tuple[Ints, Floats, Floats]:
        """Ids, cosines, and what orders them."""
        augmented = np.append(query, np.float32(biased))[None]
        ids, products, biases = self._collection.search(augmented, limit, self._kind, where, share)[
            0
        ]
        self._seen = dict(zip(ids.tolist(), biases.tolist(), strict=True))
        if self._kind in EXACT_KINDS:
            scores = products + biases if biased else products
        else:
            vectors = self.vectors(ids.tolist())
            here = np.isin(ids, list(vectors))
            ids, biases = ids[here], biases[here]
            rows = [vectors[i][:-1] for i in ids.tolist()]
            scores = np.stack(rows) @ query if rows else np.empty(0, np.float32)
        if other is not None:
            return ids, scores, scores - other.of(ids)
        return ids, scores, scores - biases if biased else scores

    def _chosen(
        self,
        ids: Ints,
        scores: Floats,
        ordered_by: Floats,
        allowed: Ints | None,
        lowest: float | None,
    ) -> tuple[Ints, Floats, Floats]:
        """The candidates that may be found."""
        if allowed is None:
            keep = np.isin(ids, self._embeddings.present(ids)) & ~np.isin(ids, self.missing)
        else:
            keep = np.isin(ids, allowed)
        if lowest is not None:
            keep &= scores >= lowest
        return ids[keep], scores[keep], ordered_by[keep]

    def vectors(self, ids: Sequence[int]) -> Mapping[int, Floats]:
        """The rows of these photos in Milvus, float32 [dim + 1], by id."""
        found: Mapping[int, Floats] = self._collection.values(ids, "vector")
        return found

    def cosines(self, query: Floats, ids: Ints) -> Floats:
        found: dict[int, float] = {}
        wanted = ids.tolist()
        if self._kind in EXACT_KINDS and 0 < len(ids) <= _LISTED:
            some, scores, _ = self._collection.search(
                np.append(query, np.float32(0))[None], len(ids), self._kind, f"id in {wanted}"
            )[0]
            found = dict(zip(some.tolist(), scores.tolist(), strict=True))
        others = self.known([i for i in wanted if i not in found])
        if others:
            rows = self._embeddings.searchable(others, self._dim)
            found.update(zip(others, (rows @ query).tolist(), strict=True))
        return np.array([found.get(i, -np.inf) for i in wanted], np.float32)

    def nearest_ids(self, queries: Floats) -> set[int]:
        found: set[int] = set()
        for start in range(0, len(queries), _BANK_BATCH):
            some = queries[start : start + _BANK_BATCH]
            augmented = np.hstack([some, np.zeros((len(some), 1), np.float32)])
            answers = self._collection.search(augmented, 1, self._kind)
            found.update(int(ids[0]) for ids, _, _ in answers if len(ids))
        return found

    @cached_property
    def mean(self) -> Floats:
        """The mean of all vectors, float32 [dim], from the sums that the parts of the lake have.

        A photo that was written again counts once more, until parts are merged.
        """
        total, count = np.zeros(self._dim, np.float64), 0
        for rows, content in self._catalogue.database.conn.execute(
            "SELECT rows, total FROM lake_parts WHERE total NOT NULL"
        ):
            total += np.frombuffer(content, np.float32)
            count += rows
        return (total / max(count, 1)).astype(np.float32)

    def sample(self, most: int) -> Floats:
        """The vectors of up to `most` photos: those of the lowest ids, which are random."""
        rows = self._catalogue.database.conn.execute(
            "SELECT photo_id FROM lake_photos ORDER BY photo_id LIMIT ?", [most]
        ).fetchall()
        return self._embeddings.searchable([i for (i,) in rows], self._dim)

    def biases(self, name: str, compute: Callable[[Floats], Floats]) -> Biases:
        if name == self._state.ordering:
            return ClusterBiases((), (), name, self._built_in, self._state.means.get(name, 0.0))
        if name in self._state.means:
            typical = self._state.means[name]
        else:
            sample = self.sample(_SAMPLE)
            typical = float(compute(sample).mean()) if len(sample) else 0.0

        def values(ids: Ints) -> Floats:
            if not len(ids):
                return np.empty(0, np.float32)
            return compute(self._embeddings.searchable(ids.tolist(), self._dim))

        return ClusterBiases((), (), name, values, typical)

    def _built_in(self, ids: Ints) -> Floats:
        lacking = [i for i in ids.tolist() if i not in self._seen]
        found = (
            {**self._seen, **self._collection.values(lacking, "bias")} if lacking else self._seen
        )
        return np.array([found.get(i, 0.0) for i in ids.tolist()], np.float32)

    @property
    def about(self) -> About | None:
        return About(f"Milvus {self._kind}", len(self), self.version) if len(self) else None  # type: ignore[arg-type]
