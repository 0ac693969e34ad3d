"""Google Takeout's JSON files: which photo each belongs to, and what it says.

Their names are those of the photos, with a marker that is cut off where the name gets too long, and
with the number of a copy in another place. Nothing is opened here.
"""

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from retrieval.photos.dates import FoundDate, as_utc
from retrieval.photos.encodings import decode_text
from retrieval.photos.location import Coordinates, coordinates

TAKEOUT = "Google Takeout"
MAX_JSON = 1 << 20  # bytes
_MARKER = "supplemental-metadata"
_SHORTEST_CUT = 40  # characters of a name that was cut; Takeout allows 46 before `.json`
_LONGEST_CUT = 255  # as far as names of files get
_COPY = re.compile(r"^(?P<name>.*)\((?P<number>\d{1,6})\)$", re.DOTALL)
# What Google Photos adds to the name of a photo that was edited there, by language.
_EDITED = tuple(
    "-edited -effects -smile -mix -bearbeitet -modifié -editado -modificato -bewerkt -edytowane "
    "-editat -редактировано -編集済み -编辑过 -redigerad -redigeret -redigert -muokattu "
    "-upraveno".split()
)
_MOST_PEOPLE = 100

Key = tuple[str, int]
"""The name of a photo, folded, without the number of the copy; and that number, 0 for none."""


def fold(name: str) -> str:
    """A name as names are compared: in one normal form, whatever its case."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


@dataclass(frozen=True)
class TakeoutText:
    """What a JSON file says about its photo."""

    texts: tuple[str, ...] = ()
    date: FoundDate | None = None
    place: Coordinates | None = None


@dataclass(frozen=True)
class TakeoutNames:
    """The JSON files of a folder, by the photo that they belong to."""

    files: Mapping[Key, str] = field(default_factory=dict)

    @classmethod
    def of(cls, names: Iterable[str]) -> "TakeoutNames":
        """names: of the files that end in `.json`."""
        files: dict[Key, str] = {}
        for name in sorted(names, reverse=True):  # the shortest of several comes last, and counts
            start, number = _numbered(fold(name).removesuffix(".json"))
            files[_without_marker(start), number] = name
        return cls(files)

    def find(self, photo: str) -> str | None:
        """The file that belongs to a photo, by the name of the photo; None if there is none."""
        if not self.files:
            return None
        stem, dot, suffix = fold(photo).rpartition(".")
        for start in _without_edited(stem):
            for key in _keys(start, dot + suffix):
                if key in self.files:
                    return self.files[key]
        return None


def read_takeout(data: bytes) -> TakeoutText:
    """What a JSON file says; nothing if it is of another kind. Raises ValueError."""
    found = json.loads(decode_text(data))
    if not isinstance(found, dict):
        return TakeoutText()
    taken, people = found.get("photoTakenTime"), found.get("people")
    people = people[:_MOST_PEOPLE] if isinstance(people, list) else []
    names = [person.get("name") for person in people if isinstance(person, dict)]
    keywords = ", ".join(name for name in names if isinstance(name, str) and name)
    texts = [found.get("description"), found.get("caption"), keywords]
    place = None
    for name in ("geoData", "geoDataExif"):
        geo = found.get(name)
        if place is None and isinstance(geo, dict):
            place = coordinates(geo.get("latitude"), geo.get("longitude"))
    return TakeoutText(
        tuple(text for text in texts if isinstance(text, str) and text.strip()),
        FoundDate(TAKEOUT, _timestamp(taken)) if isinstance(taken, dict) else None,
        place,
    )


def _timestamp(taken: Mapping[str, Any]) -> str | None:
    """The Unix time of a photo as the text of a date."""
    try:
        return as_utc(float(taken.get("timestamp") or 0))
    except (TypeError, ValueError, OverflowError):
        return None


def _numbered(start: str) -> tuple[str, int]:
    """A name without the number of the copy at its end, and that number."""
    copy = _COPY.match(start)
    return (copy["name"], int(copy["number"])) if copy else (start, 0)


def _without_marker(start: str) -> str:
    """`img.jpg` of `img.jpg.supplemental-metadata`, of which any part may be cut off."""
    name, dot, end = start.rpartition(".")
    return name if dot and _MARKER.startswith(end) else start


def _without_edited(stem: str) -> Iterator[str]:
    """The name without its ending, then the name of the photo that it was edited from."""
    yield stem
    start, number = _numbered(stem)
    for word in map(fold, _EDITED):
        if start.endswith(word):
            yield start.removesuffix(word) + (f"({number})" if number else "")


def _keys(stem: str, suffix: str) -> Iterator[Key]:
    """The keys of the files that may belong to a photo, the likeliest first."""
    whole = stem + suffix
    start, number = _numbered(stem)
    yield whole, 0
    if number:
        yield start + suffix, number
    for name, copy in ((whole, 0), (start + suffix, number)):
        for length in range(min(len(name) - 1, _LONGEST_CUT), _SHORTEST_CUT - 1, -1):
            yield name[:length], copy
    yield stem, 0
    if number:
        yield start, number
