"""Reads the parts of a lake. Nothing that they say is believed: everything is checked.

A part may come from somebody else. What does not fit is an IndexDamagedError that names the part.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from indexes.arrays import Floats
from indexes.embedding_format import are_of_length_one
from indexes.errors import IndexDamagedError
from indexes.lake.location import Location
from indexes.lake.manifest import Part
from indexes.lake.schema import FACTS, FileRow, files_schema, photo_id, photos_schema
from indexes.lake.write_parts import MEAN
from indexes.paths import stays_inside
from indexes.photos import COLUMNS, NEW_COLUMNS, Photo
from indexes.rows import COUNT, INTEGER, TEXT, Columns, RowError

if TYPE_CHECKING:
    import pyarrow as pa

MOST_ROWS = 10_000_000
"""Rows of one part."""
_MOST_GROUP_BYTES = 2**30  # decompressed
_BATCH_ROWS = 10_000
_PHOTO = Columns("photos", COLUMNS | NEW_COLUMNS)
_FILE = Columns(
    "files",
    {
        "path": TEXT,
        "root": TEXT,
        "bytes": COUNT,
        "mtime_ns": INTEGER,
        "hash": TEXT.optional(),
        "reason": TEXT.optional(),
    },
)
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class PhotoFacts:
    """A photo of a part without its embeddings. row: its place in the part."""

    id: int
    row: int
    photo: Photo
    digest: bytes | None
    share: float | None


class PartReader:
    """An open part. Use it as a context manager, or call `close`.

    Raises IndexDamagedError for what is no such part, and FileNotFoundError if it was deleted.
    """

    def __init__(self, location: Location, part: Part, dim: int) -> None:
        import pyarrow.parquet as pq

        self.part, self._dim = part, dim
        self._where = f"{location.url}/{part.name}"
        self._source = location.open(part.name)
        try:
            with self._checking():
                self.file: pq.ParquetFile = pq.ParquetFile(self._source)
                self._check()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._source.close()

    def __enter__(self) -> "PartReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _checking(self) -> Iterator[None]:
        """What does not fit, as IndexDamagedError."""
        import pyarrow as pa

        try:
            yield
        except (pa.ArrowException, RowError, ValueError, TypeError, OverflowError) as error:
            raise IndexDamagedError(
                f"{self._where} is damaged ({str(error)[:200]}). Restore it from a backup, or "
                "delete it and run `retrieval index` again: its photos are encoded again."
            ) from error
        except FileNotFoundError:
            raise
        except OSError as error:  # what Arrow raises for a file that is cut
            raise IndexDamagedError(
                f"{self._where} cannot be read ({str(error)[:200]}). If the storage is there, "
                "restore this file from a backup."
            ) from error

    def _check(self) -> None:
        expected = photos_schema(self._dim) if self.part.kind == "photos" else files_schema()
        found = self.file.schema_arrow
        for field in expected:
            if field.name not in found.names or not found.field(field.name).type == field.type:
                raise ValueError(f"its column {field.name} is missing or of another type")
        metadata = self.file.metadata
        if metadata.num_rows != self.part.rows or metadata.num_rows > MOST_ROWS:
            raise ValueError(f"it has {metadata.num_rows} rows, not {self.part.rows}")
        self.group_starts = [0]
        for group in range(metadata.num_row_groups):
            some = metadata.row_group(group)
            if some.total_byte_size > _MOST_GROUP_BYTES or some.num_rows < 0:
                raise ValueError(f"its row group {group} is too large")
            self.group_starts.append(self.group_starts[-1] + some.num_rows)

    def _batches(self, columns: Sequence[str]) -> "Iterator[pa.RecordBatch]":
        yield from self.file.iter_batches(_BATCH_ROWS, columns=list(columns))

    def facts(self) -> Iterator[list[PhotoFacts]]:
        """The photos of a part of photos, without embeddings, in batches."""
        row = 0
        with self._checking():
            for batch in self._batches(("id", *FACTS, "digest", "share")):
                some = []
                for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    key, facts, digest, share = values[0], values[1:-2], values[-2], values[-1]
                    _PHOTO.checked((key, *facts))
                    photo = Photo(*facts)
                    if key != photo_id(photo.hash):
                        raise ValueError(f"the id {key} is not that of the photo {photo.hash[:16]}")
                    if share is not None and not -1e-3 <= share <= 1 + 1e-3:
                        raise ValueError("a weight is not from 0 to 1")
                    some.append(PhotoFacts(key, row, photo, digest, share))
                    row += 1
                yield some

    def files(self) -> Iterator[list[FileRow]]:
        """The places of a part of files, in batches."""
        names = [field.name for field in files_schema()]
        with self._checking():
            for batch in self._batches(names):
                columns = (batch.column(name).to_pylist() for name in names)
                yield [_file(values) for values in zip(*columns, strict=True)]

    def sum(self) -> Floats:
        """The sum of the searchable embeddings of a part of photos, float32 [dim]."""
        with self._checking():
            content = (self.file.schema_arrow.metadata or {}).get(MEAN, b"")
            total = np.frombuffer(content, "<f4").astype(np.float32)
            if len(total) != self._dim or not np.isfinite(total).all():
                raise ValueError("its sum of embeddings makes no sense")
            if np.linalg.norm(total) > 1.02 * self.part.rows + 1:
                raise ValueError("its sum of embeddings makes no sense")
            return total

    def group_of(self, row: int) -> int:
        """The row group that has this row."""
        return int(np.searchsorted(self.group_starts, row, side="right")) - 1

    def vectors(self, column: str, group: int) -> Floats:
        """The embeddings of a row group, float32 [n, dim]; rows of NaN where there is none."""
        with self._checking():
            found = self.file.read_row_group(group, columns=[column]).column(0).combine_chunks()
            return _matrix(found, self._dim)

    def searchable(self) -> Iterator[tuple[int, Floats]]:
        """The embeddings that are searched, a row group after the other, with its first row."""
        for group in range(self.file.metadata.num_row_groups):
            rows, fused = self.vectors("seen", group), self.vectors("fused", group)
            has_fused = ~np.isnan(fused[:, 0])
            rows[has_fused] = fused[has_fused]
            yield self.group_starts[group], rows


def _matrix(column: Any, dim: int) -> Floats:
    missing = np.asarray(column.is_null().to_numpy(zero_copy_only=False), np.bool_)
    values = column.values if column.offset == 0 else column.flatten()
    rows = np.asarray(values.to_numpy(zero_copy_only=False), np.float16)
    if len(rows) == len(column) * dim:
        matrix = rows.reshape(-1, dim).astype(np.float32)
    else:  # rows that are missing have no room
        matrix = np.zeros((len(column), dim), np.float32)
        matrix[~missing] = rows.reshape(-1, dim)
    present = matrix[~missing]
    if not are_of_length_one(present).all():
        raise ValueError("an embedding is not of length one")
    present /= np.linalg.norm(present, axis=1, keepdims=True)
    matrix[~missing] = present
    matrix[missing] = np.nan
    return matrix


def _file(values: Sequence[Any]) -> FileRow:
    root, path, raw, size, mtime, digest, reason, present, captions = values
    _FILE.checked((path, root, size, mtime, digest, reason))
    name = path if raw is None else os.fsdecode(raw)
    if not name or not stays_inside(name):
        raise ValueError(f"the path {name[:80]!r} leaves its folder")
    if digest is not None and reason is not None and present:
        raise ValueError(f"the file {name[:80]!r} is a photo and is none")
    return FileRow(
        root, name, size, mtime, digest, reason, bool(present), tuple(_captions(captions or ()))
    )


def _captions(found: Iterable[Any]) -> Iterator[tuple[str, str]]:
    for caption in found:
        origin, text = caption["origin"], caption["text"]
        if not TEXT.fits(origin) or not TEXT.fits(text) or _CONTROL.search(text):
            raise ValueError("a caption is not text")
        yield origin, text


def known_good(location: Location, part: Part, dim: int) -> bool:
    """Whether a part can be read as a whole: of one that a killed writer left."""
    try:
        with PartReader(location, part, dim) as reader:
            for _ in reader.facts() if part.kind == "photos" else reader.files():
                pass
            if part.kind == "photos":
                for _ in reader.searchable():
                    pass
    except (IndexDamagedError, FileNotFoundError):
        return False
    return True
