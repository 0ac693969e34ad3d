"""Bring the files of a task into a folder: where they are, or copied there from elsewhere.

Photos in a folder that all machines see stay where they are. Those in tars, tables, object stores
and at URLs are copied into a temporary folder, a task at a time. Nothing is decoded here.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from retrieval.captions.photo_sidecars import Sidecar
from retrieval.captions.sidecars import read_captions
from retrieval.cluster.fetch import Fetcher
from retrieval.cluster.tasks import Captions, Item, Task
from retrieval.errors import PhotoError

MAX_BYTES = 1 << 29
"""The largest photo that is copied."""


@dataclass(frozen=True)
class Staged:
    """A file of a task that can be opened in `folder`; is_copy: whether it is a copy of it."""

    item: Item
    folder: Path
    is_copy: bool


@contextmanager
def staged(task: Task) -> Iterator[tuple[Path, dict[str, Staged], list[tuple[Item, str]]]]:
    """A folder, the files of a task by their names in it, and those that could not be had.

    Copies are deleted with the block. Files that are gone are left out.
    """
    if all(_is_local(task.root, item) for item in task.items):
        folder = Path(task.root)
        yield folder, {item.path: Staged(item, folder, False) for item in task.items}, []
        return
    with tempfile.TemporaryDirectory(prefix="retrieval-") as temporary:
        folder = Path(temporary).resolve()
        files, failed = _copy(task, folder)
        yield folder, files, failed


def _is_local(root: str, item: Item) -> bool:
    return "://" not in root and item.container is None and item.url is None


def _copy(task: Task, folder: Path) -> tuple[dict[str, Staged], list[tuple[Item, str]]]:
    files: dict[str, Staged] = {}
    failed: list[tuple[Item, str]] = []
    with Fetcher(task.root, MAX_BYTES) as fetcher:
        for number, item in enumerate(task.items):
            # The ending says how to decode it; the rest of the name is not trusted.
            stem, ending = f"{number:06d}", _ending(item.path)
            name = f"{stem}.{ending}" if ending else stem
            try:
                content = fetcher.photo(item)
            except FileNotFoundError:
                continue
            except PhotoError as error:
                failed.append((item, str(error)))
                continue
            (folder / name).write_bytes(content)
            for path in item.beside:
                beside = fetcher.beside(path)
                if beside is not None:
                    rest = path.rpartition("/")[2][len(_stem(item.path)) :]
                    (folder / f"{stem}{rest}").write_bytes(beside)
            files[name] = Staged(item, folder, True)
    if any(file.item.beside for file in files.values()):
        files = _with_captions(folder, files)
    return files, failed


def _with_captions(folder: Path, files: dict[str, Staged]) -> dict[str, Staged]:
    """Files with the captions and facts that the copies of what lies beside them have."""
    read = read_captions(folder, files)
    found: dict[str, list[tuple[str, str]]] = {}
    for caption in read.captions:
        item = files[caption.path].item
        origin = item.beside[0] if item.beside else item.path
        found.setdefault(caption.path, []).append((origin, caption.text))
    result = {}
    for name, file in files.items():
        captions: Captions = (*file.item.captions, *found.get(name, ()))
        sidecars: tuple[Sidecar, ...] = tuple(read.sidecars.get(name, ()))
        item = replace(file.item, captions=captions, sidecars=sidecars)
        result[name] = replace(file, item=item)
    return result


def _stem(path: str) -> str:
    return path.rpartition("/")[2].partition(".")[0]


def _ending(path: str) -> str:
    ending = path.rpartition("/")[2].rpartition(".")[2].lower()
    return ending if ending.isascii() and ending.isalnum() and len(ending) <= 5 else ""
