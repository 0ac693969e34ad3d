"""The kinds of vectors that an index can have, built over rows alone, without a catalogue.

`retrieval benchmark recall` measures what they find of any rows; `retrieval benchmark search`
measures them in a whole index.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from indexes.arrays import Floats, Ints
from indexes.vectors.build import Plan, build
from indexes.vectors.store import KINDS, About, Kind, Stored
from retrieval.errors import QueryError

__all__ = ["KINDS", "check", "setting_name", "written"]

_BLOCK = 1 << 16


def check(names: Sequence[str]) -> None:
    """Raise QueryError for a kind that is unknown."""
    if unknown := [name for name in names if name not in KINDS]:
        raise QueryError(f"There is no index type '{unknown[0]}'. Choose from: {', '.join(KINDS)}.")


def setting_name(about: About) -> str:
    """What an approximate kind looks at, as FAISS names it: 'nprobe 32'; '' for the exact one."""
    if about.kind == "exact":
        return ""
    return f"{'efSearch' if about.kind == 'hnsw' else 'nprobe'} {about.breadth}"


@contextmanager
def written(
    kind: Kind, rows: Floats, queries: Floats, plan: Plan | None = None
) -> Iterator[Stored]:
    """Rows, float32 [n, dim], as the vectors of an index would be: their ids are 1 to n.

    queries: find the setting of an approximate kind, float32 [m, dim], m ≥ 2.
    """

    def blocks() -> Iterator[tuple[Ints, Floats]]:
        for start in range(0, len(rows), _BLOCK):
            some = rows[start : start + _BLOCK]
            yield np.arange(start, start + len(some)) + 1, some

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "vectors"
        plan = Plan(queries=queries) if plan is None else plan
        yield build(folder, blocks(), len(rows), rows.shape[1], 0, plan, kind)
