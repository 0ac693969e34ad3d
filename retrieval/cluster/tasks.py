"""What travels between the run and its workers: tasks, and what became of them.

A task is a bounded number of files of one source. Nothing is read here.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from blake3 import blake3

from indexes.lake.manifest import Part
from retrieval.captions.photo_sidecars import Sidecar

Captions = tuple[tuple[str, str], ...]
"""Captions as (origin, text), cleaned."""


@dataclass(frozen=True)
class Item:
    """A file of a source that may be a photo.

    path: in the root; bytes, mtime_ns: as the source has them; captions: from outside of the file;
    sidecars: what files beside it say of when and where it was taken. offset: where it begins in
    the file `container`, which holds it; row: its row in a table `container`; url: where it is, if
    not at its path in the root.
    """

    path: str
    bytes: int
    mtime_ns: int
    captions: Captions = ()
    sidecars: tuple[Sidecar, ...] = ()
    container: str | None = None
    offset: int | None = None
    row: int | None = None
    url: str | None = None
    beside: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """Files of one source that a worker reads at a time.

    root: the folder or URL of the source. attempts: how many workers died of it. key: what its
    halves have in common, so that a photo in two of them is still encoded once.
    """

    root: str
    items: tuple[Item, ...]
    attempts: int = 0
    key: str = ""

    @property
    def name(self) -> str:
        """A name for what it makes: the same for the same files."""
        state = blake3(self.root.encode("utf-8", "surrogatepass"))
        for item in self.items:
            row = f"\0{item.path}\0{item.bytes}\0{item.mtime_ns}\0{item.captions}"
            state.update(row.encode("utf-8", "surrogatepass"))
        return state.hexdigest()[:24]

    def halves(self, attempts: int) -> list["Task"]:
        """Two tasks of half the files. attempts: of each, but of one with a single file none."""
        middle, key = len(self.items) // 2, self.key or self.name
        parts = (self.items[:middle], self.items[middle:])
        return [
            replace(self, items=part, attempts=attempts if len(part) > 1 else 0, key=key)
            for part in parts
        ]


@dataclass(frozen=True)
class Done:
    """What a worker made of a task.

    parts: of the lake, written but not yet in a manifest; files: how many were read; encoded: new
    photos; captioned: files with captions; reasons: bad files as (path, reason); incomplete: files
    that lack their end.
    """

    parts: tuple[Part, ...]
    files: int
    encoded: int = 0
    captioned: int = 0
    reasons: tuple[tuple[str, str], ...] = ()
    incomplete: tuple[str, ...] = field(default=())


_MOST_BYTES = 1 << 30  # of the photos of a task, which may have to be copied
_UNKNOWN = 1 << 20  # bytes of a photo whose size is not known


def in_tasks(root: str, items: Sequence[Item], most: int) -> Iterator[Task]:
    """Items in tasks of at most `most` files, and of bounded bytes."""
    some, size = list[Item](), 0
    for item in items:
        if some and (len(some) >= most or size + item.bytes > _MOST_BYTES):
            yield Task(root, tuple(some))
            some, size = [], 0
        some.append(item)
        size += item.bytes or _UNKNOWN
    if some:
        yield Task(root, tuple(some))
