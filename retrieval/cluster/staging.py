"""Bring the files of a task into a folder: where they are, or copied there from elsewhere.

Photos in a folder that all machines see stay where they are. Those in tars, tables, object stores
and at URLs are copied into a temporary folder, a task at a time. Nothing is decoded here.
"""

import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from retrieval.captions.photo_sidecars import Sidecar
from retrieval.captions.sidecars import read_captions
from retrieval.cluster.fetch import Fetcher
from retrieval.cluster.tasks import Captions, Item, Task
from retrieval.errors import PhotoError
from retrieval.photos.files import UNREADABLE
from retrieval.photos.look_ahead import look_ahead

MAX_BYTES = 1 << 28
"""The largest photo that is copied."""
MAX_TASK_BYTES = 1 << 32
"""The most that is copied for one task. Tasks are made for a quarter of it, as far as is known."""
_AT_ONCE = 16  # photos from the web


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
    """Copies of all files; many that are on the web are asked for at the same time."""
    files: dict[str, Staged] = {}
    failed: list[tuple[Item, str]] = []
    room = MAX_TASK_BYTES
    with Fetcher(task.root, MAX_BYTES) as fetcher:

        def fetch(item: Item) -> bytes | str | None:
            """The content of a photo, or why it cannot be had; None if it is gone."""
            try:
                return fetcher.photo(item)
            except FileNotFoundError:
                return None
            except PhotoError as error:
                return str(error)

        on_web = all(item.url is not None for item in task.items)
        threads = _AT_ONCE if on_web else 1
        with closing(look_ahead(fetch, task.items, threads, 2 * threads)) as found:
            for number, (item, content) in enumerate(zip(task.items, found, strict=True)):
                if isinstance(content, bytes) and len(content) > room:
                    content = f"{UNREADABLE} (the photos beside it are too large together)"
                if content is None:
                    continue
                if isinstance(content, str):
                    failed.append((item, content))
                    continue
                room -= len(content)
                # The ending says how to decode it; the rest of the name is not trusted.
                stem, ending = f"{number:06d}", _ending(item.path)
                name = f"{stem}.{ending}" if ending else stem
                (folder / name).write_bytes(content)
                _copy_beside(fetcher, item, folder, stem)
                files[name] = Staged(item, folder, True)
    if any(file.item.beside for file in files.values()):
        files = _with_captions(folder, files)
    return files, failed


def _copy_beside(fetcher: Fetcher, item: Item, folder: Path, stem: str) -> None:
    for path in item.beside:
        content = fetcher.beside(path)
        if content is not None:
            rest = path.rpartition("/")[2][len(_stem(item.path)) :]
            (folder / f"{stem}{rest}").write_bytes(content)


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
