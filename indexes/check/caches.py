"""The cache files of an index against its catalogue: vectors and biases.

They can be lost at any time, so a repair deletes them. The vectors are written again at once, the
biases by the next search.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from indexes import biases, vectors
from indexes.arrays import Floats, Ints
from indexes.catalogue import Catalogue
from indexes.check.report import Problem, Progress
from indexes.regular_files import delete_file, is_regular
from indexes.snapshot import CACHE_FILES

_MOST_APART = 1e-4  # of two numbers of a unit vector, one of them rounded again


def cache_files(folder: Path, catalogue: Catalogue) -> list[Path]:
    """The cache files of the present generation; those of others are never read."""
    generation = catalogue.generation()
    return sorted(
        path
        for pattern in CACHE_FILES
        for path in folder.glob(pattern)
        if path.stem.endswith(f"-{generation}")
    )


def check_caches(catalogue: Catalogue, dim: int, progress: Progress) -> Iterator[Problem]:
    """The vectors and biases of the present generation. dim: the length of an embedding."""
    folder = catalogue.database.folder
    files = cache_files(folder, catalogue)
    ids = _ids(catalogue)
    for path in files:
        if not is_regular(path):
            wrong: str | None = "is a link, folder or pipe"
        elif path.suffix == ".bin":
            wrong = _wrong_with_biases(path, ids, catalogue.database.most_cache_bytes())
        else:
            wrong = _wrong_with_vectors(path, catalogue, dim, progress)
        if wrong:
            yield Problem(f"The cache file {path.name} {wrong}.", delete_caches)


def _wrong_with_vectors(
    path: Path, catalogue: Catalogue, dim: int, progress: Progress
) -> str | None:
    """How a file of vectors differs from the embeddings of the catalogue; None if it does not.

    It may lack newer photos, which searches add.
    """
    part = vectors.load(path, dim, catalogue.database.most_cache_bytes())
    if part is None:
        return "is damaged"
    done = 0
    for ids, rows in catalogue.embeddings.searchable_batches(dim):
        count = min(len(ids), len(part) - done)
        where = slice(done, done + count)
        if not np.array_equal(part.ids[where], ids[:count]):
            return "has other photos than the catalogue"
        if not _are_near(part.rows[where], rows[:count]):
            return "has other vectors than the catalogue"
        done += count
        progress(path.name, done, len(part))
        if done == len(part):
            return None
    return None if done == len(part) else "has photos that the catalogue does not have"


def _are_near(one: Floats, other: Floats) -> bool:
    return bool((np.abs(np.array(one) - other) <= _MOST_APART).all())  # NaN is not near


def _wrong_with_biases(path: Path, ids: Ints, most_bytes: int) -> str | None:
    """How a file of biases differs from the photos of the catalogue; None if it does not."""
    stored = biases.load(path, most_bytes)
    if not len(stored.ids):
        return "is damaged" if len(ids) else None
    return (
        None
        if np.array_equal(stored.ids, ids[: len(stored.ids)])
        else "has other photos than the catalogue"
    )


def _ids(catalogue: Catalogue) -> Ints:
    rows = catalogue.database.conn.execute("SELECT photo_id FROM embeddings ORDER BY photo_id")
    return np.fromiter((i for (i,) in rows), np.int64)


def delete_caches(catalogue: Catalogue) -> str:
    """Delete all cache files, of every generation."""
    for pattern in CACHE_FILES:
        for path in catalogue.database.folder.glob(f"{pattern}*"):
            with suppress(OSError):
                delete_file(path)
    return "The cache files were deleted: vectors are written again now, biases by the next search."
