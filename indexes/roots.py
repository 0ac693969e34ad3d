"""The indexed folders in the catalogue: each is a root, to which the paths of files are relative.

Only SQL lives here; whether a folder is still there is for the index to find out.
"""

import os
from dataclasses import dataclass
from typing import cast

from indexes.database import Database, guarded
from indexes.paths import to_sql
from indexes.rows import ID, PATH, Columns

_ROOT = Columns("roots", {"id": ID, "relative": PATH, "absolute": PATH})


@dataclass(frozen=True)
class Roots:
    """The table `roots`."""

    database: Database

    def create_table(self) -> None:
        self.database.db.table("roots").create(
            {"id": int, "relative": str, "absolute": str}, pk="id"
        )

    @guarded
    def all(self) -> list[tuple[int, str, str]]:
        """(id, path relative to the index, absolute path) of every indexed folder."""
        rows = self.database.conn.execute(
            "SELECT id, relative, absolute FROM roots ORDER BY id"
        ).fetchall()
        return [
            (i, os.fsdecode(relative), os.fsdecode(absolute))
            for i, relative, absolute in map(_ROOT.checked, rows)
        ]

    @guarded
    def put(self, relative: str, absolute: str, root_id: int | None = None) -> int:
        """Add a folder, or record where a known one is now; returns its id."""
        row = {"relative": to_sql(relative), "absolute": to_sql(absolute)}
        roots = self.database.db.table("roots")
        with self.database.transaction():
            if root_id is None:
                return cast(int, roots.insert(row).last_pk)
            roots.update(root_id, row)
            return root_id

    @guarded
    def delete(self, root_id: int) -> None:
        """Remove a folder that nothing refers to any more."""
        with self.database.transaction():
            self.database.conn.execute("DELETE FROM roots WHERE id = ?", [root_id])
