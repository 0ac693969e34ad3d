"""Read a caption file of any known format as rows, problems and notes.

The format is told by what is in the file; its name decides only between JSON and JSON lines. No
photo is looked for here: see `names`. Rows come in the order of the file, as they are read: a photo
may have several, and whoever reads them puts them together.
"""

import json
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from retrieval.captions.json_lists import read_json, read_json_lines
from retrieval.captions.rows import Note, Problem, Row, checked_row
from retrieval.captions.tables import read_table
from retrieval.captions.text_lines import TextLines
from retrieval.errors import PhotoError

_TOKEN = re.compile(r"^(.+)#\d+\t(.*)$")
_OF_LINES = (".jsonl", ".ndjson")
_SPLIT_FILES = {"train": "train", "dev": "val", "val": "val", "test": "test"}


def read_rows(file: Path) -> Iterator[Row | Problem | Note]:
    """The rows of a caption file; raises DataSetError for an unknown format."""
    lines = TextLines(file)
    first = lines.first()
    suffix = file.suffix.lower()
    is_json = first.lstrip().startswith(("{", "["))
    has_lines = is_json and (_is_json(first) or (suffix in _OF_LINES and first.startswith("{")))
    if suffix == ".json" or (is_json and not has_lines):
        rows = read_json(lines)
    elif is_json or suffix in _OF_LINES:
        rows = read_json_lines(lines)
    else:
        rows = _with_splits(file, _tokens(lines) if _TOKEN.match(first) else read_table(lines))
    return chain(rows, _encoding_notes(lines))


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _encoding_notes(lines: TextLines) -> Iterator[Note]:
    yield from lines.notes()


def _tokens(lines: TextLines) -> Iterator[Row | Problem | Note]:
    """Flickr's `NAME#0<tab>CAPTION`."""
    for number, line in lines:
        if line is None or line.strip():
            found = _TOKEN.match(line or "")
            where = f"{lines.file}, line {number}"
            if found:
                yield from checked_row(where, found[1], found[2], None)
            else:
                yield Problem(where, "the entry names no image")


def _with_splits(
    file: Path, rows: Iterator[Row | Problem | Note]
) -> Iterator[Row | Problem | Note]:
    """The rows with the splits that lists beside the file give their photos, if there are any."""
    splits, unreadable = _split_files(file)
    yield from unreadable
    for row in rows:
        if splits and isinstance(row, Row):
            yield Row(row.where, row.image, row.captions, splits.get(row.image))
        else:
            yield row


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
            names = [line.strip() for _, line in TextLines(list_file, follow=False) if line]
            splits.update(dict.fromkeys(filter(None, names), _SPLIT_FILES[name[1]]))
        except (PhotoError, OSError) as error:
            problems.append(Problem(f"{list_file}", f"the list of a split is not read: {error}"))
    return splits, problems
