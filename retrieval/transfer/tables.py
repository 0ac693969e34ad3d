"""Tables beside embeddings, a line an embedding: paths, captions and sizes, under usual names.

Parquet (with the extra `parquet`), CSV, TSV and JSON lines, read in blocks. Nothing is believed:
what is wrong with a line is in its entry. Lists of captions for photos are in `retrieval.captions`.
"""

import ast
import csv
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from retrieval.captions.sidecars import clean
from retrieval.errors import DataSetError
from retrieval.photos.files import printable

SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson")
# The first name that a table has is used.
_PATHS = ("image_path", "path", "filepath", "file_path", "image_file", "file_name", "filename",
          "image_name", "img_path", "image", "file", "img", "key", "name", "url", "id")  # fmt: skip
_CAPTIONS = ("captions", "caption", "text", "texts", "sentence", "sentences", "title", "alt_text",
             "alt", "comment", "raw", "description", "prompt")  # fmt: skip
_SIDES = (("original_width", "width"), ("original_height", "height"))
_LONGEST_LINE = 1 << 24  # bytes
_LONGEST_PATH = 4096  # characters
_LONGEST_LIST = 100_000  # characters
_MOST_CAPTIONS = 100  # of a line
_LARGEST_GROUP = 1 << 31  # bytes of a row group, uncompressed, in the columns that are read
_LARGEST_SIDE = 1 << 20  # pixels


@dataclass(frozen=True)
class Entry:
    """What a table says of one embedding.

    path: of the photo, as the table has it; captions: texts that are not empty; width, height: in
    pixels, 0 if unknown; problem: why the line cannot be used, without a full stop.
    """

    path: str = ""
    captions: tuple[str, ...] = ()
    width: int = 0
    height: int = 0
    problem: str | None = None


def count_entries(file: Path) -> int:
    """How many lines a table has. Raises DataSetError if it cannot be read."""
    if file.suffix.lower() == ".parquet":
        with _parquet(file) as opened:
            return int(opened.metadata.num_rows)
    return sum(1 for _ in _records(file))


def read_entries(file: Path, size: int) -> Iterator[list[Entry]]:
    """The entries of a table, `size` at a time. Raises DataSetError if it cannot be read."""
    records = _records(file)
    while block := list(islice(records, size)):
        yield [entry_of(record) for record in block]


def entry_of(record: Mapping[str, Any] | None) -> Entry:
    """A line of a table; None for one that could not be parsed."""
    if record is None:
        return Entry(problem="the line is damaged")
    path = _first(record, _PATHS)
    if isinstance(path, dict):  # as Hugging Face stores an image: its bytes and its path
        path = path.get("path")
    if isinstance(path, int) and not isinstance(path, bool):
        path = str(path)  # a key
    if not isinstance(path, str) or not path.strip():
        return Entry(problem="it names no image")
    if not _is_path(path):
        return Entry(problem="the path of its image is none that a file can have")
    width, height = (_side(_first(record, names)) for names in _SIDES)
    return Entry(path.strip(), _captions(_first(record, _CAPTIONS)), width, height)


def _is_path(text: str) -> bool:
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return "\0" not in text and len(text) <= _LONGEST_PATH


