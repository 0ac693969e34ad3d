"""Writes the parts of a lake, each one Parquet file, whole or not at all.

Who writes a part again under the same name replaces it by the same content: repeats do no harm.
"""

import io
import os
import uuid
from collections.abc import Callable, Sequence
from dataclasses import astuple
from typing import TYPE_CHECKING, Any

import numpy as np

from indexes.arrays import Array, Floats
from indexes.lake.location import Location
from indexes.lake.manifest import Kind, Part
from indexes.lake.schema import FACTS, FileRow, PhotoRow, files_schema, photos_schema

if TYPE_CHECKING:
    import pyarrow as pa

GROUP_ROWS = 512
"""Photos in a row group: what is read to get one of them."""
_FILES_IN_GROUP = 50_000
MEAN = b"retrieval.sum"
"""The key of a part's metadata with the sum of its searchable embeddings, float32 [dim]."""


def write_photos(
    location: Location, rows: Sequence[PhotoRow], dim: int, name: str | None = None
) -> Part:
    """Write a part of photos; raises StorageError.

    name: letters, digits and dashes, by default a new one.
    """
    import pyarrow as pa

    schema = photos_schema(dim)
    columns: dict[str, Any] = {"id": [row.id for row in rows]}
    facts = [astuple(row.photo) for row in rows]
    for position, fact in enumerate(FACTS):
        columns[fact] = [values[position] for values in facts]
    columns["captions"] = [list(row.captions) or None for row in rows]
    columns["digest"] = [row.digest for row in rows]
    columns["share"] = [row.share for row in rows]
    vectors: dict[str, list[Floats | None]] = {
        "seen": [row.seen for row in rows],
        "said": [row.said for row in rows],
        "fused": [row.fused for row in rows],
    }
    arrays = [
        _vectors(vectors[field.name], dim)
        if field.name in vectors
        else pa.array(columns[field.name], field.type)
        for field in schema
    ]
    total = np.zeros(dim, np.float32)
    for row in rows:
        total += row.seen if row.fused is None else row.fused
    table = pa.Table.from_arrays(arrays, schema=schema)
    table = table.replace_schema_metadata({MEAN: total.astype("<f4").tobytes()})
    return _write(location, "photos", table, GROUP_ROWS, name)


def write_files(location: Location, rows: Sequence[FileRow], name: str | None = None) -> Part:
    """Write a part of files; otherwise as `write_photos`."""
    import pyarrow as pa

    paths = [_text_and_bytes(row.path) for row in rows]
    columns: dict[str, Any] = {
        "root": [row.root for row in rows],
        "path": [text for text, _ in paths],
        "path_bytes": [raw for _, raw in paths],
        "bytes": [row.bytes for row in rows],
        "mtime_ns": [row.mtime_ns for row in rows],
        "hash": [row.hash for row in rows],
        "reason": [row.reason and row.reason.encode(errors="replace").decode() for row in rows],
        "present": [row.present for row in rows],
        "captions": [
            [{"origin": _text_and_bytes(origin)[0], "text": text} for origin, text in row.captions]
            or None
            for row in rows
        ],
    }
    schema = files_schema()
    arrays = [pa.array(columns[field.name], field.type) for field in schema]
    table = pa.Table.from_arrays(arrays, schema=schema)
    return _write(location, "files", table, _FILES_IN_GROUP, name)


def _write(location: Location, kind: Kind, table: "pa.Table", group: int, name: str | None) -> Part:
    import pyarrow.parquet as pq

    target = f"{kind}/part-{name or uuid.uuid4().hex}.parquet"
    buffer = io.BytesIO()
    # Embeddings do not get smaller; the rest does.
    is_vector: Callable[[str], bool] = lambda column: column in ("seen", "said", "fused")  # noqa: E731
    compression = {
        path: "none" if is_vector(path.partition(".")[0]) else "zstd" for path in _leaves(table)
    }
    pq.write_table(
        table, buffer, row_group_size=group, compression=compression, use_dictionary=False
    )
    content = buffer.getvalue()
    location.write(target, content)
    return Part(target, table.num_rows, len(content))


def _leaves(table: "pa.Table") -> list[str]:
    """The paths of a table's columns as Parquet names them."""
    import pyarrow as pa

    paths = []
    for field in table.schema:
        if not pa.types.is_nested(field.type):
            paths.append(field.name)
        elif pa.types.is_struct(field.type.value_type):
            inner = field.type.value_type
            paths += [f"{field.name}.list.element.{child.name}" for child in inner]
        else:
            paths.append(f"{field.name}.list.element")
    return paths


def _vectors(rows: Sequence[Floats | None], dim: int) -> "pa.Array":
    """Embeddings as a column: float16 [dim] each, or null."""
    import pyarrow as pa

    missing: Array = np.array([row is None for row in rows], np.bool_)
    nothing = np.zeros(dim, np.float32)
    matrix = np.stack([nothing if row is None else row for row in rows]) if rows else nothing[:0]
    flat = pa.array(matrix.astype(np.float16).ravel(), pa.float16())
    return pa.FixedSizeListArray.from_arrays(flat, dim, mask=pa.array(missing))


def _text_and_bytes(path: str) -> tuple[str, bytes | None]:
    """A path as text, and as bytes if these are not UTF-8."""
    raw = os.fsencode(path)
    text = raw.decode(errors="replace")
    return text, None if text.encode() == raw else raw
