"""Searches and loads of a Milvus server, measured with made vectors near those of real photos.

Its answers are compared with exact ones. It is a part of `retrieval benchmark cluster`.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.exact_answers import Answers, K, exact_answers
from benchmarks.made_index import MadeRows
from indexes.arrays import Floats, Ints
from retrieval.datasets.captioned import CaptionedSet
from retrieval.datasets.embedding_cache import open_embedding_cache
from retrieval.encoders.registry import load_encoder
from retrieval.errors import QueryError

if TYPE_CHECKING:
    from indexes.milvus.collection import Collection, Kind

_QUERIES = 400
_BATCH = 2000  # vectors of a request


@dataclass(frozen=True)
class MilvusSpeed:
    """A collection of made vectors. Seconds of writing and of building; vectors a second over both;
    milliseconds a query for ten hits; recall@10 in percent; filtered: p50 and recall by the share
    of the vectors that pass."""

    kind: str
    vectors: int
    dim: int
    write_seconds: float
    build_seconds: float
    p50: float
    p99: float
    recall: float
    filtered: Mapping[float, tuple[float, float]]

    @property
    def per_second(self) -> float:
        return self.vectors / (self.write_seconds + self.build_seconds)


def measure_milvus(
    address: str,
    captioned: CaptionedSet,
    vectors: int,
    kinds: Sequence[str],
    model: str,
    seed: int = 0,
    log: Callable[[str], None] = lambda _: None,
) -> tuple[MilvusSpeed, ...]:
    """Load made vectors into collections of a Milvus server and search them.

    address: `milvus://HOST:PORT`. The collection is deleted afterwards. Raises RetrievalError.
    """
    from indexes.milvus.collection import KINDS, Collection
    from indexes.milvus.place import parse

    wanted = [kind for kind in KINDS if kind in kinds]
    if len(wanted) < len(set(kinds)):
        raise QueryError(f"The kinds of index in Milvus are {', '.join(KINDS)}.")
    encoder = load_encoder(model, log)
    with open_embedding_cache(encoder, lambda *_: None) as cache:
        base = cache.photos(captioned.photos)[0].rows
        texts = sorted({caption for photo in captioned.photos for caption in photo.captions})
        chosen = np.random.default_rng(seed).permutation(len(texts))[:_QUERIES]
        queries = cache.texts([texts[i] for i in chosen]).rows
    rows = MadeRows(base, vectors, seed)
    log(f"{vectors:,} vectors: the exact answers")
    exact = exact_answers(rows, queries, None)
    results = []
    collection = Collection(parse(f"{address.rstrip('/')}/benchmark_{seed}"))
    try:
        write = build = 0.0
        for number, kind in enumerate(wanted):
            log(f"{vectors:,} vectors: {kind}")
            if number == 0:
                write, build = _fill(collection, rows, kind)
            else:
                build = _build_again(collection, kind)
            p50, p99, recall = _ask(collection, kind, queries, exact.plain, "")
            filtered = {
                share: _ask(collection, kind, queries, answers, _passing(share))
                for share, answers in exact.filtered.items()
            }
            results.append(
                MilvusSpeed(
                    kind,
                    vectors,
                    rows.dim,
                    write,
                    build,
                    p50,
                    p99,
                    recall,
                    {share: (median, found) for share, (median, _, found) in filtered.items()},
                )
            )
        collection.drop()
    finally:
        collection.close()
    return tuple(results)


def _fill(collection: "Collection", rows: MadeRows, kind: "Kind") -> tuple[float, float]:
    """Write all rows, as a load does; seconds of writing, and until all can be searched fast."""
    started = time.perf_counter()
    similar = {share: rows.is_similar(share) for share in (0.1, 0.01)}
    collection.create("", rows.dim, kind)
    for ids, some, near in rows.blocks():
        inside = [[_number(share) for share in similar if similar[share][i]] for i in near]
        extended = np.concatenate([some, np.zeros((len(some), 1), np.float32)], axis=1)
        for start in range(0, len(ids), _BATCH):
            part = slice(start, start + _BATCH)
            collection.upsert(
                [
                    {
                        "id": int(i),
                        "vector": row,
                        "bias": 0.0,
                        "taken": 0,
                        "camera": 0,
                        "latitude": 999.0,
                        "longitude": 999.0,
                        "places": [],
                        "folders": folders,
                    }
                    for i, row, folders in zip(ids[part], extended[part], inside[part], strict=True)
                ]
            )
    written = time.perf_counter()
    collection.flush()
    collection.wait_built()
    return written - started, time.perf_counter() - written


def _build_again(collection: "Collection", kind: "Kind") -> float:
    started = time.perf_counter()
    about = collection.about()
    assert about is not None
    collection.set_kind(about, kind)
    collection.wait_built()
    return time.perf_counter() - started


def _number(share: float) -> int:
    return round(share * 1000)


def _passing(share: float) -> str:
    return f"array_contains(folders, {_number(share)})"


def _ask(
    collection: "Collection", kind: "Kind", queries: Floats, answers: Answers, condition: str
) -> tuple[float, float, float]:
    """Milliseconds a query (median and 99th percentile), and recall@10 in percent."""
    asked = np.concatenate([queries, np.ones((len(queries), 1), np.float32)], axis=1)
    collection.search(asked[:1], K, kind, condition)  # what it reads first counts for nobody
    times, found = [], list[Ints]()
    for query in asked:
        started = time.perf_counter()
        ((ids, _, _),) = collection.search(query[None], K, kind, condition)
        times.append(1000 * (time.perf_counter() - started))
        found.append(ids)
    p50, p99 = (float(np.percentile(times, q)) for q in (50, 99))
    return p50, p99, answers.recall(found)
