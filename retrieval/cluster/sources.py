"""Where photos come from: folders, object stores, WebDataset tars, tables of paths or URLs.

Each source is listed in bounded parts, with the captions that belong to its photos. No photo is
opened here; what is new in a listing, `retrieval.cluster.known` knows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from indexes.errors import RetrievalError
from indexes.index_roots import Root
from indexes.lake.location import Location
from retrieval.captions.sidecars import read_captions
from retrieval.cluster.tables import is_table, list_table
from retrieval.cluster.tars import list_tar
from retrieval.cluster.tasks import Item
from retrieval.errors import DataSetError
from retrieval.indexing.changes import scan
from retrieval.photos.files import mtime_ns
from retrieval.photos.walk import PHOTO_SUFFIXES

_BESIDE = ("txt", "caption", "xmp", "json")
_AT_A_TIME = 100_000  # photos of a listing


@dataclass(frozen=True)
class Source:
    """A source that a user named. root: its folder or URL; names: its tars or tables, () for the
    photos in the root themselves; named: as the user did, in full."""

    root: str
    names: tuple[str, ...] = ()
    kind: Literal["photos", "tars", "tables"] = "photos"
    named: str = ""

    @property
    def places(self) -> tuple[str, ...]:
        """What later runs find the source by."""
        return (self.named or self.root,)


@dataclass
class Listing:
    """Some photos of a source, or all below one name. below: the part of the root that they are
    all of, so that what is not among them is gone; None if more follow."""

    root: str
    items: list[Item]
    below: str | None = None
    unreadable: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def find_source(named: str) -> Source:
    """The source that a user names; raises RetrievalError if there is none."""
    location = Location.of(named)
    parent, _, name = location.url.rpartition("/")
    if name.lower().endswith(".tar"):
        return Source(_real(parent), (name,), "tars", location.url)
    if is_table(name):
        return Source(_real(parent), (name,), "tables", location.url)
    if location.folder is not None and not location.folder.is_dir():
        what = (
            "is a file, not a folder, tar or table"
            if location.folder.exists()
            else ("does not exist")
        )
        raise RetrievalError(f"{named} {what}. Name the folder that your photos are in.")
    if location.folder is None and "://" not in location.url:
        raise RetrievalError(f"{named} does not exist. Name a folder or a URL.")
    inside = [path.rpartition("/")[2] for path in _names(location)]
    tars = tuple(sorted(name for name in inside if name.lower().endswith(".tar")))
    if tars and not any(_ending(name) in PHOTO_SUFFIXES for name in inside):
        return Source(_real(location.url), tars, "tars")
    return Source(_real(location.url))


def list_source(
    source: Source, exclude: Sequence[str], include: Sequence[str], lists: Sequence[Path]
) -> Iterator[Listing]:
    """All photos of a source; raises StorageError.

    exclude, include, lists: patterns and files of captions, as for a folder on one machine.
    """
    if source.kind == "tars":
        yield from _tars(source)
    elif source.kind == "tables":
        yield from _tables(source)
    elif "://" in source.root:
        yield from _object_store(source)
    else:
        yield _folder(source, exclude, include, lists)


def _folder(
    source: Source, exclude: Sequence[str], include: Sequence[str], lists: Sequence[Path]
) -> Listing:
    """A folder that every machine sees under the same path."""
    root = Root(1, Path(source.root))
    found = scan(root, "", exclude, include)
    read = read_captions(root.path, (file.path for file in found.files), lists)
    captions: dict[str, list[tuple[str, str]]] = {}
    for caption in read.captions:
        captions.setdefault(caption.path, []).append((caption.origin, caption.text))
    items = [
        Item(
            *file,
            captions=tuple(captions.get(file.path, ())),
            sidecars=tuple(read.sidecars.get(file.path, ())),
        )
        for file in found.files
    ]
    notes = list(read.notes)
    return Listing(source.root, items, "", found.left_out.unreadable, notes)


def _object_store(source: Source) -> Iterator[Listing]:
    """All photos below a URL, with the small files beside them that may tell of them."""
    filesystem, base = Location.of(source.root).storage
    beside: dict[str, list[tuple[str, int]]] = {}
    photos: list[tuple[str, int, int]] = []
    for path, about in filesystem.find(base, detail=True).items():
        inner = str(path)[len(base) :].strip("/")
        ending = _ending(inner)
        if any(part.startswith(".") for part in inner.split("/")):
            continue
        if ending in PHOTO_SUFFIXES:
            photos.append((inner, int(about.get("size") or 0), _mtime_ns(about)))
        elif ending in _BESIDE:
            beside.setdefault(_stem(inner), []).append((inner, _mtime_ns(about)))
    items = []
    for path, size, mtime in sorted(photos):
        found = beside.get(_stem(path), ())
        # What lies beside a photo counts as a part of it: if it changes, both are read again.
        newest = max([mtime, *(time for _, time in found)])
        items.append(Item(path, size, newest, beside=tuple(name for name, _ in found)))
    yield Listing(source.root, items, "")


def _tars(source: Source) -> Iterator[Listing]:
    for name in source.names:
        try:
            items = list_tar(source.root, name, _time_of(source.root, name))
        except DataSetError as error:
            yield Listing(source.root, [], None, [], [str(error)])
            continue
        yield Listing(source.root, items, name)


def _tables(source: Source) -> Iterator[Listing]:
    for name in source.names:
        for items in list_table(source.root, name, _time_of(source.root, name)):
            yield Listing(
                source.root, [i for item in items for i in _as_on_disk(source.root, item)]
            )


def _as_on_disk(root: str, item: Item) -> list[Item]:
    """An item with the size and time of its file, if it is one of a local folder that is there."""
    if "://" in root or item.url is not None or item.container is not None:
        return [item]
    try:
        state = (Path(root) / item.path).stat()
    except (OSError, ValueError):
        return []
    return [replace(item, bytes=state.st_size, mtime_ns=mtime_ns(state))]


def _time_of(root: str, name: str) -> int:
    filesystem, base = Location.of(root).storage
    return _mtime_ns(filesystem.info(f"{base}/{name}"))


def _mtime_ns(about: dict[str, object]) -> int:
    """When an object changed, in nanoseconds; 0 if its store does not say."""
    for key in ("mtime", "LastModified", "updated", "last_modified", "created"):
        value = about.get(key)
        if isinstance(value, int | float):
            return int(value * 1e9)
        if value is not None and hasattr(value, "timestamp"):
            return int(value.timestamp() * 1e9)
    return 0


def _names(location: Location) -> list[str]:
    filesystem, base = location.storage
    try:
        return [str(path) for path in filesystem.ls(base or "/", detail=False)]
    except FileNotFoundError:
        raise RetrievalError(f"{location.url} does not exist. Name a folder or a URL.") from None


def _real(url: str) -> str:
    return url if "://" in url else str(Path(url or "/").resolve())


def _stem(path: str) -> str:
    folder, _, name = path.rpartition("/")
    return f"{folder}/{name.partition('.')[0]}"


def _ending(name: str) -> str:
    return name.rpartition(".")[2].lower()
