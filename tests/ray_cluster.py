"""A real Ray cluster of three nodes on this machine, and workers that misbehave in it."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from retrieval.cluster.tasks import Done, Task
from retrieval.cluster.work import Work

STORE = 80 << 20  # bytes of the object store of a node


@contextmanager
def three_nodes() -> Iterator[Any]:
    """A head and two nodes with a CPU each; this process is connected to them."""
    pytest.importorskip("ray", reason="Ray is not installed (the extra `cluster`)")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # A busy machine is no dead node; a node that is killed is known by its connection.
    os.environ["RAY_health_check_failure_threshold"] = "60"  # noqa: SIM112
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 1,
            "object_store_memory": STORE,
            "include_dashboard": False,
        },
    )
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1, object_store_memory=STORE)
        cluster.wait_for_nodes()
        ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


class KilledOnce(Work):
    """The first worker that is given a task ends without a word."""

    def run(self, task: Task) -> Done:
        mark = Path(self._job.lake).with_name("killed")
        try:
            mark.touch(exist_ok=False)
        except FileExistsError:
            return super().run(task)
        kill_self()
        raise AssertionError


class KilledByPhoto(Work):
    """A certain photo ends every process that reads it."""

    def run(self, task: Task) -> Done:
        if any(item.path.endswith("poison.jpg") for item in task.items):
            kill_self()
        return super().run(task)


class Slow(Work):
    """Every task takes a while, so that a test can do something meanwhile."""

    def run(self, task: Task) -> Done:
        time.sleep(0.3)
        return super().run(task)


class Sleeping:
    """Work that only takes time: what is left is the cost of giving out tasks."""

    def __init__(self, job: Any, claim: Any) -> None:
        self._seconds = 0.01

    def load(self) -> None:
        pass

    def run(self, task: Task) -> Done:
        time.sleep(self._seconds * len(task.items))
        return Done((), len(task.items), len(task.items))
