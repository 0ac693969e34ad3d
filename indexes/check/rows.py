"""Every column of every row of the catalogue, one by one.

Vectors are checked in `indexes.check.embeddings`, what rows say about each other in
`indexes.check.relations`.
"""

import json
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from indexes import photos
from indexes.catalogue import MAX_DIM, Catalogue
from indexes.check.report import NEW_INDEX, Problem, Progress, listed
from indexes.meta import is_token
from indexes.paths import is_folder, stays_inside, to_sql
from indexes.rows import (
    BYTES,
    COUNT,
    ID,
    INTEGER,
    MAX_ID,
    PATH,
    TEXT,
    WEIGHT,
    Columns,
    Kind,
    RowError,
)

FLAG = Kind("0 or 1", lambda value: value in (0, 1) and isinstance(value, int))
_INSIDE = Kind("a path inside its folder", lambda value: PATH.fits(value) and stays_inside(value))
_ABSOLUTE = Kind(
    "an absolute path",
    lambda value: (
        PATH.fits(value)
        and (
            PurePosixPath(os.fsdecode(value)).is_absolute()
            or PureWindowsPath(os.fsdecode(value)).is_absolute()
        )
    ),
)
_CHECKSUM = Kind("a checksum", lambda value: isinstance(value, int) and 0 <= value < 1 << 32)
COLUMNS: dict[str, dict[str, Kind]] = {
    "meta": {"key": TEXT, "value": TEXT},
    "roots": {"id": ID, "relative": PATH, "absolute": _ABSOLUTE},
    "photos": {
        **photos.COLUMNS,
        **photos.NEW_COLUMNS,
        "metadata_version": COUNT.optional(),
        "present": FLAG,
    },
    "files": {
        "id": ID,
        "root_id": ID,
        "path": _INSIDE,
        "bytes": COUNT,
        "mtime_ns": INTEGER,
        "photo_id": ID.optional(),
        "reason": TEXT.optional(),
        "present": FLAG,
    },
    "captions": {
        "root_id": ID,
        "path": _INSIDE,
        "position": INTEGER,
        "origin": PATH,
        "text": TEXT,
    },
    "embeddings": {"photo_id": ID, "vector": BYTES, "checksum": _CHECKSUM},
    "said": {"photo_id": ID, "digest": BYTES, "vector": BYTES, "checksum": _CHECKSUM},
    "fused": {"photo_id": ID, "share": WEIGHT, "vector": BYTES, "checksum": _CHECKSUM},
    "changes": {"photo_id": ID, "number": COUNT},
}
"""The columns of each table, and what each may hold."""
_SINCE_4 = {"checksum", "metadata_version", *photos.NEW_COLUMNS}
SINCE_FORMAT = {"captions": 2, "said": 3, "fused": 3, "changes": 4}
"""The first format that has a table, if it is not the first of all."""
_BATCH_SIZE = 10_000
_SETTING = "setting:"


def columns_of(table: str, catalogue_format: int) -> dict[str, Kind]:
    """The columns of a table in a format, and what each may hold."""
    new = _SINCE_4 if catalogue_format < 4 else set[str]()
    return {name: kind for name, kind in COLUMNS[table].items() if name not in new}


def check_rows(catalogue: Catalogue, progress: Progress) -> Iterator[Problem]:
    """The tables of photos, files and captions."""
    mends = {
        "photos": _forget_photos,
        "files": _delete_files,
        "captions": _delete_captions,
        "changes": _delete_changes,
    }
    for table, mend in mends.items():
        if not catalogue.database.has_table(table):
            continue
        keys, first = _damaged_rows(catalogue, table, progress)
        if keys:
            yield Problem(
                f"{table}: {len(keys):,} row(s) hold what they cannot ({first}).",
                partial(mend, keys=keys),
            )


def _damaged_rows(
    catalogue: Catalogue, table: str, progress: Progress
) -> tuple[list[tuple[Any, ...]], str]:
    """The keys of the rows that hold wrong values, and what is wrong with the first."""
    columns = columns_of(table, catalogue.database.format)
    check = Columns(table, columns).checked
    # The key as it is stored, whatever it is: text that is not UTF-8 could not be read as text.
    key = "rowid" if table != "captions" else "root_id, typeof(path), CAST(path AS BLOB), position"
    width = len(key.split(", "))
    (total,) = catalogue.database.conn.execute(f"SELECT count(*) FROM {table}").fetchone()
    cursor = catalogue.database.conn.execute(f"SELECT {key}, {', '.join(columns)} FROM {table}")
    keys: list[tuple[Any, ...]] = []
    first, done = "", 0
    while rows := cursor.fetchmany(_BATCH_SIZE):
        for row in rows:
            try:
                check(row[width:])
            except RowError as error:
                keys.append(row[:width])
                first = first or str(error)
        done += len(rows)
        progress(table, done, total)
    return keys, first


