"""Read the text formats of captioned photo sets as rows and problems.

A row is a photo's name, its captions and its split, checked; a problem says what is wrong with one
entry, and where. No photo is looked for here: see `locate`.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrieval.errors import DataSetError, PhotoError
from retrieval.photos.files import open_regular

LONGEST_CAPTION = 10_000  # characters
_LONGEST_LINE = 1 << 24  # bytes
_LARGEST_JSON = 1 << 30  # bytes
_NAMES = {
    "image": ("image", "file_name", "filename", "image_name"),
    "captions": ("captions", "caption", "comment", "raw", "text"),
}
_TOKEN = re.compile(r"^(.+)#\d+\t(.*)$")
_SPLIT_FILES = {"train": "train", "dev": "val", "val": "val", "test": "test"}
_FORMATS = (
    "a captions.jsonl, Karpathy's dataset_*.json, COCO's captions_*.json, Flickr's *.token.txt, a "
    "CSV with the columns image and caption, or a WebDataset tar"
)


@dataclass(frozen=True)
class Problem:
    """What is wrong with one entry, without a full stop. where: the file and the line in it."""

    where: str
    what: str


@dataclass(frozen=True)
class Row:
    """A photo: its path as the data set has it, its captions (at least one), its split."""

    where: str
    image: str
    captions: tuple[str, ...]
    split: str | None


class _BadEntry(ValueError):
    """An entry is wrong; the message says how."""


def read_rows(file: Path) -> Iterator[Row | Problem]:
    """The rows of a caption file, no photo twice; raises DataSetError for an unknown format."""
    seen: dict[str, str] = {}
    for row in _READERS.get(file.suffix.lower(), _plain)(file):
        if isinstance(row, Row):
            if row.image in seen:
                yield Problem(row.where, f"the photo {quoted(row.image)} was {seen[row.image]}")
                continue
            seen[row.image] = f"named before, in {row.where.rpartition(', ')[2]}"
        yield row


def quoted(value: object) -> str:
    """A value from a file, quoted and cut for use in a sentence."""
    text = str(value)
    return repr(text if len(text) <= 100 else f"{text[:100]}…")


def unknown_format(file: Path, why: str) -> DataSetError:
    """The error for a file of no known format."""
    return DataSetError(f"{file} is no captioned photo set ({why}). Name {_FORMATS}.")


# Checks ----------------------------------------------------------------------------------------


def _row(where: str, image: object, captions: object, split: object) -> Row | Problem:
    try:
        if split is not None and (not isinstance(split, str) or not split.strip()):
            raise _BadEntry(f"the split {quoted(split)} is no name")
        return Row(where, inner_path(image), checked_captions(captions), split)
    except _BadEntry as bad:
        return Problem(where, str(bad))


def inner_path(image: object) -> str:
    """A photo's path inside its folder; raises ValueError, saying why, if it is not one."""
    if not isinstance(image, str) or not image.strip():
        raise _BadEntry("the entry names no image")
    parts = image.split("/")
    if image.startswith(("/", "\\")) or re.match(r"^[A-Za-z]:", image):
        raise _BadEntry(f"the path {quoted(image)} is not inside the folder of photos")
    if ".." in parts or ".." in image.split("\\") or "\0" in image:
        raise _BadEntry(f"the path {quoted(image)} leaves the folder of photos")
    _check_text(image, "the image's name")
    return "/".join(part for part in parts if part not in ("", "."))


def checked_captions(captions: object) -> tuple[str, ...]:
    """One caption or a list of them; raises ValueError, saying why, if they are not captions."""
    listed: list[Any] = captions if isinstance(captions, list) else [captions]
    if captions is None or not listed:
        raise _BadEntry("the photo has no caption")
    for caption in listed:
        if not isinstance(caption, str):
            raise _BadEntry(f"the caption {quoted(caption)} is not a string")
        if not caption.strip():
            raise _BadEntry("a caption is empty")
        if len(caption) > LONGEST_CAPTION:
            raise _BadEntry(f"a caption is longer than {LONGEST_CAPTION:,} characters")
        _check_text(caption, "a caption")
    return tuple(listed)


