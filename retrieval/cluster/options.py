"""The options of an index on many machines. No work is done here."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from indexes.milvus.collection import Kind

LOCAL = "local"


@dataclass(frozen=True)
class WorkerSize:
    """What each worker takes, and how many there are at most; None to choose by the machines.

    gpus: a part of one, such as 0.5, where several share it.
    """

    workers: int | None = None
    cpus: float | None = None
    gpus: float | None = None


@dataclass(frozen=True)
class ClusterOptions:
    """How to index on many machines.

    lake: the folder or URL of the lake, which a collection remembers; ray: the address of a Ray
    cluster, or 'local' for one on this machine; size: of its workers; task_files: how many files a
    worker is given at a time, None to choose; kind: of the index in Milvus, None to choose by how
    many photos there are; rebuild_vectors: load all vectors into a new collection.
    """

    lake: str | None = None
    ray: str = LOCAL
    size: WorkerSize = field(default_factory=WorkerSize)
    task_files: int | None = None
    kind: "Kind | None" = None
    rebuild_vectors: bool = False
