"""The files beside a photo that belong to it alone: texts, XMP, and those of Google and Apple.

A photo `photo.jpg` may have `photo.txt`, `photo.caption` and `photo.xmp`, `photo.jpg.txt` and so
on, `photo.CR2.xmp` of the raw file that it was made from, and a JSON file of Google Takeout. Names
are compared whatever their case, and the exact name wins. No file is trusted: sizes are bounded,
and links are not followed out of the folder. Lists of captions are read by `sidecars`.
"""

import codecs
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from retrieval.captions import apple
from retrieval.captions.metadata import texts_of
from retrieval.captions.takeout import MAX_JSON, TAKEOUT, TakeoutNames, fold, read_takeout
from retrieval.errors import PhotoError
from retrieval.photos.dates import FoundDate
from retrieval.photos.encodings import decode_text
from retrieval.photos.files import open_inside
from retrieval.photos.location import Coordinates
from retrieval.photos.walk import is_raw
from retrieval.photos.xmp import read_xmp

XMP_SIDECAR = "XMP sidecar"
OUTSIDE_PHOTOS = (XMP_SIDECAR, TAKEOUT, apple.APPLE)
"""The sources of facts from files beside photos."""
_TEXTS = ("txt", "caption")
_XMP = "xmp"
_ENDINGS = (*_TEXTS, _XMP, "json", "csv")
_LIST = "captions.txt"  # a list of captions, not that of a photo `captions.jpg`
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_MAX_TEXT = 1 << 16  # bytes


@dataclass(frozen=True)
class Sidecar:
    """What a file beside a photo says.

    photo, origin: paths in the root, of the photo and the file; texts: not yet cleaned; dates: when
    the photo was taken; place: where, found in `place_source`.
    """

    photo: str
    origin: str
    texts: tuple[str, ...] = ()
    dates: tuple[FoundDate, ...] = ()
    place: Coordinates | None = None
    place_source: str | None = None


def read_sidecars(
    root: Path, folder: str, photos: Sequence[str], unreadable: list[str]
) -> Iterator[Sidecar]:
    """What is beside the photos of one folder, in their order; never raises for a bad file.

    photos: paths in the root; unreadable: gets the files that are bad, with reasons.
    """
    try:
        with os.scandir(root / folder if folder else root) as entries:
            names = [e.name for e in entries if _ending(e.name) in _ENDINGS and e.is_file()]
    except OSError:
        return
    if not names:
        return
    files = _Files(names, photos)
    dates = _apple_dates(root, folder, files.lists, unreadable)
    for photo in photos:
        for name in files.of(photo):
            origin = f"{folder}/{name}" if folder else name
            try:
                yield _read(root, photo, origin)
            except Exception as error:  # whatever is wrong with a file, the others are read
                unreadable.append(f"{origin!r} ({error})")
        if found := dates.get(fold(photo.rpartition("/")[2])):
            yield Sidecar(photo, found[0], dates=(found[1],))


class _Files:
    """The sidecars of one folder by the photos that they belong to. names: all in the folder."""

    def __init__(self, names: Iterable[str], photos: Iterable[str]) -> None:
        self.lists = [name for name in names if apple.is_list(name)]
        self._takeout = TakeoutNames.of(name for name in names if _ending(name) == "json")
        self._starts: set[str] = set()  # the names of photos, and these without their endings
        for photo in photos:
            name = photo.rpartition("/")[2]
            self._starts |= {name, name.rpartition(".")[0]}
        self._by_name: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
        self._of_raw: defaultdict[str, list[str]] = defaultdict(list)
        for name in sorted(names):
            start, ending = name.rpartition(".")[0], _ending(name)
            if ending in (*_TEXTS, _XMP) and fold(name) != _LIST:
                self._by_name[fold(start), ending].append(name)
            if ending == _XMP and is_raw(start):
                self._of_raw[fold(start.rpartition(".")[0])].append(name)

    def of(self, photo: str) -> list[str]:
        """The names of the files that belong to a photo, each once."""
        name = photo.rpartition("/")[2]
        stem = name.rpartition(".")[0]
        found: dict[str, None] = {}
        for ending in (*_TEXTS, _XMP):
            for start in (name, stem):
                same = self._by_name.get((fold(start), ending), ())
                exact = [file for file in same if file.rpartition(".")[0] == start]
                others = [file for file in same if file.rpartition(".")[0] not in self._starts]
                found |= dict.fromkeys(exact or others)
        found |= dict.fromkeys(self._of_raw.get(fold(stem), ()))
        takeout = self._takeout.find(name)
        return [*found, *([takeout] if takeout else [])]


def _read(root: Path, photo: str, path: str) -> Sidecar:
    """One sidecar; raises OSError, PhotoError or ValueError."""
    ending = _ending(path)
    with open_inside(root, path) as file:
        if ending == _XMP:
            xmp = read_xmp(file)
            dates = tuple(FoundDate(XMP_SIDECAR, date.text) for date in xmp.dates)
            return Sidecar(photo, path, tuple(texts_of(xmp)), dates, xmp.coordinates, XMP_SIDECAR)
        if ending == "json":
            said = read_takeout(_read_whole(file, MAX_JSON))
            dates = () if said.date is None else (said.date,)
            return Sidecar(photo, path, said.texts, dates, said.place, TAKEOUT)
        data = _read_whole(file, _MAX_TEXT)
        if data.startswith(_UTF16) and len(data) % 2:
            raise PhotoError("UTF-16 that ends within a character")
        return Sidecar(photo, path, tuple(decode_text(data).splitlines()))


def _apple_dates(
    root: Path, folder: str, lists: Iterable[str], unreadable: list[str]
) -> dict[str, tuple[str, FoundDate]]:
    """By the folded name of a photo: the list that names it, and its date there."""
    dates: dict[str, tuple[str, FoundDate]] = {}
    for name in lists:
        origin = f"{folder}/{name}" if folder else name
        try:
            with open_inside(root, origin) as file:
                for photo, date in apple.read_list(_read_whole(file, apple.MAX_LIST)):
                    dates.setdefault(fold(photo), (origin, date))
        except Exception as error:  # whatever is wrong with a file, the others are read
            unreadable.append(f"{origin!r} ({error})")
    return dates


def _read_whole(file: BinaryIO, limit: int) -> bytes:
    data = file.read(limit + 1)
    if len(data) > limit:
        raise PhotoError(f"longer than {limit:,} bytes")
    return data


def _ending(name: str) -> str:
    return name.rpartition(".")[2].lower()
