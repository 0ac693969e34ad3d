"""The photos of a WebDataset tar, and their captions, found by its headers.

A sample is all files of one key: `KEY.jpg`, `KEY.txt`, `KEY.json`. Photos without captions count,
too. Photos are not read here; a tar is read from wherever fsspec reaches, and never unpacked.
"""

import json
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from indexes.errors import StorageError
from indexes.lake.location import Location
from retrieval.captions.rows import BadEntryError, entry, inner_path, usable_captions
from retrieval.captions.sidecars import clean
from retrieval.captions.text_lines import decode_text
from retrieval.cluster.tasks import Captions, Item
from retrieval.errors import DataSetError
from retrieval.photos.walk import PHOTO_SUFFIXES
from retrieval.transfer.tar_header import TarHeader

_TEXTS = ("txt", "caption", "text")
_MAX_TEXT = 1 << 20  # bytes
_MOST_PHOTOS = 16  # of one key


def list_tar(root: str, name: str, mtime_ns: int) -> list[Item]:
    """The photos of the tar `name` in a folder or URL; raises DataSetError or StorageError.

    mtime_ns: of the tar; its photos have it, too.
    """
    location = Location.of(root)
    items: list[Item] = []
    try:
        with (
            location.open(name) as source,
            tarfile.open(
                fileobj=source, mode="r:", tarinfo=TarHeader, errors="surrogateescape"
            ) as archive,
        ):
            for photos, captions in _samples(archive):
                items += [
                    Item(
                        f"{name}/{path}",
                        member.size,
                        mtime_ns,
                        tuple((name, text) for _, text in captions),
                        container=name,
                        offset=member.offset_data,
                    )
                    for path, member in photos
                ]
    except (tarfile.TarError, ValueError, OverflowError, EOFError) as error:
        raise DataSetError(
            f"{root}/{name} is not a complete, uncompressed tar ({error}). Copy it again, or pack "
            "it with `tar -cf FILE.tar FOLDER`."
        ) from error
    except OSError as error:
        raise StorageError(f"{root}/{name} cannot be read ({error}). Run it again.") from error
    return _unique(items)


def _samples(
    archive: tarfile.TarFile,
) -> Iterator[tuple[list[tuple[str, tarfile.TarInfo]], Captions]]:
    """The photos and captions of each key; the files of a key follow each other."""
    key: str | None = None
    photos: list[tuple[str, tarfile.TarInfo]] = []
    captions: list[tuple[str, str]] = []
    while (member := archive.next()) is not None:
        archive.members = []  # type: ignore[attr-defined] # it remembers all of them
        if not member.isreg() or member.sparse is not None:
            continue
        try:
            path = inner_path(member.name)
        except BadEntryError:
            continue
        folder, _, last = path.rpartition("/")
        stem, _, suffix = last.partition(".")
        ending = suffix.rpartition(".")[2].lower()
        if not stem or "__MACOSX" in folder.split("/"):
            continue
        if f"{folder}/{stem}" != key:
            if photos:
                yield photos, tuple(captions)
            key, photos, captions = f"{folder}/{stem}", [], []
        if ending in PHOTO_SUFFIXES and len(photos) < _MOST_PHOTOS:
            photos.append((path, member))
        elif ending in (*_TEXTS, "json") and member.size <= _MAX_TEXT:
            captions += [("", text) for text in _texts(archive, member, ending)]
    if photos:
        yield photos, tuple(captions)


def _texts(archive: tarfile.TarFile, member: tarfile.TarInfo, ending: str) -> list[str]:
    """The captions in a small file of a tar; none if it cannot be used."""
    file = archive.extractfile(member)
    data = b"" if file is None else file.read(_MAX_TEXT)
    try:
        text = decode_text(data)
        found: Any = text.splitlines()
        if ending == "json":
            value = json.loads(text)
            found = entry(value)[1] if isinstance(value, dict) else None
        good = usable_captions([line for line in found if line] or None)[0] if found else ()
    except (ValueError, RecursionError, TypeError):
        return []
    return list(dict.fromkeys(filter(None, map(clean, good))))


def _unique(items: list[Item]) -> list[Item]:
    """Items with different paths: what a tar has twice under one name is told apart."""
    seen: dict[str, int] = {}
    result = []
    for item in items:
        count = seen[item.path] = seen.get(item.path, -1) + 1
        result.append(replace(item, path=f"{item.path}#{count}") if count else item)
    return result
