"""Lists of captions in JSON: lines of objects, a list, a dictionary, Karpathy's and COCO's files.

The names of keys are those of columns in tables. A file of lines is read line by line; another is
read whole, so its size is limited. Captions that cannot be used are dropped, each by itself.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from retrieval.captions.rows import (
    Note,
    Problem,
    Row,
    checked_row,
    columns,
    entry,
    quoted,
    texts,
    unknown_format,
)
from retrieval.captions.text_lines import LONGEST_LINE, TextLines, decode_text
from retrieval.errors import DataSetError

_LARGEST = 1 << 28  # bytes; read, it takes several times as much memory

Found = Iterator[Row | Problem | Note]


def read_json_lines(lines: TextLines) -> Found:
    """A JSON value in each line: an object with an image and captions, or a pair of them."""
    for number, line in lines:
        where = f"{lines.file}, line {number}"
        if line is None:
            yield Problem(where, f"the line is longer than {LONGEST_LINE:,} characters")
        elif line.strip():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                yield Problem(where, "the line is not JSON")
                continue
            yield from _object(where, value)


def read_json(lines: TextLines) -> Found:
    """The rows of a JSON file; raises DataSetError if there are none to be expected in it."""
    file = lines.file
    if file.stat().st_size > _LARGEST:
        raise unknown_format(file, f"JSON of more than {_LARGEST:,} bytes; write a line a photo")
    try:
        value = json.loads(decode_text(file.read_bytes()))
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            return read_json_lines(lines)
        raise unknown_format(file, f"line {error.lineno} is not JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise unknown_format(file, f"not JSON: {type(error).__name__}") from None
    if isinstance(value, list):
        return _each(file, "entry {}", value, _object)
    if not isinstance(value, dict):
        raise unknown_format(file, "JSON that is neither a list nor an object")
    images, annotations = value.get("images"), value.get("annotations")
    if isinstance(images, list) and isinstance(annotations, list):
        return _coco(file, images, annotations)
    if isinstance(images, list):
        return _each(file, "images[{}]", images, _karpathy)
    if all(columns(tuple(value))):
        return _of_columns(file, value)
    lists = {key: part for key, part in value.items() if _is_list_of_objects(part)}
    if len(lists) == 1:
        key, part = lists.popitem()
        return _each(file, f"{key}[{{}}]", part, _object)
    if value and all(isinstance(part, str | list | dict) for part in value.values()):
        return _by_name(file, value)
    raise unknown_format(file, "JSON without a list 'images'")


def _each(file: Path, place: str, entries: list[Any], read: Callable[[str, Any], Found]) -> Found:
    for i, value in enumerate(entries):
        yield from read(f"{file}, {place.format(i)}", value)


def _object(where: str, value: Any) -> Found:
    """An object with an image and its captions, under any of their common names, or a pair."""
    if isinstance(value, list) and len(value) == 2 and isinstance(value[0], str):
        yield from checked_row(where, value[0], value[1], None)
    elif isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        for part in value:
            yield from checked_row(where, *entry(part), part.get("split"))
    elif isinstance(value, dict):
        yield from checked_row(where, *entry(value), value.get("split"))
    else:
        yield Problem(where, f"{quoted(value)} is not an object with 'image' and 'captions'")


def _is_list_of_objects(value: Any) -> bool:
    if not (isinstance(value, list) and value and isinstance(value[0], dict)):
        return False
    return all(columns(tuple(value[0])))


def _of_columns(file: Path, value: dict[str, Any]) -> Found:
    """One object; or {"image": [NAME, …], "caption": [CAPTION, …]}, as tables become JSON.

    pandas writes objects with the number of the row instead of lists.
    """
    image, captions = columns(tuple(value))
    assert image is not None
    names = value[image]
    if not isinstance(names, list | dict):
        yield from _object(f"{file}, line 1", value)
        return
    rows = list(names) if isinstance(names, dict) else range(len(names))
    for row in rows:
        found = [_cell(value[column], row) for column in captions]
        listed = [c for cell in found for c in (cell if isinstance(cell, list) else [cell])]
        split = _cell(value.get("split"), row)
        yield from checked_row(f"{file}, row {row}", names[row], texts(listed), split)


def _cell(column: Any, row: Any) -> Any:
    if isinstance(column, list):
        return column[row] if row < len(column) else None
    return column.get(row) if isinstance(column, dict) else column


def _by_name(file: Path, value: dict[str, Any]) -> Found:
    """{NAME: CAPTION}, {NAME: [CAPTION, …]} or {NAME: {"caption": CAPTION}}"""
    for name, captions in value.items():
        if isinstance(captions, dict):
            captions = entry({"image": name, **captions})[1]
        elif isinstance(captions, list):
            captions = texts(captions)
        yield from checked_row(f"{file}, {quoted(name)}", name, captions, None)


def _karpathy(where: str, value: Any) -> Found:
    """{"filename", "filepath" (COCO only), "split", "sentences": [{"raw"}]}"""
    if not isinstance(value, dict):
        yield Problem(where, f"{quoted(value)} is not an object with 'filename' and 'sentences'")
        return
    image, captions = entry(value)
    name, folder = value.get("filename"), value.get("filepath")
    if isinstance(name, str) and isinstance(folder, str) and folder:
        image = f"{folder}/{name}"
    yield from checked_row(where, image, captions, value.get("split"))


def _coco(file: Path, images: list[Any], annotations: list[Any]) -> Found:
    """{"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}"""
    if annotations and not any(isinstance(n, dict) and "caption" in n for n in annotations):
        raise DataSetError(
            f"{file} has COCO's instances (boxes, categories), not captions. Name the file "
            "captions_*.json that belongs to it."
        )
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
        where = f"{file}, annotations[{i}]"
        image_id = note.get("image_id") if isinstance(note, dict) else None
        if not isinstance(image_id, int | str) or image_id not in captions:
            yield Problem(where, f"there is no image with the id {quoted(image_id)}")
        elif "caption" not in note:
            yield Note(where, "the annotation is not a caption")
        else:
            captions[image_id].append(note["caption"])
    for i, image in enumerate(images):
        number = image.get("id") if isinstance(image, dict) else None
        if isinstance(number, int | str) and number in captions:
            where = f"{file}, images[{i}]"
            name = image.get("file_name") or entry(image)[0]
            yield from checked_row(where, name, captions.pop(number), split[0] if split else None)
