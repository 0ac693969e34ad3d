"""Many machines, measured: vectors in Milvus, and photos through Ray's workers.

Milvus gets made vectors near those of real photos; its answers are compared with exact ones. The
pipeline encodes real photos with one worker and several, then does tasks that only sleep, which
shows what giving out tasks costs. Run it as `retrieval benchmark cluster`.
"""

import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import sample_photos
from benchmarks.exact_answers import Answers, K, exact_answers
from benchmarks.made_index import MadeRows
from indexes.arrays import Floats, Ints
from retrieval.cluster.options import WorkerSize
from retrieval.cluster.tasks import Done, Item, Task, in_tasks
from retrieval.datasets.captioned import CaptionedSet
from retrieval.datasets.embedding_cache import open_embedding_cache
from retrieval.encoders.registry import load_encoder
from retrieval.errors import QueryError

if TYPE_CHECKING:
    from indexes.milvus.collection import Collection, Kind

_QUERIES = 400
_BATCH = 2000  # vectors of a request
_MEGAPIXELS = 0.2
SLEEPERS = (1, 4, 16, 64)
_SLEEP = 0.01  # seconds a made photo
_SLEEP_FILES, _SLEEP_TASKS = 100, 8  # files of a task; tasks of a worker


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


@dataclass(frozen=True)
class Scaling:
    """Photos a second by the number of workers, after all of them had started.

    efficiency: of work that only sleeps, the share of the time that was not lost; None for real
    photos, whose workers share the cores.
    """

    workers: int
    per_second: float
    efficiency: float | None = None


@dataclass(frozen=True)
class Measurement:
    """What was measured, and where."""

    machine: str
    milvus: tuple[MilvusSpeed, ...] = ()
    photos: tuple[Scaling, ...] = ()
    sleeping: tuple[Scaling, ...] = field(default=())


def machine() -> str:
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"


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


def measure_photos(
    workers: Sequence[int],
    photos: int,
    model: str,
    ray: str,
    log: Callable[[str], None] = lambda _: None,
) -> tuple[Scaling, ...]:
    """Encode real photos into a lake with so many workers of one CPU each."""
    results = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "photos"
        sample_photos.make(folder, _MEGAPIXELS, photos)
        for count in workers:
            log(f"{photos:,} photos with {count} worker(s)")
            seconds = _run_photos(Path(temporary), folder, count, photos, model, ray)
            results.append(Scaling(count, photos / seconds))
    return tuple(results)


def _run_photos(
    temporary: Path, folder: Path, count: int, photos: int, model: str, ray: str
) -> float:
    from indexes.catalogue import IndexModel
    from retrieval.cluster.pool import Pool, ray_cluster
    from retrieval.cluster.sources import find_source, list_source
    from retrieval.cluster.work import Job
    from retrieval.fusion.store import load_fusion
    from retrieval.indexing.options import Options

    encoder = load_encoder(model)
    fusion = load_fusion(encoder.fingerprint, encoder.dim)
    recorded = IndexModel(encoder.name, encoder.fingerprint, encoder.dim, fusion.name)
    lake = temporary / f"lake-{count}"
    job = Job(str(lake), recorded, fusion, Options(workers=1))
    (listing,) = list_source(find_source(str(folder)), (), (), ())
    tasks = list(in_tasks(listing.root, listing.items, max(photos // (8 * count), 8)))
    with ray_cluster(ray), Pool(job, _no_ids(), WorkerSize(count, 1)) as pool:
        pool.wait_started()
        started = time.perf_counter()
        done = [result for _, result in pool.run(iter(tasks)) if isinstance(result, Done)]
        seconds = time.perf_counter() - started
    shutil.rmtree(lake)
    assert sum(result.encoded for result in done) == photos
    return seconds


class Sleeping:
    """Work that only takes its time: what is lost is the cost of giving out tasks."""

    def __init__(self, _job: Any, _claim: Any) -> None:
        pass

    def load(self) -> None:
        pass

    def run(self, task: Task) -> Done:
        time.sleep(_SLEEP * len(task.items))
        return Done((), len(task.items), len(task.items))


def measure_sleeping(
    workers: Sequence[int] = SLEEPERS, log: Callable[[str], None] = lambda _: None
) -> tuple[Scaling, ...]:
    """Tasks that only sleep, on a Ray cluster of this machine with as many made CPUs."""
    import ray

    from retrieval.cluster.pool import Pool

    results = []
    for count in workers:
        log(f"{count} worker(s) that sleep")
        items = tuple(Item(f"{i}.jpg", 1, 1) for i in range(_SLEEP_FILES))
        tasks = [Task(f"/made/{i}", items) for i in range(_SLEEP_TASKS * count)]
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        ray.init(
            address="local",
            num_cpus=count + 1,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=200 << 20,
        )
        try:
            with Pool(None, _no_ids(), WorkerSize(count, 1), Sleeping) as pool:
                pool.wait_started()
                started = time.perf_counter()
                done = sum(1 for _ in pool.run(iter(tasks)))
                seconds = time.perf_counter() - started
        finally:
            ray.shutdown()
        files = done * _SLEEP_FILES
        ideal = files * _SLEEP / count
        results.append(Scaling(count, files / seconds, ideal / seconds))
    return tuple(results)


def _no_ids() -> Ints:
    return np.empty(0, np.int64)


def as_json(found: Measurement) -> dict[str, Any]:
    """Plain values."""
    value = asdict(found)
    for speed, row in zip(found.milvus, value["milvus"], strict=True):
        row["per_second"] = speed.per_second
        row["filtered"] = {f"{share:.0%}": pair for share, pair in speed.filtered.items()}
    return value


def as_table(found: Measurement) -> str:
    """A line for each measurement."""
    lines = []
    for m in found.milvus:
        lines.append(
            f"Milvus {m.kind}, {m.vectors:,} × {m.dim}: written in {m.write_seconds:.0f} s, built "
            f"in {m.build_seconds:.0f} s ({m.per_second:,.0f} vectors a second); p50 {m.p50:.1f} "
            f"ms, p99 {m.p99:.1f} ms, recall@10 {m.recall:.1f}%"
        )
        lines += [
            f"  filtered to {share:.0%}: p50 {p50:.1f} ms, recall@10 {recall:.1f}%"
            for share, (p50, recall) in m.filtered.items()
        ]
    lines += [f"Photos, {s.workers} worker(s): {s.per_second:.1f} a second" for s in found.photos]
    lines += [
        f"Sleeping, {s.workers} worker(s): {s.per_second:,.0f} photos a second, efficiency "
        f"{s.efficiency:.1%}"
        for s in found.sleeping
    ]
    return "\n".join([*lines, found.machine])


if __name__ == "__main__":
    from benchmarks.commands import alone

    alone("cluster")
