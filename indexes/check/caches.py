"""The stored vectors of an index against its catalogue: rows, biases, and what FAISS built.

They can be lost at any time, so a repair deletes them. The vectors are written again at once, the
biases by the next search.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from indexes.arrays import Floats
from indexes.catalogue import Catalogue
from indexes.check.report import Problem, Progress
from indexes.regular_files import delete_tree
from indexes.vector_files import caches, readable_folders
from indexes.vectors import flat
from indexes.vectors.arrays_on_disk import map_array
from indexes.vectors.store import Stored, open_stored

_MOST_APART = 2e-3  # of two numbers of a unit vector, one of them rounded to float16 again
_TRIED, _FOUND = 100, 0.9  # photos that are searched for by their own vectors; the share to find


def cache_files(folder: Path, catalogue: Catalogue) -> list[Path]:
    """The folders of vectors that searches may read; the next run deletes others."""
    return [path for _, path in readable_folders(folder, catalogue)]


def check_caches(catalogue: Catalogue, dim: int, progress: Progress) -> Iterator[Problem]:
    """The vectors and biases of the present generation. dim: the length of an embedding."""
    for path in cache_files(catalogue.database.folder, catalogue):
        for wrong in _wrong_with(path, catalogue, dim, progress):
            yield Problem(f"The vectors in {path.name} {wrong}.", delete_caches)


def _wrong_with(path: Path, catalogue: Catalogue, dim: int, progress: Progress) -> Iterator[str]:
    try:
        stored = open_stored(path, dim, catalogue.database.most_cache_bytes())
    except (OSError, ValueError) as error:
        if path.exists() or path.is_symlink():  # else another process has written them again
            yield f"are damaged ({error})"
        return
    found = _wrong_rows(stored, catalogue, dim, progress)
    if found is not None:
        yield found
        return
    for file in sorted(path.glob("bias-*.npy")):
        try:
            sound = bool(np.isfinite(map_array(file, [np.float32], (len(stored.rows),))).all())
        except (OSError, ValueError):
            sound = False
        if not sound:
            yield f"have biases that are damaged ({file.name})"
    if not stored.is_usable() or not _finds_itself(stored):
        yield "cannot be searched as they were built"


def _wrong_rows(stored: Stored, catalogue: Catalogue, dim: int, progress: Progress) -> str | None:
    """How stored rows differ from the embeddings of the catalogue; None if they do not.

    They may lack newer photos, and have some that changed since: searches know.
    """
    rows, seen = stored.rows, 0
    changed = catalogue.changes.since(stored.about.changes)
    for ids, vectors in catalogue.embeddings.searchable_batches(dim):
        positions = rows.positions(ids)
        here = (positions >= 0) & ~np.isin(ids, changed)
        if not _are_near(rows.at(positions[here]), vectors[here]):
            return "differ from those of the catalogue"
        known = ids <= (rows.ids[-1] if len(rows) else 0)
        if (positions[known & ~np.isin(ids, changed)] < 0).any():
            return "lack photos of the catalogue"
        seen += int(here.sum())
        progress(stored.folder.name, seen, len(rows))
    if seen + int((rows.positions(changed) >= 0).sum()) != len(rows):
        return "have photos that the catalogue does not have"
    return None


def _are_near(one: Floats, other: Floats) -> bool:
    return bool((np.abs(one - other) <= _MOST_APART).all())  # NaN is not near


def _finds_itself(stored: Stored) -> bool:
    """Whether photos are found by their own vectors: whether FAISS's lists are of these rows."""
    if stored.about.kind == "exact" or not len(stored.rows):
        return True
    tried = np.linspace(0, len(stored.rows) - 1, _TRIED).astype(np.int64)
    found = [
        int(stored.rows.ids[at]) in flat.search([stored.rows], stored.rows.at(at), 10)[0]
        for at in tried
    ]
    return float(np.mean(found)) >= _FOUND


def delete_caches(catalogue: Catalogue) -> str:
    """Delete all stored vectors, of every generation."""
    for path in caches(catalogue.database.folder):
        with suppress(OSError):
            delete_tree(path)
    return "The stored vectors were deleted: they are written again now, biases by the next search."
