"""Photos in tables: Parquet with paths, URLs or the photos' own bytes, and CSV with paths or URLs.

Such are the lists that img2dataset takes, what it writes as Parquet, and data sets of the Hugging
Face Hub. A row group is read at a time. No photo is decoded here.
"""

import csv
import io
import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, islice
from typing import Any

from indexes.lake.location import Location
from retrieval.captions.rows import BadEntryError, columns, inner_path, texts, usable_captions
from retrieval.captions.sidecars import clean
from retrieval.cluster.tasks import Captions, Item
from retrieval.errors import DataSetError, PhotoError
from retrieval.photos.files import TOO_LARGE
from retrieval.photos.walk import PHOTO_SUFFIXES

URLS = ("url", "image_url", "img_url", "photo_url", "urls")
_BYTES = ("jpg", "jpeg", "png", "webp", "image", "img", "image_bytes", "bytes")
_ROWS = 10_000
_LONGEST = 8000  # characters of a path or URL
_MOST_GROUP_BYTES = 2**31  # decompressed


def is_table(name: str) -> bool:
    """Whether a source is a table, by the ending of its name."""
    return name.lower().endswith((".parquet", ".csv", ".tsv"))


def list_table(root: str, name: str, mtime_ns: int) -> Iterator[list[Item]]:
    """The photos that a table in a folder or URL names, in batches.

    Rows that name none are left out. Raises DataSetError if no row can name any.
    """
    number = 0
    for rows in _batches(Location.of(root), name):
        items = []
        for row in rows:
            item = _item(row, name, number, mtime_ns)
            number += 1
            if item is not None:
                items.append(item)
        yield items


class PhotoColumn:
    """The photos in the rows of a Parquet file; the row group that was read last stays in memory.

    Raises FileNotFoundError, or DataSetError if it is no such file.
    """

    def __init__(self, location: Location, name: str) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._source = location.open(name)
        try:
            self._file = pq.ParquetFile(self._source)
        except (pa.ArrowException, OSError) as error:
            self._source.close()
            raise DataSetError(f"{location.url}/{name} is no Parquet file ({error}).") from error
        self._column = _bytes_column(self._file.schema_arrow.names)
        groups = range(self._file.num_row_groups)
        sizes = (self._file.metadata.row_group(group).num_rows for group in groups)
        self._starts = list(accumulate(sizes, initial=0))  # of each group, and the end
        self._group = -1
        self._values: Any = None

    def close(self) -> None:
        self._source.close()

    def photo(self, row: int, most: int) -> bytes:
        """The bytes of the photo in a row; raises PhotoError."""
        if row >= self._starts[-1]:
            raise PhotoError("the table has no such row")
        group = bisect_right(self._starts, row) - 1
        if self._file.metadata.row_group(group).total_byte_size > _MOST_GROUP_BYTES:
            raise PhotoError(f"{TOO_LARGE} (its row group)")
        return self._in_group(group, row - self._starts[group], most)

    def _in_group(self, group: int, row: int, most: int) -> bytes:
        import pyarrow as pa

        if self._column is None:
            raise PhotoError("the table has no photos")
        try:
            if group != self._group:
                self._values = None  # frees its memory first
                self._values = self._file.read_row_group(group, [self._column]).column(0)
                self._group = group
            assert self._values is not None
            value = self._values[row].as_py()
        except (pa.ArrowException, OSError) as error:
            raise PhotoError(f"damaged ({str(error)[:80]})") from error
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes) or not content:
            raise PhotoError("the row of the table has no photo")
        if len(content) > most:
            raise PhotoError(f"{TOO_LARGE} (over {most:,} bytes)")
        return content


def _batches(location: Location, name: str) -> Iterator[Sequence[Mapping[str, Any]]]:
    if not name.lower().endswith(".parquet"):
        yield from _csv_batches(location, name)
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with location.open(name) as source, pq.ParquetFile(source) as file:
            names = file.schema_arrow.names
            image = _bytes_column(names)
            inner = _bytes_type(file.schema_arrow, image)
            wanted = [column for column in names if column != image or not inner]
            for batch in file.iter_batches(_ROWS, columns=wanted):
                rows = batch.to_pylist()
                for row in rows:
                    if inner and image is not None:
                        row[image] = b""  # read when it is wanted
                yield rows
    except (pa.ArrowException, OSError) as error:
        raise DataSetError(f"{location.url}/{name} is no Parquet file ({error}).") from error


def _bytes_type(schema: Any, column: str | None) -> bool:
    """Whether a column holds the bytes of photos, alone or beside a path."""
    import pyarrow as pa

    if column is None:
        return False
    kind = schema.field(column).type
    binary = (pa.types.is_binary, pa.types.is_large_binary)
    if any(check(kind) for check in binary):
        return True
    return pa.types.is_struct(kind) and any(field.name == "bytes" for field in kind)


def _csv_batches(location: Location, name: str) -> Iterator[Sequence[Mapping[str, Any]]]:
    with location.open(name) as source:
        text = io.TextIOWrapper(source, encoding="utf-8-sig", errors="replace", newline="")
        delimiter = "\t" if name.lower().endswith(".tsv") else ","
        try:
            reader = csv.DictReader(text, delimiter=delimiter, strict=False)
            while rows := list(islice(reader, _ROWS)):
                yield rows
        except csv.Error as error:
            raise DataSetError(f"{location.url}/{name} is no table ({error}).") from error


def _bytes_column(names: list[str]) -> str | None:
    return next((known for known in _BYTES if known in names), None)


def _item(row: Mapping[str, Any], table: str, number: int, mtime_ns: int) -> Item | None:
    """The photo that a row names, None if it names none."""
    names = tuple(name for name in row if isinstance(name, str))
    captions = _captions(row, names, table)
    image = _bytes_column(list(names))
    if image is not None and isinstance(row[image], bytes):
        inner = f"{table}/{number:09d}.jpg"
        return Item(inner, number + 1, mtime_ns, captions, container=table, row=number)
    url: Any = next((row[name] for name in names if name.lower() in URLS), None)
    if isinstance(url, str) and "://" in url[:10] and len(url) <= _LONGEST:
        return Item(_path_of_url(url), 0, 0, captions, url=url.strip())
    column = columns(names)[0]
    path: Any = row[column] if column is not None else None
    if not isinstance(path, str) or not path or len(path) > _LONGEST:
        return None
    if path.startswith(("http://", "https://")):
        return Item(_path_of_url(path), 0, 0, captions, url=path)
    try:
        inside = inner_path(path)
    except BadEntryError:
        return None
    ending = inside.rpartition(".")[2].lower()
    return Item(inside, 0, 0, captions) if inside and ending in PHOTO_SUFFIXES else None


def _path_of_url(url: str) -> str:
    """A URL as a path inside a root."""
    parts = url.strip().replace("://", "/", 1).split("/")
    return "/".join("%2E%2E" if part == ".." else part for part in parts).replace("\0", "")


def _captions(row: Mapping[str, Any], names: tuple[str, ...], table: str) -> Captions:
    found: list[Any] = []
    for name in columns(names)[1]:
        value = row[name]
        if value is None or (isinstance(value, float) and math.isnan(value)):
            continue
        found += texts(value) if isinstance(value, list) else [value]
    try:
        good = usable_captions(found)[0] if found else ()
    except BadEntryError:
        return ()
    return tuple((table, text) for text in dict.fromkeys(filter(None, map(clean, good))))
