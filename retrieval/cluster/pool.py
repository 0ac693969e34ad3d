"""Workers on the machines of a Ray cluster, and tasks given out to them one after the other.

Each worker is a Ray actor that reads, encodes and writes whole tasks: no photo travels between
machines. These are Ray's actors and not Ray Data, because a task that ends its worker is halved
until the photo that does it is found, and what is done is handed over part by part.
"""

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from indexes.arrays import Ints
from indexes.errors import RetrievalError, StorageError
from retrieval.cluster.claims import Claims
from retrieval.cluster.options import LOCAL, WorkerSize
from retrieval.cluster.tasks import Done, Task
from retrieval.cluster.work import Job, Work

ATTEMPTS = 3
"""Workers that may end during a task before it is halved, or its only photo is skipped."""
_QUEUED = 2  # tasks at a worker: the next is there when one is done
_PATIENCE = 300.0  # seconds without any worker
_RENEWED = 30.0  # seconds between looks at how many machines there are
_MOST_STARTS = 3  # in a row of workers that fail to start
_CORES = 8  # of a worker without a GPU
_STORE = 200 << 20  # bytes of Ray's object store on one machine: tasks are small


@dataclass
class _Worker:
    actor: Any
    ready: Any = None  # Ray's reference to its start
    tasks: deque[tuple[Any, Task]] = field(default_factory=deque)  # the first is running