def _check_text(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _BadEntry(f"{what} is not Unicode text") from None


# Formats ---------------------------------------------------------------------------------------


def _lines(file: Path, follow: bool = True) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 file with their numbers, without line ends; blank lines are left out.

    follow: whether the file may be a link; raises PhotoError if it is one that may not.
    """
    with file.open("rb") if follow else open_regular(file) as source:
        number = 0
        while line := source.readline(_LONGEST_LINE + 1):
            number += 1
            if len(line) > _LONGEST_LINE:
                raise unknown_format(file, f"line {number} is longer than {_LONGEST_LINE:,} bytes")
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError:
                raise unknown_format(file, f"line {number} is not UTF-8 text") from None
            if text.strip():
                yield number, text


def _json_lines(file: Path) -> Iterator[Row | Problem]:
    for number, line in _lines(file):
        where = f"{file}, line {number}"
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            yield Problem(where, "the line is not JSON")
            continue
        yield _object(where, value)


def _object(where: str, value: Any) -> Row | Problem:
    """An object with an image and its captions, under any of their common names."""
    if not isinstance(value, dict):
        return Problem(where, f"{quoted(value)} is not an object with 'image' and 'captions'")
    found = {
        key: next((value[name] for name in names if name in value), None)
        for key, names in _NAMES.items()
    }
    return _row(where, found["image"], found["captions"], value.get("split"))


def _json(file: Path) -> Iterator[Row | Problem]:
    """Karpathy's or COCO's JSON, or a list of objects as in captions.jsonl."""
    if file.stat().st_size > _LARGEST_JSON:
        raise unknown_format(file, f"JSON of more than {_LARGEST_JSON:,} bytes")
    try:
        value = json.loads(file.read_bytes())
    except json.JSONDecodeError as error:
        raise unknown_format(file, f"line {error.lineno} is not JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise unknown_format(file, f"not JSON: {type(error).__name__}") from None
    if isinstance(value, list):
        return (_object(f"{file}, entry {i}", entry) for i, entry in enumerate(value))
    images = value.get("images") if isinstance(value, dict) else None
    if not isinstance(images, list):
        raise unknown_format(file, "JSON without a list 'images'")
    if isinstance(value.get("annotations"), list):
        return _coco(file, images, value["annotations"])
    return (_karpathy(f"{file}, images[{i}]", entry) for i, entry in enumerate(images))


def _karpathy(where: str, entry: Any) -> Row | Problem:
    """{"filename", "filepath" (COCO only), "split", "sentences": [{"raw"}]}"""
    if not isinstance(entry, dict):
        return Problem(where, f"{quoted(entry)} is not an object with 'filename' and 'sentences'")
    found = entry.get("sentences")
    sentences = found if isinstance(found, list) else []
    raw = [s.get("raw") if isinstance(s, dict) else s for s in sentences]
    image, folder = entry.get("filename"), entry.get("filepath")
    if isinstance(image, str) and isinstance(folder, str) and folder:
        image = f"{folder}/{image}"
    return _row(where, image, raw, entry.get("split"))


def _coco(file: Path, images: list[Any], annotations: list[Any]) -> Iterator[Row | Problem]:
    """{"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}"""
    split = re.search(r"train|val|test", file.stem)
    captions: dict[object, list[Any]] = {}
    for i, image in enumerate(images):
        number = image.get("id") if isinstance(image, dict) else None
        if not isinstance(number, int | str):
            yield Problem(f"{file}, images[{i}]", "the image has no id")
        elif number in captions:
            yield Problem(f"{file}, images[{i}]", f"the id {quoted(number)} was given before")
        else:
            captions[number] = []
    for i, note in enumerate(annotations):
        image_id = note.get("image_id") if isinstance(note, dict) else None
        if not isinstance(image_id, int | str) or image_id not in captions:
            yield Problem(
                f"{file}, annotations[{i}]",
                f"there is no image with the id {quoted(image_id)}",
            )
        else:
            captions[image_id].append(note.get("caption"))
    for i, image in enumerate(images):
        number = image.get("id") if isinstance(image, dict) else None
        if isinstance(number, int | str) and number in captions:
            yield _row(
                f"{file}, images[{i}]",
                image.get("file_name"),
                captions.pop(number),
                split[0] if split else None,
            )


def _plain(file: Path) -> Iterator[Row | Problem]:
    """Flickr's `NAME#0<tab>CAPTION`, or a CSV with a header: both have one caption a line."""
    first = next(_lines(file), (0, ""))[1]
    entries = _tokens(file) if _TOKEN.match(first) else _table(file, first)
    splits, unreadable = _split_files(file)
    yield from unreadable
    photos: dict[str, tuple[str, list[str], str | None]] = {}
    for where, image, caption, split in entries:
        row = _row(where, image, caption, split or None)
        if isinstance(row, Problem):
            yield row
        else:
            split = splits.get(row.image) if splits else row.split
            photos.setdefault(row.image, (where, [], split))[1].extend(row.captions)
    for image, (where, captions, split) in photos.items():
        yield Row(where, image, tuple(captions), split)


Entry = tuple[str, str | None, Any, str | None]


def _tokens(file: Path) -> Iterator[Entry]:
    for number, line in _lines(file):
        found = _TOKEN.match(line)
        where = f"{file}, line {number}"
        yield (where, found[1], found[2].strip(), None) if found else (where, None, None, None)


def _table(file: Path, header: str) -> Iterator[Entry]:
    """A CSV separated by commas, tabs or bars, recognised by the names of its columns."""
    for separator in ",\t|":
        try:
            cells = next(csv.reader([header], delimiter=separator), [])
        except csv.Error as error:
            raise unknown_format(file, f"its first line is no CSV: {error}") from None
        names = [name.strip().lower() for name in cells]
        places = {
            key: next((names.index(n) for n in known if n in names), None)
            for key, known in _NAMES.items()
        }
        image, caption = places["image"], places["captions"]
        if image is not None and caption is not None:
            split = names.index("split") if "split" in names else None
            return _cells(file, separator, len(names), image, caption, split)
    raise unknown_format(file, "its first line names no columns image and caption")


def _cells(
    file: Path, separator: str, width: int, image: int, caption: int, split: int | None
) -> Iterator[Entry]:
    last = 1

    def numbered() -> Iterable[str]:
        nonlocal last
        for number, line in _lines(file):
            last = number
            yield f"{line}\n"

    try:
        for cells in csv.reader(numbered(), delimiter=separator):
            where = f"{file}, line {last}"
            if last == 1:
                continue
            if len(cells) < width:
                yield where, cells[image] if image < len(cells) else None, None, None
                continue
            text: Any = cells[caption].strip()
            if text.startswith("["):  # all captions of a photo in one cell, as a JSON list
                try:
                    text = json.loads(text)
                except (ValueError, RecursionError):
                    pass  # it is a caption that begins with a bracket
            yield where, cells[image].strip(), text, cells[split].strip() if split else None
    except csv.Error as error:
        raise unknown_format(file, f"line {last} is no CSV: {error}") from None


def _split_files(file: Path) -> tuple[dict[str, str], list[Problem]]:
    """The split of each photo, from Flickr8k's `Flickr_8k.trainImages.txt` and the like.

    Nobody named these files, so links are not followed.
    """
    splits: dict[str, str] = {}
    problems = []
    for list_file in sorted(file.parent.glob("*Images.txt")):
        name = re.search(r"(train|dev|val|test)Images\.txt$", list_file.name)
        if name is None:
            continue
        try:
            names = [line.strip() for _, line in _lines(list_file, follow=False)]
            splits.update(dict.fromkeys(names, _SPLIT_FILES[name[1]]))
        except (PhotoError, OSError) as error:
            problems.append(Problem(f"{list_file}", f"the list of a split is not read: {error}"))
    return splits, problems


_READERS = {".jsonl": _json_lines, ".ndjson": _json_lines, ".json": _json}
