"""Which folder of vectors belongs to a version of the catalogue, and when one is written.

A folder is named by the generation of the catalogue, the number of the last change that it knows
and a serial number. It serves every version from there on, until too much has changed.
"""

import re
from contextlib import suppress
from pathlib import Path

from indexes.catalogue import Catalogue
from indexes.errors import StorageError
from indexes.regular_files import delete_tree
from indexes.vectors.build import CHOICES, Before, Choice, Plan, build, wanted_kind
from indexes.vectors.store import Kind, Stored, open_stored

# Folders of vectors, and what earlier versions wrote.
CACHES = ("vectors-*", "bias-*")
# The vectors may lack this many newer photos before they are written again: rewriting all for a few
# costs more than adding what is missing to each search.
_MOST_NEWER, _MOST_NEWER_SHARE = 256, 0.01
# Up to this many photos, any change rewrites all: it takes a moment, and biases that are measured
# by captions of the index are then always those of its present captions.
_SMALL = 20_000
_NAME = re.compile(r"vectors-[0-9a-zA-Z]+-([0-9]{1,16})-([0-9]{1,9})")


class VectorFiles:
    """The folders of vectors of an index. What is open stays open for later versions."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: Stored | None = None

    def open(self, catalogue: Catalogue, dim: int) -> Stored | None:
        """The vectors that serve this version, None if there are none."""
        for number, path in readable_folders(self._folder, catalogue):
            if self._open is not None and self._open.folder == path:
                return self._open
            with suppress(OSError, ValueError):
                stored = open_stored(path, dim, catalogue.database.most_cache_bytes())
                if stored.about.changes == number:
                    self._open = stored
                    return stored
        return None

    def write_exact(self, catalogue: Catalogue, dim: int) -> Stored | None:
        """Write the vectors of this version, as a search needs them that finds none.

        None if there are none, or they cannot be written: the search is only slower then.
        """
        with suppress(OSError, RuntimeError, ValueError, MemoryError):
            return self._build(catalogue, dim, Plan(), "exact")
        return None

    def rewrite(self, catalogue: Catalogue, dim: int, plan: Plan) -> None:
        """Write the vectors of this version and delete older ones; raises StorageError.

        The caller holds the lock of the index.
        """
        before, stored = None, self.open(catalogue, dim)
        if stored is not None:
            before = Before(stored, catalogue.changes.since(stored.about.changes))
        count = catalogue.embeddings.count()
        kind: Kind = "exact"
        if plan.queries is not None:
            was = None if stored is None else stored.about.kind
            kind = wanted_kind(choice_of(catalogue), count, dim, was)
        try:
            stored = self._build(catalogue, dim, plan, kind, before)
        except (OSError, RuntimeError, MemoryError, ValueError) as error:
            raise StorageError(
                f"The vectors could not be written to {self._folder} ({error}). The photos are "
                "safe in the catalogue; make room and run `retrieval index` again."
            ) from error
        if stored is not None:
            catalogue.changes.trim(stored.about.changes)

    def _build(
        self,
        catalogue: Catalogue,
        dim: int,
        plan: Plan,
        kind: Kind,
        before: Before | None = None,
    ) -> Stored | None:
        count = catalogue.embeddings.count()
        if not count:
            return None
        number, generation = catalogue.changes.last(), catalogue.generation()
        serial = 1 + max((s for _, s, _ in _folders(self._folder, generation)), default=0)
        path = self._folder / f"vectors-{generation}-{number}-{serial}"
        self._open = None
        self._open = build(
            *(path, catalogue.embeddings.verified_batches(dim), count, dim, number, plan, kind),
            before,
        )
        return self._open

    def delete_old(self) -> None:
        """Delete folders that are no longer read, and what killed processes left."""
        used = None if self._open is None else self._open.folder
        for path in caches(self._folder):
            if path != used:
                with suppress(OSError):
                    delete_tree(path)

    def is_outdated(self, stored: Stored, newer: int, changes: int) -> bool:
        """Whether the vectors lack so much that they should be written again.

        newer: how many rows they lack; changes: how many photos changed since.
        """
        count = len(stored.rows)
        if changes and count <= _SMALL:
            return True
        return newer + changes > _MOST_NEWER + count * _MOST_NEWER_SHARE

    def is_other_kind(self, catalogue: Catalogue, stored: Stored) -> bool:
        """Whether another kind is wanted than the stored one, or it cannot be used."""
        about, rows = stored.about, stored.rows
        kind = wanted_kind(choice_of(catalogue), len(rows), rows.dim, about.kind)
        return kind != about.kind or not stored.is_usable()


def readable_folders(folder: Path, catalogue: Catalogue) -> list[tuple[int, Path]]:
    """The folders of vectors that may serve this version, with their numbers, the newest first.

    Others have changes that are no longer listed, or are of a later version.
    """
    first, last = catalogue.changes.trimmed(), catalogue.changes.last()
    found = _folders(folder, catalogue.generation())
    return [(number, path) for number, _, path in found if first <= number <= last]


def _folders(folder: Path, generation: str) -> list[tuple[int, int, Path]]:
    """The folders of a generation with their two numbers, the newest first."""
    found = []
    for path in folder.glob(f"vectors-{generation}-*"):
        match = _NAME.fullmatch(path.name)
        if match:
            found.append((int(match[1]), int(match[2]), path))
    return sorted(found, reverse=True)


def caches(folder: Path) -> list[Path]:
    """What is in the folder of an index and can be made again from the catalogue."""
    return [path for pattern in CACHES for path in folder.glob(pattern)]


def choice_of(catalogue: Catalogue) -> Choice:
    """The kind that the user chose, 'auto' if none."""
    text = catalogue.setting("vectors", "auto")
    return next((choice for choice in CHOICES if choice == text), "auto")


def set_choice(catalogue: Catalogue, choice: Choice) -> None:
    """Record which kind of vectors the user wants."""
    catalogue.set_setting("vectors", choice)
