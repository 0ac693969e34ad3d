"""Find the photos that a list names, as people write names: in either Unicode form, with any slash,
with folders of another machine, in other case, or without the ending.

A photo is found only among those that are given, so no name leads out of their folder. Nothing is
opened. A name that fits several photos alike is told, never guessed.
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from retrieval.photos.files import composed
from retrieval.photos.walk import PHOTO_SUFFIXES, RAW_SUFFIXES

# Where data sets have their photos, the most likely first.
PHOTO_FOLDERS = (
    "images",
    "Images",
    "Flicker8k_Dataset",  # spelt so in the archive
    "Flickr8k_Dataset",
    "flickr30k-images",
    "flickr30k_images",
    *(f"{kind}{year}" for year in (2014, 2017) for kind in ("val", "train")),
    "photos",
    "Photos",
    "JPEGImages",
)
_DRIVE = re.compile(r"^[A-Za-z]:(?=[\\/])")
_SUFFIXES = PHOTO_SUFFIXES | RAW_SUFFIXES


def parts_of(name: str) -> list[str]:
    """The folders and the file of a name, in composed form, without a drive and without dots."""
    parts: list[str] = []
    for part in _DRIVE.sub("", composed(name)).replace("\\", "/").split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return parts


@dataclass(frozen=True)
class Match:
    """The photo that a name means, as it is stored; None if there is none, or several.

    exact: whether the name is its path, but for Unicode forms and slashes; elsewhere: whether name
    and path have different folders, so that only the file's name is the same; count: how many
    photos have the name.
    """

    path: str | None
    exact: bool = False
    elsewhere: bool = False
    count: int = 1


class PhotoNames:
    """Photos by name. paths: of all photos, relative to one folder, with `/`."""

    def __init__(self, paths: Collection[str]) -> None:
        self._paths = paths
        self._by_stem: dict[str, str | list[str]] | None = None

    def find(self, name: str, folder: str | None = "") -> Match:
        """The photo that a name in a list means.

        folder: that of the list, '' for that of the paths; None for a list from elsewhere, beside
        which no photos are expected.
        """
        start = f"{folder}/" if folder else ""
        if f"{start}{name}" in self._paths:
            return Match(f"{start}{name}", exact=True)
        parts = parts_of(name)
        path = f"{start}{'/'.join(parts)}"
        if path in self._paths:
            return Match(path, exact=True)
        fits = self._fits(parts, start, folder is not None) if parts else []
        best = [fit for fit in fits if fit.order == fits[0].order]
        if not best:
            return Match(None, count=0)
        if len(best) > 1:
            return Match(None, count=len(best))
        return Match(best[0].path, best[0].is_same, best[0].is_elsewhere)

    def _fits(self, parts: list[str], start: str, beside: bool) -> list["_Fit"]:
        """The photos that a name may mean, those that fit best first."""
        if self._by_stem is None:  # only now: most lists name all photos exactly
            self._by_stem = _by_stem(self._paths)
        found = self._by_stem.get(_stem(parts[-1]), [])
        fits = [
            fit
            for path in ([found] if isinstance(found, str) else found)
            if path.startswith(start)
            and (fit := _Fit.of(path, parts_of(path[len(start) :]), parts, beside)) is not None
        ]
        return sorted(fits, key=lambda fit: fit.order)


@dataclass(frozen=True)
class _Fit:
    """How well a photo fits a name. order: the lowest fits best, the same order fits alike."""

    path: str
    is_same: bool
    is_elsewhere: bool
    order: tuple[int, ...]

    @classmethod
    def of(cls, path: str, own: list[str], parts: list[str], beside: bool) -> "_Fit | None":
        """own: the parts of the photo's path; parts: of the name."""
        name, wanted = own[-1], parts[-1]
        if name.casefold() != wanted.casefold() and _ending(wanted):
            return None
        shared = 0  # folders at the end that both have, in any case
        while shared < min(len(own), len(parts)) - 1 and (
            own[-2 - shared].casefold() == parts[-2 - shared].casefold()
        ):
            shared += 1
        above = own[: len(own) - 1 - shared]  # folders of the photo that the name does not have
        place = 0 if not above else len(PHOTO_FOLDERS) + 1
        if beside and len(above) == 1 and above[0] in PHOTO_FOLDERS:
            place = PHOTO_FOLDERS.index(above[0]) + 1
        other_case = not name.startswith(wanted)
        is_elsewhere = bool(above) and len(parts) - 1 > shared
        return cls(path, own == parts, is_elsewhere, (-shared, place, other_case))


def _by_stem(paths: Iterable[str]) -> dict[str, str | list[str]]:
    by_stem: dict[str, str | list[str]] = {}
    for path in paths:
        key = _stem(path.rpartition("/")[2])
        other = by_stem.setdefault(key, path)
        if isinstance(other, list):
            other.append(path)
        elif other is not path:
            by_stem[key] = [other, path]
    return by_stem


def _stem(name: str) -> str:
    """A file's name without a photo's ending, in a form that all its spellings share."""
    ending = _ending(name)
    stem = name[: -len(ending) - 1] if ending else name
    return stem.casefold() if stem.isascii() else composed(composed(stem).casefold())


def _ending(name: str) -> str:
    """The ending of a photo's name; '' if it has none."""
    stem, _, ending = name.rpartition(".")
    return ending if stem and ending.lower() in _SUFFIXES else ""


Found = TypeVar("Found")


class Gathered(Generic[Found]):
    """What a list says about photos, which it may name in several ways.

    Where two names are found to be one photo, the exact one counts; without one, none does: one of
    them means a photo that is not here.
    """

    def __init__(self) -> None:
        self._exact: dict[str, list[Found]] = {}
        self._other: dict[str, dict[tuple[str, ...], list[Found]]] = {}

    def of(self, match: Match, name: str) -> list[Found]:
        """What is known of a photo under a name, to append to. match: of the name."""
        assert match.path is not None
        if match.exact:
            return self._exact.setdefault(match.path, [])
        key = tuple(part.casefold() for part in parts_of(name))
        return self._other.setdefault(match.path, {}).setdefault(key, [])

    def decide(self) -> tuple[dict[str, list[Found]], list[tuple[str, list[Found]]]]:
        """What is known by photo, and what belongs to none for certain, each with a photo."""
        found, unclear = self._exact, []
        for path, by_name in self._other.items():
            if path in found or len(by_name) > 1:
                unclear += [(path, listed) for listed in by_name.values()]
            else:
                found[path] = next(iter(by_name.values()))
        return found, unclear
