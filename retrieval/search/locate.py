"""Find files of an index by the paths that people type: from here or from an indexed folder, and in
either Unicode form.

macOS stores names decomposed and keyboards type them composed, or the other way round; the
catalogue has them as the file system gave them. Only the catalogue is asked; a disk may be away.
"""

import os
import unicodedata
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from indexes.index import Index
from indexes.paths import as_path
from retrieval.photos.files import composed

Place = tuple[int, str]
"""The id of a root and a path in it, as the catalogue has it; '' for the root itself."""


def find_places(index: Index, path: Path) -> list[Place]:
    """The files or folders of the index that a path means, from here or else from its folders.

    There may be several: both forms of a name can be on one disk.
    """
    return find_from_here(index, path) or find_from_roots(index, path)


def find_from_here(index: Index, path: Path) -> list[Place]:
    """The files or folders of the index that a path on this machine means."""
    readings = []
    located = index.locate(path)
    if located is not None:
        readings.append((located[0].id, located[1]))
    named = as_path(composed(os.path.normpath(as_path(path).absolute())))  # links are not followed
    for root in index.roots():
        inside = replace(root, path=as_path(composed(str(root.path)))).inside(named)
        if inside is not None:
            readings.append((root.id, inside))
    return _first(index, readings)


def find_from_roots(index: Index, path: Path) -> list[Place]:
    """The files or folders that a relative path means in the first indexed folder that has any."""
    if path.is_absolute():
        return []
    return _first(index, [(root.id, path.as_posix()) for root in index.roots()])


def _first(index: Index, readings: Iterable[Place]) -> list[Place]:
    spelled = (_spellings(index, root_id, path) for root_id, path in readings)
    return next((places for places in spelled if places), [])


def _spellings(index: Index, root_id: int, path: str) -> list[Place]:
    """The path as the catalogue has it, in all forms that it has."""
    any_below = index.catalogue.files.any_below
    found = [""]
    for part in [path] if path.isascii() else path.split("/"):
        forms = {part, composed(part), unicodedata.normalize("NFD", part)}
        paths = {f"{folder}/{form}" if folder else form for folder in found for form in forms}
        known = [path for path in sorted(paths) if any_below(root_id, path)]
        found = known or [
            path for folder in found for path in _same_names(index, root_id, folder, part)
        ]
    return [(root_id, path) for path in found if any_below(root_id, path)]


def _same_names(index: Index, root_id: int, folder: str, name: str) -> set[str]:
    """What a folder has under a name in any form, even a mixed one: all of its files are read."""
    start = f"{folder}/" if folder else ""
    paths = index.catalogue.files.below(root_id, folder)
    found = {path[len(start) :].partition("/")[0] for path in paths if path.startswith(start)}
    return {f"{start}{other}" for other in found if composed(other) == composed(name)}
