"""What a caption file says, as values: rows, problems and notes, and the checks that make them.

A row is a photo's name with captions; a problem is an entry that cannot be used; a note is what was
read in another way than it was written. No file is read here: see `formats`.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from retrieval.errors import DataSetError

LONGEST_CAPTION = 10_000  # characters
_FORMATS = (
    "a captions.jsonl, Karpathy's dataset_*.json, COCO's captions_*.json, Flickr's *.token.txt, a "
    "CSV with the columns image and caption, or a WebDataset tar"
)
_MOST_COLUMNS = 500  # that are looked at
_MOST_KINDS, _PLACES = 100, 3  # sentences on one file, whatever is in it, and places in one
# Names of columns and keys as data sets have them, in the order in which they count.
_IMAGE_NAMES = (
    "image image_path image_file image_filename image_name file_name filename filepath file_path "
    "file img img_path img_file img_name imagepath imagefile imagename photo photo_path photo_name "
    "picture path image_id img_id photo_id images image_paths file_names filenames key name"
).split()
_CAPTION_NAMES = (
    "captions caption sentences sentence comments comment raw text texts description descriptions "
    "title titles alt_text alt prompt annotation annotations"
).split()
_WORDS = (
    "caption captions description sentence comment text".split()
)  # in image_caption, caption_en
_OTHER_FACTS = frozenset(
    "id ids number num no index idx count length len score lang split label labels class classes "
    "category categories target url link license width height size date time hash md5".split()
)
_PATH_KEYS = ("path", "file_name", "filename")  # of an image that is an object itself


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one entry, without a full stop. where: the file and the line in it."""

    where: str
    what: str


@dataclass(frozen=True, slots=True)
class Note:
    """What was read in another way than it was written, without a full stop. Nothing is lost that
    could be used. The same `what` is said once for a file, with the number of places."""

    where: str
    what: str


@dataclass(frozen=True, slots=True)
class Row:
    """A photo: its name as the file has it, captions (at least one), its split.

    A photo may have several rows.
    """

    where: str
    image: str
    captions: tuple[str, ...]
    split: str | None


class Findings:
    """Problems or notes, counted: those with the same words are said together."""

    def __init__(self) -> None:
        self.count = 0
        self._kinds: dict[str, tuple[list[str], int]] = {}  # the first places, and how many

    def add(self, found: Problem | Note) -> None:
        """Count one."""
        self.count += 1
        places, count = self._kinds.get(found.what, ([], 0))
        if count or len(self._kinds) < _MOST_KINDS:
            if count < _PLACES:
                places.append(found.where)
            self._kinds[found.what] = places, count + 1

    @property
    def first(self) -> str:
        """The first one, with its place."""
        return next((f"{places[0]}: {what}" for what, (places, _) in self._kinds.items()), "")

    def items(self) -> list[tuple[str, str, int]]:
        """(what, the first places, how many) of each kind."""
        return [(w, _listed(places, count), count) for w, (places, count) in self._kinds.items()]

    def sentences(self) -> list[str]:
        """A sentence for each kind, with the first places and the number."""
        return [f"{places}: {what}." for what, places, _ in self.items()]


def _listed(places: list[str], count: int) -> str:
    """The first places of several; their file is named once."""
    file = f"{places[0].rpartition(', ')[0]}, "
    more = f" and {count - len(places):,} more" if count > len(places) else ""
    return ", ".join([places[0], *(place.removeprefix(file) for place in places[1:])]) + more


class BadEntryError(ValueError):
    """An entry is wrong; the message says how."""


def quoted(value: object) -> str:
    """A value from a file, quoted and cut for use in a sentence."""
    text = str(value)
    return repr(text if len(text) <= 100 else f"{text[:100]}…")


def unknown_format(file: Path, why: str) -> DataSetError:
    """The error for a file of no known format."""
    return DataSetError(f"{file} is no captioned photo set ({why}). Name {_FORMATS}.")


# Checks ----------------------------------------------------------------------------------------


def checked_row(
    where: str, image: object, captions: object, split: object
) -> Iterator[Row | Problem | Note]:
    """One entry: a row or a problem, and a note for each caption that had to be dropped."""
    try:
        name = listed_name(image)
        if split is not None and (not isinstance(split, str) or not split.strip()):
            raise BadEntryError(f"the split {quoted(split)} is no name")
        good, bad = usable_captions(captions)
    except BadEntryError as error:
        yield Problem(where, str(error))
        return
    if not good:
        yield Problem(where, f"the photo {quoted(name)} has no caption ({bad[0]})")
        return
    yield from (Note(where, what) for what in bad)
    yield Row(where, name, good, split.strip() if isinstance(split, str) else None)


