"""Selected photos as a zip of their files, or as a CSV list: prepared, then downloaded by address.

The zip is written while it is sent, without compression: photos are compressed already.
"""

import secrets
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import BinaryIO, cast

from indexes.errors import RetrievalError
from indexes.index import Index
from retrieval.errors import PhotoError, QueryError
from retrieval.output.text import render
from retrieval.search.hits import Hit, paths_of
from retrieval.server import models
from retrieval.server.options import LIMITS

_KEPT = 32
_PIECE = 1 << 18


class ExpiredError(RetrievalError):
    """A download is asked for that is not kept."""

    def __init__(self) -> None:
        super().__init__("This download is no longer kept. Select the photos again.")


class Exports:
    """The selections that were prepared last, in the order that they were selected in."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, list[str]] = OrderedDict()

    def prepare(self, index: Index, selected: models.Selection) -> models.Export:
        """Keep a selection for its downloads."""
        known = index.catalogue.photos.ids(selected.ids)
        ids = [i for i in dict.fromkeys(selected.ids) if i in known]
        if not ids:
            raise QueryError("None of these photos is in the index any more.")
        token = secrets.token_urlsafe(16)
        self._kept[token] = ids
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        where = f"/api/v1/exports/{token}"
        return models.Export(
            zip=f"{where}/photos.zip",
            csv=f"{where}/photos.csv",
            sidecars=f"{where}/sidecars.zip",
            photos=len(ids),
            left_out=len(set(selected.ids)) - len(ids),
        )

    def of(self, token: str) -> list[str]:
        """The content hashes of a selection; raises ExpiredError."""
        if token not in self._kept:
            raise ExpiredError
        return self._kept[token]


def as_csv(index: Index, hashes: list[str]) -> bytes:
    """A selection as `search --format csv` prints hits, without scores."""
    numbers = index.catalogue.photos.ids(hashes)
    photos = index.catalogue.photos.get(numbers.values())
    roots = {root.id: root.path for root in index.roots()}
    hits: list[Hit] = []
    for digest in hashes:
        photo, places = photos.get(numbers.get(digest, 0), (None, []))
        if photo is not None and (paths := paths_of(roots, places)):
            hits.append(Hit(len(hits) + 1, 0.0, paths[0], tuple(paths[1:]), photo))
    return render(hits, "csv").decode("utf-8", "replace").encode()


class _Sink:
    """Takes what zipfile writes until it is sent. It cannot be sought in, as a socket."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """There is nothing to flush."""

    def take(self) -> bytes:
        data, self._parts = b"".join(self._parts), []
        return data


def as_zip(hashes: list[str], opened: Callable[[str], tuple[BinaryIO, str]]) -> Iterator[bytes]:
    """The files of photos as a zip, piece by piece.

    opened: gives the open file of a photo and its name; it raises PhotoError for one that cannot be
    opened, which a list in the zip tells. Names that occur twice get a number.
    """
    sink, used, missing, total = _Sink(), set[str](), list[str](), 0
    with zipfile.ZipFile(cast(BinaryIO, sink), "w", zipfile.ZIP_STORED) as archive:
        for digest in hashes:
            try:
                file, name = opened(digest)
            except PhotoError as error:
                missing.append(f"{digest}: {error}")
                continue
            with file, archive.open(_unused(_clean(name), used), "w", force_zip64=True) as entry:
                while total < LIMITS.zip_bytes and (piece := file.read(_PIECE)):
                    entry.write(piece)
                    total += len(piece)
                    yield sink.take()
            if total >= LIMITS.zip_bytes:
                missing.append("The zip is full: select fewer photos.")
                break
        if missing:
            archive.writestr("left-out.txt", "\n".join(missing) + "\n")
    yield sink.take()


def _clean(name: str) -> str:
    """A name that no system takes for a path or a device."""
    text = name.encode("utf-8", "replace").decode()
    text = "".join(c if c.isprintable() and c not in '/\\:*?"<>|' else "_" for c in text)
    return text.lstrip(".") or "photo"


def _unused(name: str, used: set[str]) -> str:
    stem, dot, ending = name.rpartition(".")
    number, chosen = 1, name
    while chosen.lower() in used:
        number += 1
        chosen = f"{stem or ending} ({number}){dot if stem else ''}{ending if stem else ''}"
    used.add(chosen.lower())
    return chosen