def _forget_photos(catalogue: Catalogue, keys: Sequence[tuple[int]]) -> str:
    return forget_photos(catalogue, [i for (i,) in keys])


def forget_photos(catalogue: Catalogue, ids: Sequence[int]) -> str:
    """Delete photos with all that belongs to them; the next run finds their files new."""
    chosen = [(i,) for i in ids]
    for table in ("said", "fused", "embeddings", "files"):
        if catalogue.database.has_table(table):
            catalogue.database.conn.executemany(f"DELETE FROM {table} WHERE photo_id = ?", chosen)
    catalogue.database.conn.executemany("DELETE FROM photos WHERE id = ?", chosen)
    return (
        f"{listed(ids, 'photo')} dropped, with the rows of their files: run `retrieval index` to "
        "encode them again."
    )


def _delete_changes(catalogue: Catalogue, keys: Sequence[tuple[int]]) -> str:
    catalogue.database.conn.executemany("DELETE FROM changes WHERE rowid = ?", keys)
    return f"{len(keys):,} row(s) of changes were deleted."


def _delete_files(catalogue: Catalogue, keys: Sequence[tuple[int]]) -> str:
    catalogue.database.conn.executemany("DELETE FROM files WHERE rowid = ?", keys)
    return (
        f"{len(keys):,} row(s) of files were deleted: run `retrieval index` to read those files "
        "again."
    )


def _delete_captions(catalogue: Catalogue, keys: Sequence[tuple[Any, ...]]) -> str:
    """Delete damaged captions. Those inside photos are read when their files are read again."""
    conn = catalogue.database.conn
    conn.execute("CREATE TEMP TABLE damaged (root_id, kind, path, position)")
    conn.executemany("INSERT INTO damaged VALUES (?, ?, ?, ?)", keys)
    conn.execute(
        "DELETE FROM captions WHERE (root_id, typeof(path), CAST(path AS BLOB), position) IN "
        "(SELECT root_id, kind, path, position FROM damaged)"
    )
    conn.execute(
        "UPDATE files SET mtime_ns = 0 WHERE (root_id, typeof(path), CAST(path AS BLOB)) IN "
        "(SELECT root_id, kind, path FROM damaged)"
    )
    conn.execute("DROP TABLE damaged")
    return f"{len(keys):,} caption(s) were deleted: run `retrieval index` to read them again."


# Folders, model and settings ---------------------------------------------------------------------


def check_roots(catalogue: Catalogue) -> Iterator[Problem]:
    """The indexed folders."""
    check = Columns("roots", COLUMNS["roots"]).checked
    for row in catalogue.database.conn.execute("SELECT id, relative, absolute FROM roots"):
        try:
            check(row)
        except RowError as error:
            yield Problem(
                f"An indexed folder is not readable ({error}).", partial(_mend_root, row=row)
            )


def missing_folders(catalogue: Catalogue) -> list[str]:
    """The paths of the indexed folders that are not there now."""
    index = catalogue.database.folder.resolve()
    return [
        os.fsdecode(absolute)
        for root_id, relative, absolute in catalogue.roots.all()
        if not is_folder(Path(os.fsdecode(absolute)))
        and not (relative and is_folder(index / os.fsdecode(relative)))
    ]


def _mend_root(catalogue: Catalogue, row: tuple[int, Any, Any]) -> str:
    """Keep what is known of the place of a folder; without any its files are looked for again."""
    root_id, relative, absolute = row
    conn = catalogue.database.conn
    if ID.fits(root_id) and _ABSOLUTE.fits(absolute):
        conn.execute("UPDATE roots SET relative = '' WHERE id = ?", [root_id])
        return "The place of an indexed folder relative to the index was forgotten."
    if ID.fits(root_id) and PATH.fits(relative) and relative:
        path = (catalogue.database.folder.resolve() / os.fsdecode(relative)).resolve()
        if is_folder(path):
            conn.execute("UPDATE roots SET absolute = ? WHERE id = ?", [to_sql(str(path)), root_id])
            return f"An indexed folder is now {path}, by its place relative to the index."
    conn.execute("DELETE FROM files WHERE root_id = ?", [root_id])
    if catalogue.database.has_table("captions"):
        conn.execute("DELETE FROM captions WHERE root_id = ?", [root_id])
    conn.execute("DELETE FROM roots WHERE id = ?", [root_id])
    return (
        "An indexed folder without a path was deleted. Name it again with "
        "`retrieval index FOLDER`; its photos are not encoded again."
    )