def listed_name(image: object) -> str:
    """A photo's name as a list has it; raises BadEntryError if it is none.

    It may be any path: nothing is opened by it. `names` looks for it among the photos.
    """
    if isinstance(image, dict):
        image = next((image[key] for key in _PATH_KEYS if image.get(key)), None)
    if isinstance(image, int) and not isinstance(image, bool):
        return str(image)
    if not isinstance(image, str) or not image.strip():
        raise BadEntryError("the entry names no image")
    if "\0" in image:
        raise BadEntryError(f"the image's name {quoted(image)} is no name of a file")
    _check_text(image, "the image's name")
    return image.strip("\ufeff \t\r\n\xa0")  # marks of files that were joined, too


def inner_path(path: str) -> str:
    """A path inside a folder or tar; raises BadEntryError, saying why, if it is not one."""
    parts = path.split("/")
    if path.startswith(("/", "\\")) or re.match(r"^[A-Za-z]:", path):
        raise BadEntryError(f"the path {quoted(path)} is not inside the folder of photos")
    if ".." in parts or ".." in path.split("\\") or "\0" in path:
        raise BadEntryError(f"the path {quoted(path)} leaves the folder of photos")
    _check_text(path, "the image's name")
    return "/".join(part for part in parts if part not in ("", "."))


def usable_captions(captions: object) -> tuple[tuple[str, ...], list[str]]:
    """Of one caption or a list of them: those that can be used, and what is wrong with the others.

    Raises BadEntryError if there is none at all.
    """
    if captions is None or captions == []:
        raise BadEntryError("the photo has no caption")
    good, bad = [], []
    for caption in captions if isinstance(captions, list) else [captions]:
        try:
            good.append(_checked_caption(caption))
        except BadEntryError as error:
            bad.append(str(error))
    return tuple(good), bad


def _checked_caption(caption: object) -> str:
    if not isinstance(caption, str) or (caption and not caption.strip("\ufffd")):
        raise BadEntryError("a caption is not a text")
    if not caption.strip():
        raise BadEntryError("a caption is empty")
    if len(caption) > LONGEST_CAPTION:
        raise BadEntryError(f"a caption is longer than {LONGEST_CAPTION:,} characters")
    _check_text(caption, "a caption")
    return caption.strip()


def _check_text(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadEntryError(f"{what} is not Unicode text") from None


# Names of columns and keys -----------------------------------------------------------------------


@lru_cache(64)
def columns(names: tuple[str, ...]) -> tuple[str | None, tuple[str, ...]]:
    """Of these names, the one that photos' names go by, and those that captions go by.

    Captions have one kind of name, such as caption_1 and caption_2; any name will do for the only
    column besides the image's. None and () if there is none.
    """
    plain: dict[str, str] = {}
    for name in names[:_MOST_COLUMNS]:
        words = re.sub(r"[\W_]+", "_", unicodedata.normalize("NFKC", str(name)).lower())
        plain.setdefault(words.strip("_"), name)
    image = next((plain[known] for known in _IMAGE_NAMES if known in plain), None)
    others = {p: name for p, name in plain.items() if name != image}
    for known in _CAPTION_NAMES:
        if found := tuple(n for p, n in others.items() if re.fullmatch(rf"{known}_?\d*", p)):
            return image, found
    parts = {name: set(p.split("_")) for p, name in others.items()}
    told = {name: words for name, words in parts.items() if not words & _OTHER_FACTS}
    for word in _WORDS:
        if found := tuple(name for name, words in told.items() if word in words):
            return image, found
    alone = tuple(told) if len(told) == 1 and "" not in others else ()
    return image, alone if image is not None else ()


def entry(value: dict[str, Any]) -> tuple[object, object]:
    """The image and the captions of an object, under any of their common names; None for none."""
    image, named = columns(tuple(value))
    found = [value[column] for column in named if value[column] is not None]
    listed: list[object] = []
    for captions in found:
        listed += captions if isinstance(captions, list) else [captions]
    return (None if image is None else value[image]), (texts(listed) if found else None)


def texts(captions: list[Any]) -> list[Any]:
    """Captions, of which some may be objects with a text."""
    return [c.get("raw", c.get("caption", c)) if isinstance(c, dict) else c for c in captions]
