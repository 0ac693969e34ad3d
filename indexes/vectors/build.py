"""Write the vectors of an index: rows, biases and, if there are many rows, an approximate kind.

Everything is written to a folder with a temporary name, which is renamed when it is complete: a
process that is killed leaves the old folder and litter.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from indexes.arrays import Array, Floats, Ints
from indexes.atomic_write import sync_names
from indexes.regular_files import delete_tree
from indexes.vectors import hnsw, ivf
from indexes.vectors.arrays_on_disk import create_array, map_array, write_array
from indexes.vectors.flat import MEAN_SAMPLE, mean_row
from indexes.vectors.rows import Bias, Rows
from indexes.vectors.store import (
    IDS,
    MEAN,
    ROWS,
    About,
    Kind,
    Stored,
    approximate_rows,
    open_stored,
    sync_folder,
    write_about,
    write_bias,
)
from indexes.vectors.tune import tune

Choice = Literal["auto", "exact", "hnsw", "ivf", "ivf-pq"]
CHOICES: tuple[Choice, ...] = get_args(Choice)

SLOW_MILLISECONDS = 15.0  # of an exact query: from here on `auto` takes an approximate kind
_KEPT_MILLISECONDS = 7.0  # an approximate kind stays one down to here
FEWEST_APPROXIMATE = 10_000
"""Fewer rows than these are always searched exactly."""
_TIMED_BYTES = 1 << 27  # of rows; fewer stay in the caches and are read twice as fast as many are
_TIMES = 7  # the fastest counts: other programs interrupt the others
_BLOCK_ROWS = 8192
_MOST_GROWTH = 2  # or shrinking, before lists are learned again

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Plan:
    """What vectors are written with.

    biases: those to write beside them, by name, each computed from rows, float32 [n, dim], to
    float32 [n], each from its own row alone. ordering: the name of the one that the default ranking
    orders by, '' for none. queries: float32 [m, dim], like those of users, for the setting of an
    approximate kind; without any there is only the exact one. queries_are: what they are made of.
    progress: called with how many rows an approximate kind has, and of how many.
    """

    biases: Mapping[str, Callable[[Floats], Floats]] = field(default_factory=dict)
    ordering: str = ""
    queries: Floats | None = None
    queries_are: Literal["texts", "photos"] = "texts"
    progress: OnProgress = lambda *_: None


@dataclass(frozen=True)
class Before:
    """The vectors until now. stale: the ids in them that were replaced or removed, int64 [n]."""

    stored: Stored
    stale: Ints


def build(
    folder: Path,
    blocks: Iterable[tuple[Ints, Floats]],
    count: int,
    dim: int,
    changes: int,
    plan: Plan = Plan(),
    kind: Kind = "exact",
    before: Before | None = None,
) -> Stored:
    """Write vectors to `folder`, which does not exist, and open them.

    blocks: ids and rows, float32 [n, dim], `count` in all, in order of id; changes: the number of
    the last change in the catalogue; kind: an approximate one needs queries in the plan; before:
    vectors whose inverted lists may be taken over, since learning them takes long. Raises OSError,
    ValueError (other rows than promised), RuntimeError or MemoryError.
    """
    staging = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    delete_tree(staging)
    staging.mkdir()
    try:
        ids, rows = _write_rows(staging, blocks, count, dim, kind)
        about = About(kind, count, changes)
        values = {}
        for name, compute in plan.biases.items():
            values[name] = compute_bias(Rows(ids, rows), compute)
            write_bias(staging / f"bias-{name}.npy", values[name])
        if kind != "exact":
            about = _write_engine(staging, about, Rows(ids, rows), plan, values, before)
        write_about(staging, about)
        del ids, rows
        sync_folder(staging)
        with suppress(OSError):  # another process was faster
            staging.rename(folder)
        sync_names(folder.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return open_stored(folder, dim, count * dim)


def wanted_kind(choice: Choice, count: int, dim: int, before: Kind | None) -> Kind:
    """The kind for so many rows of `dim` numbers. before: the kind until now."""
    if count < FEWEST_APPROXIMATE:
        return "exact"
    if choice != "auto":
        return choice
    approximate = before is not None and before != "exact"
    limit = _KEPT_MILLISECONDS if approximate else SLOW_MILLISECONDS
    if exact_milliseconds(count, dim) < limit:
        return "exact"
    return before if approximate and before is not None else "ivf"


def exact_milliseconds(count: int, dim: int) -> float:
    """About how long an exact query over so many rows takes here."""
    timed = min(count, _TIMED_BYTES // (4 * dim))
    if not timed:
        return 0.0
    numbers = np.arange(timed * dim, dtype=np.float32).reshape(timed, dim)  # no two rows are equal
    rows, bias = Rows(np.arange(timed), numbers), Bias("", np.zeros(timed, np.float32))
    query = np.ones(dim, np.float32)
    best = np.inf
    for _ in range(_TIMES):
        started = time.perf_counter()
        rows.nearest(query, 10, bias=bias)
        best = min(best, time.perf_counter() - started)
    return 1000 * best * count / timed


def _write_rows(
    folder: Path, blocks: Iterable[tuple[Ints, Floats]], count: int, dim: int, kind: Kind
) -> tuple[Ints, Array]:
    """Write ids and rows; gives them mapped.

    An approximate kind reads few rows, in half the space: float16.
    """
    ids = create_array(folder / IDS, np.int64, (count,))
    rows = create_array(folder / ROWS, np.float32 if kind == "exact" else np.float16, (count, dim))
    done = 0
    for some, values in blocks:
        ids[done : done + len(some)], rows[done : done + len(some)] = some, values
        done += len(some)
    if done != count:
        raise ValueError(f"{done} rows came, {count} were expected")
    ids.flush()
    rows.flush()
    del ids, rows
    return map_array(folder / IDS, [np.int64], (count,)), map_array(
        folder / ROWS, [np.float32, np.float16], (count, dim)
    )


def compute_bias(rows: Rows, compute: Callable[[Floats], Floats]) -> Floats:
    """The bias of every row, float32 [n], a few rows at a time."""
    values = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), _BLOCK_ROWS):
        where = slice(start, start + _BLOCK_ROWS)
        values[where] = compute(np.asarray(rows.rows[where], np.float32))
    return values


def _write_engine(
    folder: Path,
    about: About,
    rows: Rows,
    plan: Plan,
    values: Mapping[str, Floats],
    before: Before | None,
) -> About:
    """Write an approximate kind; gives what the folder is then, with its setting."""
    assert plan.queries is not None
    bias = values.get(plan.ordering)
    about = replace(about, bias=plan.ordering if bias is not None else "")
    if about.kind == "hnsw":
        breadths: Sequence[int] = hnsw.BREADTHS
        hnsw.build(folder, rows, bias, plan.progress)
    else:
        breadths = ivf.BREADTHS
        about = _write_lists(folder, about, rows, bias, plan.progress, before)
    write_array(folder / MEAN, mean_row([rows], rows.dim, MEAN_SAMPLE))
    tuned = tune(
        approximate_rows(folder, about, rows.ids, rows.rows),
        None if bias is None else Bias(about.bias, bias),
        plan.queries,
        breadths,
    )
    return replace(
        about,
        breadth=tuned.breadth,
        recall=round(tuned.recall, 4),
        queries=tuned.queries,
        queries_are=plan.queries_are,
    )


def _write_lists(
    folder: Path,
    about: About,
    rows: Rows,
    bias: Floats | None,
    progress: OnProgress,
    before: Before | None,
) -> About:
    """Write inverted lists; gives what the folder is then.

    What the lists of before learned serves until there are twice as many rows, or half.
    """
    assert about.kind in ("ivf", "ivf-pq")
    if before is not None:
        old = before.stored.about
        trained = old.trained or old.count
        alike = (old.kind, old.bias) == (about.kind, about.bias)
        if alike and trained <= _MOST_GROWTH * len(rows) and len(rows) <= _MOST_GROWTH * trained:
            now_at = rows.positions(before.stored.rows.ids)
            now_at[np.isin(before.stored.rows.ids, before.stale)] = -1
            with suppress(ValueError, RuntimeError, FileNotFoundError):
                nlist = ivf.extend(
                    *(about.kind, folder, before.stored.folder, old.cells),
                    *(now_at, rows, bias, progress),
                )
                return replace(about, cells=nlist, trained=trained)
    ivf.build(about.kind, folder, rows, bias, progress)
    return replace(about, cells=ivf.cells(len(rows)), trained=len(rows))
