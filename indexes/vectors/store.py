"""The vectors of an index on disk: a folder that is written once, as a whole, and then only read.

It holds the ids and rows, what an approximate kind needs, biases, and `about.json`. All of it can
be made again from the catalogue. A folder from elsewhere may say anything: what does not fit
together is not used.
"""

import json
import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from indexes.arrays import Array, Floats, Ints
from indexes.atomic_write import atomic_write
from indexes.errors import IndexWarning
from indexes.regular_files import read_regular
from indexes.vectors.approximate import ApproximateRows, Engine
from indexes.vectors.arrays_on_disk import map_array, read_array
from indexes.vectors.rows import Rows

Kind = Literal["exact", "hnsw", "ivf", "ivf-pq"]
KINDS: tuple[Kind, ...] = get_args(Kind)

FORMAT = 2
IDS, ROWS, MEAN, ABOUT = "ids.npy", "rows.npy", "mean.npy", "about.json"
_MOST_ABOUT_BYTES = 10_000
_MOST_BREADTH = 1_000_000
_BLOCK_IDS = 1 << 20
# How many candidates are scored exactly for each hit: product codes are coarse.
_CANDIDATES: dict[Kind, int] = {"hnsw": 4, "ivf": 4, "ivf-pq": 32}


@dataclass(frozen=True)
class About:
    """What a folder of vectors is.

    kind: how it is searched; count: how many rows; changes: the number of the last change in the
    catalogue when it was written. For an approximate kind, bias: the name of the bias that is one
    more dimension, '' for none; breadth: of a search; recall: the share of the exact first ten that
    was found for queries that did not choose the breadth; queries: how many those were;
    queries_are: 'texts' or, if there were none, 'photos'; cells: how many inverted lists there are,
    and trained: how many rows there were when they were learned (0 in older folders: `count`).
    """

    kind: Kind
    count: int
    changes: int
    bias: str = ""
    breadth: int = 0
    recall: float | None = None
    queries: int = 0
    queries_are: str = "texts"
    cells: int = 0
    trained: int = 0


@dataclass(frozen=True)
class Stored:
    """An open folder of vectors. rows: how it is searched."""

    folder: Path
    about: About
    rows: Rows

    def bias(self, name: str, compute: Callable[[Rows], Floats]) -> Floats:
        """A bias of every row, float32 [n]: mapped, or computed and written for the next time."""
        path = self.folder / f"bias-{name}.npy"
        try:
            stored = map_array(path, [np.float32], (len(self.rows),))
            if np.isfinite(stored).all():
                return stored
        except (OSError, ValueError):
            pass
        values = compute(self.rows)
        write_bias(path, values)
        return values

    def mean(self) -> Floats | None:
        """The mean of the rows, float32 [dim], of a sample; None if it is not stored.

        An approximate kind has it: the sample would bring much of its rows into memory.
        """
        with suppress(OSError, ValueError):
            mean = read_array(self.folder / MEAN, np.float32, (self.rows.dim,))
            if np.isfinite(mean).all():
                return mean
        return None

    def is_usable(self) -> bool:
        """Whether the files of the engine are sound, if there is one. FAISS is not loaded."""
        try:
            _check_engine(self.folder, self.about, self.rows.dim)
        except (OSError, ValueError, MemoryError):
            return False
        return True


def write_bias(path: Path, values: Floats) -> None:
    """Write biases to a file, if it can be written: it is a cache."""
    try:
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.save(file, values, allow_pickle=False)
    except OSError:
        pass


def write_about(folder: Path, about: About) -> None:
    """Write `about.json`, the last file of a new folder; raises OSError."""
    text = json.dumps({"format": FORMAT, **asdict(about)}, indent=2) + "\n"
    with atomic_write(folder / ABOUT) as temporary:
        temporary.write_text(text, "utf-8")