def check_meta(catalogue: Catalogue, dim: int | None) -> Iterator[Problem]:
    """The model, the fusion, the generation and the settings.

    dim: the length that most of the stored embeddings have, None if there are none.
    """
    conn = catalogue.database.conn
    values: dict[Any, Any] = dict(conn.execute("SELECT key, value FROM meta").fetchall())
    for key in ("model", "fingerprint"):
        if not isinstance(values.get(key), str):
            yield Problem(f"meta: which {_NAMES[key]} the index has is lost.", remedy=NEW_INDEX)
    if not _is_dim(values.get("dim")) or (dim is not None and int(values["dim"]) != dim):
        what = f"meta: the length of the embeddings is wrong ({values.get('dim')!r:.40})."
        if dim is None:
            yield Problem(what, remedy=NEW_INDEX)
        else:
            yield Problem(what, partial(_put, key="dim", value=str(dim)))
    if not isinstance(values.get("fusion"), str):
        yield Problem(
            "meta: the name of the fusion is lost.", partial(_put, key="fusion", value="unknown")
        )
    if not is_token(values.get("generation")):
        yield Problem("meta: the generation makes no sense.", _renew_generation)
    for key, value in values.items():
        if key not in (*_NAMES, "dim", "fusion", "generation") and not _is_setting(key, value):
            yield Problem(
                f"meta: the entry {key!r:.60} makes no sense.", partial(_delete_entry, key=key)
            )


_NAMES = {"model": "model", "fingerprint": "weights"}


def recorded_dim(catalogue: Catalogue) -> int | None:
    """The length of an embedding that is recorded; None if that makes no sense."""
    row = catalogue.database.conn.execute("SELECT value FROM meta WHERE key = 'dim'").fetchone()
    return int(row[0]) if row and _is_dim(row[0]) else None


def _is_dim(value: object) -> bool:
    return (
        isinstance(value, str)
        and value.isascii()
        and value.isdigit()
        and len(value) <= 5
        and 0 < int(value) <= MAX_DIM
    )


def _is_setting(key: object, value: object) -> bool:
    if not isinstance(key, str) or not isinstance(value, str):
        return False
    if key != f"{_SETTING}captions":
        return True
    try:
        files = json.loads(value)
    except (ValueError, RecursionError):
        return False
    return isinstance(files, list) and all(isinstance(file, str) for file in files)


def _put(catalogue: Catalogue, key: str, value: str) -> str:
    catalogue.meta.put(key, value)
    again = " Run `retrieval fuse`." if key == "fusion" else ""
    return f"meta: {key} is now {value}.{again}"


def _renew_generation(catalogue: Catalogue) -> str:
    catalogue.meta.renew_generation()
    return "The generation was renewed."


def _delete_entry(catalogue: Catalogue, key: object) -> str:
    catalogue.database.conn.execute("DELETE FROM meta WHERE key IS ?", [key])
    return f"The entry {key!r:.60} was deleted: name it again with the next `retrieval index`."


def check_next_id(catalogue: Catalogue) -> Iterator[Problem]:
    """Whether the next photo gets an id that photos may have."""
    for (last,) in catalogue.database.conn.execute(
        "SELECT seq FROM sqlite_sequence WHERE name = 'photos'"
    ):
        if not isinstance(last, int) or not 0 <= last < MAX_ID:
            yield Problem(
                f"No id is left for a new photo (the last is {last!r:.40}).", _mend_next_id
            )


def _mend_next_id(catalogue: Catalogue) -> str:
    """Ids may come back, so what is cached for the old ones must go: the generation is renewed."""
    catalogue.database.conn.execute(
        "UPDATE sqlite_sequence SET seq = (SELECT coalesce(max(id), 0) FROM photos WHERE id < ?) "
        "WHERE name = 'photos'",
        [MAX_ID],
    )
    return "The next photo gets the next id again."
