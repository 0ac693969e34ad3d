"""The indexed folders of an index: where they are now, and which of them holds a path.

The catalogue stores them; whether a folder is there is found out here.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from indexes.catalogue import Catalogue
from indexes.paths import as_path, is_folder


@dataclass(frozen=True)
class Root:
    """An indexed folder: its id in the catalogue and where it is now."""

    id: int
    path: Path

    def inside(self, path: Path) -> str | None:
        """An absolute path as one in this folder, '' for the folder itself; None if outside."""
        if not path.is_relative_to(self.path):
            return None
        inside = path.relative_to(self.path).as_posix()
        return "" if inside == "." else inside


class IndexRoots:
    """The part of an index that knows its folders. folder: of the index itself."""

    def __init__(self, folder: Path, catalogue: Catalogue) -> None:
        self.folder = folder
        self.catalogue = catalogue

    def roots(self) -> list[Root]:
        """The indexed folders, where they are now, as paths without links.

        A folder that moved together with its index is found by its path relative to the index, one
        that stayed while the index moved by its absolute path.
        """
        found = []
        for root_id, relative, absolute in self.catalogue.roots.all():
            moved = (self.folder.resolve() / relative).resolve()
            path = moved if relative and is_folder(moved) else Path(absolute).resolve()
            found.append(Root(root_id, path))
        return found

    def is_unavailable(self, root: Root) -> bool:
        """Whether a folder is missing, or is as empty as the mount point of a missing disk."""
        if not is_folder(root.path):
            return True
        index = self.folder.resolve()
        return not any(path.resolve() != index for path in root.path.iterdir())

    def add_root(self, folder: Path) -> tuple[Root, str]:
        """Make `folder` a part of the index; returns its root and the path inside that root.

        A folder inside a root stays a part of it; roots inside the folder become a part of it.
        """
        folder = folder.resolve()
        roots = self.roots()
        for root in roots:
            inside = root.inside(folder)
            if inside is not None:
                self._put_root(root.path, self.folder, root.id)
                return root, inside
        with self.catalogue.transaction():
            new = Root(self._put_root(folder, self.folder), folder)
            for root in roots:
                if root.path.is_relative_to(folder):
                    prefix = root.path.relative_to(folder).as_posix()
                    self.catalogue.merge_root(root.id, new.id, prefix)
        return new, ""

    def prepare_move(self, folder: Path) -> None:
        """Store where the roots are seen from `folder`, to which the index is about to move."""
        for root in self.roots():
            self._put_root(root.path, folder, root.id)

    def _put_root(self, path: Path, index: Path, root_id: int | None = None) -> int:
        try:
            relative = os.path.relpath(path, index.resolve())
        except ValueError:  # another drive, on Windows
            relative = ""
        if root_id is not None and (root_id, relative, str(path)) in self.catalogue.roots.all():
            return root_id  # most runs find it as it was
        return self.catalogue.roots.put(relative, str(path), root_id)

    def locate(self, path: Path) -> tuple[Root, str] | None:
        """The root that holds `path` and the path inside it; None outside every root."""
        absolute, roots = as_path(path).absolute(), self.roots()
        for candidate in (as_path(os.path.normpath(absolute)), absolute.resolve()):
            for root in roots:
                inside = root.inside(candidate)
                if inside is not None:
                    return root, inside
        return None
