"""Every stored embedding: its size, its length, its checksum, and whether its photo has one.

What is damaged is dropped by a repair, and encoded or fused again by the next run.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from indexes.catalogue import MAX_DIM, Catalogue
from indexes.check.report import Problem, Progress, listed
from indexes.check.rows import COLUMNS, forget_photos
from indexes.database import Database
from indexes.embedding_format import (
    FIRST_WITH_CHECKSUMS,
    TABLES,
    are_of_length_one,
    checksum,
    dtype_of,
)
from indexes.rows import Columns, RowError

_BATCH_SIZE = 10_000


def stored_dim(database: Database) -> int | None:
    """The length of an embedding that most rows have; None if they have no length in common."""
    row = database.conn.execute(
        "SELECT length(vector), count(*), (SELECT count(*) FROM embeddings) FROM embeddings "
        "WHERE typeof(vector) = 'blob' GROUP BY 1 ORDER BY 2 DESC LIMIT 1"
    ).fetchone()
    size = dtype_of(database.format).itemsize
    if row is None or row[0] % size or not 0 < row[0] // size <= MAX_DIM or 2 * row[1] <= row[2]:
        return None
    return int(row[0] // size)


def check_embeddings(catalogue: Catalogue, dim: int, progress: Progress) -> Iterator[Problem]:
    """All tables of embeddings. dim: their length."""
    for table in TABLES:
        if not catalogue.database.has_table(table):
            continue
        found = _damaged(catalogue, table, dim, progress)
        for what, ids in found.items():
            if ids:
                yield Problem(
                    f"{table}: {what}: {listed(ids, 'photo')}.",
                    partial(_drop, table=table, ids=ids),
                )
    yield from _check_partners(catalogue.database)


def _damaged(
    catalogue: Catalogue, table: str, dim: int, progress: Progress
) -> dict[str, list[int]]:
    """The photos whose row in a table is damaged, by what is wrong."""
    database = catalogue.database
    has_checksums = database.format >= FIRST_WITH_CHECKSUMS
    columns = {k: v for k, v in COLUMNS[table].items() if has_checksums or k != "checksum"}
    check = Columns(table, columns).checked
    dtype = dtype_of(database.format)
    wrong: dict[str, list[int]] = {}

    def report(what: str, photo_id: int) -> None:
        wrong.setdefault(what, []).append(photo_id)

    (total,) = database.conn.execute("SELECT count(*) FROM photos").fetchone()
    cursor = database.conn.execute(f"SELECT {', '.join(columns)} FROM {table}")
    at = list(columns).index("vector")
    done = 0
    while rows := cursor.fetchmany(_BATCH_SIZE):
        sound: list[tuple[int, bytes]] = []
        for row in rows:
            photo_id, vector = row[0], row[at]
            try:
                check(row)
            except RowError as error:
                report(str(error).partition(" where ")[0] + " is wrong", photo_id)
                continue
            if len(vector) != dtype.itemsize * dim:
                report("the vector has another length than those of the index", photo_id)
            elif has_checksums and checksum(table, photo_id, vector) != row[-1]:
                report("the vector does not match its checksum", photo_id)
            else:
                sound.append((photo_id, vector))
        matrix = np.frombuffer(b"".join(v for _, v in sound), dtype).reshape(-1, dim)
        for place in np.flatnonzero(~are_of_length_one(matrix.astype(np.float32))):
            report("the vector is not of length one", sound[place][0])
        done += len(rows)
        progress(table, done, max(total, done))
    return wrong


def _check_partners(database: Database) -> Iterator[Problem]:
    """Photos without an embedding, and fused embeddings without what they were fused from."""
    rows = database.conn.execute(
        "SELECT id FROM photos WHERE id NOT IN (SELECT photo_id FROM embeddings)"
    )
    without = [i for (i,) in rows]
    if without:
        yield Problem(
            f"embeddings: {listed(without, 'photo')} without one.",
            partial(_drop, table="embeddings", ids=without),
        )
    if not database.has_table("fused"):
        return
    rows = database.conn.execute(
        "SELECT photo_id FROM fused WHERE photo_id NOT IN (SELECT photo_id FROM said)"
    )
    alone = [i for (i,) in rows]
    if alone:
        yield Problem(
            f"fused: {listed(alone, 'photo')} fused with captions that have no embedding.",
            partial(_drop, table="fused", ids=alone),
        )


def _drop(catalogue: Catalogue, table: str, ids: Sequence[Any]) -> str:
    if table == "embeddings":
        return forget_photos(catalogue, ids)
    chosen = [(i,) for i in ids]
    for name in ("said", "fused") if table == "said" else ("fused",):
        catalogue.database.conn.executemany(f"DELETE FROM {name} WHERE photo_id = ?", chosen)
    return (
        f"{table}: that of {listed(ids, 'photo')} dropped: run `retrieval index` to compute it "
        "again from captions."
    )