def read_about(folder: Path) -> About:
    """What a folder says it is; raises OSError or ValueError."""
    if folder.is_symlink():
        raise OSError(f"{folder} is a link")
    try:
        values = json.loads(read_regular(folder / ABOUT, _MOST_ABOUT_BYTES))
        if values.pop("format") != FORMAT:
            raise ValueError("another format")
        about = About(**values)
        numbers = [about.count, about.changes, about.breadth, about.queries]
        numbers += [about.cells, about.trained]
        fits = (
            about.kind in KINDS
            and isinstance(about.bias, str)
            and all(type(n) is int and n >= 0 for n in numbers)
            and (about.kind == "exact" or 0 < about.breadth <= _MOST_BREADTH)
            and about.cells <= about.count
            and (about.recall is None or 0 <= about.recall <= 1)
            and about.queries_are in ("texts", "photos")
        )
    except (TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError("about.json makes no sense") from error
    if not fits:
        raise ValueError("about.json makes no sense")
    return about


def open_stored(folder: Path, dim: int, most_bytes: int) -> Stored:
    """Open a folder of vectors of `dim` numbers; raises OSError or ValueError if it is unusable.

    most_bytes: the size of the catalogue, which holds all rows, too.
    """
    about = read_about(folder)
    if about.count * dim > most_bytes:  # a row takes at least two bytes a number there
        raise ValueError("more vectors than the catalogue can hold")
    ids = map_array(folder / IDS, [np.int64], (about.count,))
    _check_ids(ids)
    rows = map_array(folder / ROWS, [np.float32, np.float16], (about.count, dim))
    if about.kind == "exact":
        return Stored(folder, about, Rows(ids, rows))
    return Stored(folder, about, approximate_rows(folder, about, ids, rows))


def approximate_rows(folder: Path, about: About, ids: Ints, rows: Array) -> ApproximateRows:
    """Rows that are searched by the engine of their folder."""
    engine = LazyEngine(folder, about, rows.shape[1])
    return ApproximateRows(
        *(ids, rows, engine, about.bias, about.breadth),
        candidates=_CANDIDATES[about.kind],
        is_graph=about.kind == "hnsw",
    )


class LazyEngine:
    """An engine that is opened by the first search; if it cannot be, all rows are candidates."""

    def __init__(self, folder: Path, about: About, dim: int) -> None:
        self.problem: str | None = None
        """Why the engine is not used, once that is known."""
        self._folder, self._about, self._dim = folder, about, dim
        self._engine: Engine | None = None

    def candidates(
        self, query: Floats, count: int, breadth: int, bits: Array | None
    ) -> Ints | None:
        """As `Engine.candidates`; None if there is no usable engine."""
        engine = self.opened()
        return None if engine is None else engine.candidates(query, count, breadth, bits)

    def opened(self) -> Engine | None:
        """The engine; None, with a warning once, if it cannot be used."""
        if self._engine is None and self.problem is None:
            try:
                self._engine = open_engine(self._folder, self._about, self._dim)
            except (OSError, ValueError, RuntimeError, MemoryError, ImportError) as error:
                self.problem = str(error) or type(error).__name__
                if isinstance(error, FileNotFoundError) and not self._folder.exists():
                    return None  # written again by another process, which the next search sees
                warnings.warn(
                    f"The vectors in {self._folder} cannot be searched as they were built "
                    f"({self.problem}); every photo is compared instead, which is slower. Delete "
                    "that folder and run `retrieval index`: it is made again.",
                    IndexWarning,
                    stacklevel=2,
                )
        return self._engine


def open_engine(folder: Path, about: About, dim: int) -> Engine:
    """What FAISS built over the rows of a folder; raises OSError, ValueError or RuntimeError."""
    if about.kind == "hnsw":
        from indexes.vectors.hnsw import open_graph

        return open_graph(folder, about.count, dim)
    from indexes.vectors.ivf import open_lists

    assert about.kind != "exact"
    return open_lists(about.kind, folder, about.count, dim, about.cells)


def _check_engine(folder: Path, about: About, dim: int) -> None:
    """Raise OSError or ValueError if `open_engine` would for what the files hold."""
    if about.kind == "hnsw":
        from indexes.vectors.hnsw import check_graph

        check_graph(folder, about.count, dim)
    elif about.kind != "exact":
        from indexes.vectors.ivf import check_lists

        check_lists(about.kind, folder, about.count, dim, about.cells)


def sync_folder(folder: Path) -> None:
    """Write the files of a folder to disk; raises OSError."""
    for path in folder.iterdir():
        with path.open("rb+") as file:
            os.fsync(file.fileno())


def _check_ids(ids: Any) -> None:
    """Raise ValueError unless the ids ascend from 1 on."""
    last = 0
    for start in range(0, len(ids), _BLOCK_IDS):
        block = ids[start : start + _BLOCK_IDS]
        if block[0] <= last or not (block[1:] > block[:-1]).all():
            raise ValueError("the ids do not ascend")
        last = int(block[-1])
