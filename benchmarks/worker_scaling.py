"""Photos a second by the number of Ray's workers: real photos, and tasks that only sleep.

The latter show what giving out tasks costs. It is a part of `retrieval benchmark cluster`.
"""

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import sample_photos
from indexes.arrays import Ints
from retrieval.cluster.options import WorkerSize
from retrieval.cluster.tasks import Done, Item, Task, in_tasks
from retrieval.encoders.registry import load_encoder

_MEGAPIXELS = 0.2
SLEEPERS = (1, 4, 16, 64)
_SLEEP = 0.01  # seconds a made photo
_SLEEP_FILES, _SLEEP_TASKS = 100, 8  # files of a task; tasks of a worker


@dataclass(frozen=True)
class Scaling:
    """Photos a second by the number of workers, after all of them had started.

    efficiency: of work that only sleeps, the share of the time that was not lost; None for real
    photos, whose workers share the cores.
    """

    workers: int
    per_second: float
    efficiency: float | None = None


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
        logging.getLogger("ray").setLevel(logging.ERROR)
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