@contextmanager
def ray_cluster(address: str = LOCAL) -> Iterator[None]:
    """Be connected to a Ray cluster, or to one on this machine that ends with the block.

    A connection that there is, is used. Raises RetrievalError.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise RetrievalError(
            "Ray is not installed: `pip install 'crossmodal-retrieval[cluster]'`."
        ) from error
    if ray.is_initialized():
        yield
        return
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        if address == LOCAL:
            _start_here(ray)
        else:
            ray.init(address=address, log_to_driver=False, logging_level="error")
    except Exception as error:  # Ray raises plain ones, too
        raise RetrievalError(
            f"There is no Ray cluster at {address} ({str(error)[:200]}). Start one with `ray start "
            "--head`, or leave out --ray to use this machine."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _start_here(ray: Any) -> None:
    """Start Ray on this machine; a busy one may need more than the 30 s that Ray waits."""
    for attempt in range(_MOST_STARTS):
        try:
            ray.init(
                address=LOCAL,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="error",
                object_store_memory=_STORE,
            )
            return
        except Exception as error:
            ray.shutdown()
            if attempt == _MOST_STARTS - 1 or "timed out" not in str(error):
                raise


class Pool:
    """The workers of a run. Use it inside `ray_cluster`, as a context manager.

    make: what each worker calls with the job and the claims for its work, in its own process.
    """

    def __init__(
        self,
        job: Job | None,
        known: Ints,
        size: WorkerSize = WorkerSize(),
        make: Callable[..., Any] = Work,
    ) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._ray, self._job, self._size, self._make = ray, job, size, make
        self._workers: list[_Worker] = []
        self._failed_starts, self._looked, self._alive = 0, 0.0, time.monotonic()
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        # With the run, on its machine: if that goes, the run has gone, too.
        self._claims = (
            ray.remote(Claims).options(num_cpus=0, scheduling_strategy=here).remote(known)
        )

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            self._ray.kill(worker.actor)
        self._ray.kill(self._claims)

    def wait_started(self) -> None:
        """Wait until all workers have loaded their model; raises as `run`."""
        self._scale()
        while any(worker.ready is not None for worker in self._workers):
            for _ in self._collect(deque()):
                raise AssertionError("no worker has a task")

    def run(self, tasks: Iterator[Task]) -> Iterator[tuple[Task, Done | str]]:
        """Do tasks, in any order. Gives each with what came of it, or why it was given up.

        Tasks are taken from the iterator as workers become free. Raises what a worker raises.
        """
        again: deque[Task] = deque()
        ended = False
        while True:
            self._scale()
            for worker in self._free():
                while not ended and not again and len(again) < 1:
                    task = next(tasks, None)
                    if task is None:
                        ended = True
                    else:
                        again.append(task)
                if not again:
                    break
                self._give(worker, again.popleft())
            if ended and not again and not any(worker.tasks for worker in self._workers):
                return
            yield from self._collect(again)

    def _free(self) -> Iterator[_Worker]:
        """Workers that can take a task, those with nothing to do first."""
        started = [worker for worker in self._workers if worker.ready is None]
        for count in range(_QUEUED):
            for worker in started:
                # A task that ended a worker is alone at the next one.
                alone = any(task.attempts for _, task in worker.tasks)
                if len(worker.tasks) == count and not alone:
                    yield worker

    def _give(self, worker: _Worker, task: Task) -> None:
        worker.tasks.append((worker.actor.run.remote(task), task))

    def _collect(self, again: deque[Task]) -> Iterator[tuple[Task, Done | str]]:
        """Wait for the next worker to start, to end or to finish a task."""
        first = {worker.tasks[0][0]: worker for worker in self._workers if worker.tasks}
        starting = {worker.ready: worker for worker in self._workers if worker.ready is not None}
        references = [*first, *starting]
        if not references:
            raise RetrievalError("The Ray cluster has no worker left. Run the same command again.")
        finished, _ = self._ray.wait(references, num_returns=1, timeout=_RENEWED)
        if first or finished:
            self._alive = time.monotonic()
        elif time.monotonic() - self._alive > _PATIENCE:
            raise RetrievalError(
                f"The Ray cluster had no room for a worker for {_PATIENCE:.0f} s. Add machines to "
                "it, or ask for less of one with --worker-cpus and --worker-gpus."
            )
        for reference in finished:
            if reference in starting:
                self._started(starting[reference])
            else:
                yield from self._finished(first[reference], again)

    def _started(self, worker: _Worker) -> None:
        try:
            self._ray.get(worker.ready)
        except self._ray.exceptions.RayTaskError as error:
            raise _cause(error) from error
        except self._ray.exceptions.RayError as error:
            self._failed_starts += 1
            self._workers.remove(worker)
            self._looked = 0.0
            if self._failed_starts >= _MOST_STARTS:
                raise RetrievalError(
                    f"{_MOST_STARTS} workers in a row ended while they loaded the model "
                    f"({str(error).splitlines()[0][:200]}). See whether it fits their memory."
                ) from error
            return
        worker.ready, self._failed_starts = None, 0

    def _finished(self, worker: _Worker, again: deque[Task]) -> Iterator[tuple[Task, Done | str]]:
        reference, task = worker.tasks.popleft()
        try:
            yield task, self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            cause = _cause(error)
            if not isinstance(cause, StorageError) or task.attempts + 1 >= ATTEMPTS:
                raise cause from error
            time.sleep(2.0**task.attempts)  # what is stored elsewhere is away now and then
            again.append(replace(task, attempts=task.attempts + 1))
        except self._ray.exceptions.RayError:  # the worker has ended, or its machine
            again.extend(queued for _, queued in worker.tasks)
            self._workers.remove(worker)
            self._ray.kill(worker.actor)
            self._looked = 0.0
            task = replace(task, attempts=task.attempts + 1)
            if task.attempts < ATTEMPTS:
                again.append(task)
            elif len(task.items) > 1:
                again.extend(task.halves(ATTEMPTS - 1))
            else:
                yield task, f"it ended the process that read it, {ATTEMPTS} times"

    def _scale(self) -> None:
        """As many workers as the machines that there are now have room for."""
        if time.monotonic() - self._looked < _RENEWED:
            return
        self._looked = time.monotonic()
        count, cpus, gpus = self._plan()
        work = self._ray.remote(_Actor).options(num_cpus=cpus, num_gpus=gpus, max_restarts=0)
        job = self._job and self._job.with_threads(max(int(cpus), 1))
        for _ in range(count - len(self._workers)):
            actor = work.remote(self._make, job, self._claims)
            self._workers.append(_Worker(actor, actor.load.remote()))

    def _plan(self) -> tuple[int, float, float]:
        """How many workers, and the CPUs and GPUs of each."""
        machines = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        has_gpus = any(machine.get("GPU") for machine in machines)
        gpus = self._size.gpus if self._size.gpus is not None else float(has_gpus)
        cpus = self._size.cpus
        if cpus is None:
            rooms = [
                machine.get("CPU", 0) / max(machine.get("GPU", 0) / gpus, 1)
                if gpus
                else min(machine.get("CPU", 0), _CORES)
                for machine in machines
                if machine.get("GPU") or not gpus
            ]
            cpus = max(min((room for room in rooms if room >= 1), default=1.0) // 1, 1.0)
        fits = sum(
            int(
                min(
                    machine.get("CPU", 0) / cpus if cpus else 1e6,
                    machine.get("GPU", 0) / gpus if gpus else 1e6,
                )
                + 1e-6
            )
            for machine in machines
        )
        most = self._size.workers if self._size.workers is not None else max(fits, 1)
        return min(most, max(fits, 1)), cpus, gpus


class _Actor:
    """A worker's process: the work, and a count for Ray's dashboard."""

    def __init__(self, make: Callable[..., Any], job: Job | None, claims: Any) -> None:
        import ray
        from ray.util.metrics import Counter

        def claim(task: str, hashes: list[str]) -> list[bool]:
            found: list[bool] = ray.get(claims.claim.remote(task, hashes))
            return found

        self._work = make(job, claim)
        self._photos = Counter("retrieval_photos", description="Photos encoded")

    def load(self) -> None:
        self._work.load()

    def run(self, task: Task) -> Done:
        done: Done = self._work.run(task)
        if done.encoded:
            self._photos.inc(done.encoded)
        return done


def _cause(error: Any) -> BaseException:
    """What a worker raised."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, BaseException) else error