def _first(record: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((record[name] for name in names if record.get(name) not in (None, "")), None)


def _captions(value: Any) -> tuple[str, ...]:
    """One caption, a list of them, or such a list as text; what is no text is left out."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = _parsed_list(value)
    listed = value if isinstance(value, list) else [value]
    texts = (clean(text) for text in listed[:_MOST_CAPTIONS] if isinstance(text, str))
    return tuple(dict.fromkeys(text for text in texts if text))


def _parsed_list(text: str) -> Any:
    """A list as JSON, or as pandas writes one to a CSV; the text itself if it is none."""
    if len(text) > _LONGEST_LIST:
        return text
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return text  # a caption that begins with a bracket


def _side(value: Any) -> int:
    try:
        side = int(value)
    except (TypeError, ValueError, OverflowError):
        return 0
    return side if 0 < side <= _LARGEST_SIDE else 0


# Formats ---------------------------------------------------------------------------------------


def _records(file: Path) -> Iterator[dict[str, Any] | None]:
    """The lines of a table by the names of their columns, lower case; None for a damaged line."""
    suffix = file.suffix.lower()
    if suffix == ".parquet":
        return _parquet_records(file)
    return _json_records(file) if suffix in (".jsonl", ".ndjson") else _csv_records(file)


def _lines(file: Path) -> Iterator[str]:
    """The lines of a text file, with their ends; bytes that are not UTF-8 become surrogates."""
    with file.open("rb") as source:
        first = True
        while line := source.readline(_LONGEST_LINE + 1):
            if len(line) > _LONGEST_LINE:
                raise _error(file, f"a line is longer than {_LONGEST_LINE:,} bytes")
            # A path in another encoding keeps its bytes: it may be the name of a file.
            text = line.decode("utf-8-sig" if first else "utf-8", "surrogateescape")
            first = False
            yield text


def _json_records(file: Path) -> Iterator[dict[str, Any] | None]:
    for line in _lines(file):
        if line.strip():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                value = None
            yield _lower(value) if isinstance(value, dict) else None


def _lower(record: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(name).strip().lower(): value for name, value in record.items()}


def _csv_records(file: Path) -> Iterator[dict[str, Any] | None]:
    lines = _lines(file)
    header = next(lines, "")
    separator = max(",\t;|", key=header.count)
    names: list[str] | None = None
    try:
        for cells in csv.reader(_chained(header, lines), delimiter=separator):
            if names is None:
                names = [name.strip().lower() for name in cells]
                _check_names(file, names)
            elif cells:
                yield dict(zip(names, cells, strict=False)) if len(cells) >= len(names) else None
    except csv.Error as error:
        raise _error(file, f"it is no CSV ({error})") from None
    if names is None:
        raise _error(file, "it is empty")


def _chained(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _check_names(file: Path, names: list[str]) -> None:
    if not set(names) & set(_PATHS):
        shown = printable(", ".join(names)[:100])
        raise _error(file, f"its columns ({shown}) name no path: call one of them image_path")


def _parquet(file: Path) -> Any:
    try:
        from pyarrow import parquet
    except ImportError:
        raise DataSetError(
            f"Reading {printable(file)} needs pyarrow. Install it with "
            "`pip install 'crossmodal-retrieval[parquet]'`, or write it as CSV or JSON lines."
        ) from None
    try:
        return parquet.ParquetFile(
            file,
            thrift_string_size_limit=1 << 26,
            thrift_container_size_limit=1 << 22,
            page_checksum_verification=True,  # of files that have checksums, as ours
        )
    except (OSError, ValueError) as error:  # those of pyarrow derive from them
        raise _error(file, f"it is no Parquet file ({_short(error)})") from None


def _parquet_records(file: Path) -> Iterator[dict[str, Any] | None]:
    wanted = {*_PATHS, *_CAPTIONS, *(name for names in _SIDES for name in names)}
    with _parquet(file) as opened:
        columns = {name: name.strip().lower() for name in opened.schema_arrow.names}
        _check_names(file, list(columns.values()))
        columns = {name: lower for name, lower in columns.items() if lower in wanted}
        for group in range(opened.metadata.num_row_groups):
            _check_group(file, opened.metadata.row_group(group), set(columns))
        try:
            for batch in opened.iter_batches(4096, columns=list(columns), use_threads=False):
                for record in batch.to_pylist():
                    yield {columns[name]: value for name, value in record.items()}
        except (OSError, ValueError, MemoryError) as error:
            raise _error(file, f"it is damaged ({_short(error)})") from None


def _check_group(file: Path, group: Any, columns: set[str]) -> None:
    sizes = (
        group.column(i).total_uncompressed_size
        for i in range(group.num_columns)
        if group.column(i).path_in_schema.partition(".")[0] in columns
    )
    if sum(map(abs, sizes)) > _LARGEST_GROUP:
        raise _error(file, f"a row group has more than {_LARGEST_GROUP:,} bytes of text")


def _short(error: BaseException) -> str:
    return printable(" ".join(str(error).split())[:100]).rstrip(".")


def _error(file: Path, why: str) -> DataSetError:
    return DataSetError(f"The table {printable(file)} cannot be used: {why}.")
