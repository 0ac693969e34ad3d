"""The catalogue's table of keys and values: the model, settings and the generation.

What a key means is up to the catalogue, except the generation, which several parts renew.
"""

import secrets
import sqlite3
from dataclasses import dataclass

from indexes.database import Database


@dataclass(frozen=True)
class Meta:
    """The table `meta`. SQLite's errors pass through; the callers explain them."""

    database: Database

    def create_table(self) -> None:
        self.database.db.table("meta").create({"key": str, "value": str}, pk="key")
        self.renew_generation()

    def get(self, key: str, default: str | None = None) -> str:
        """The value of a key; raises sqlite3.DatabaseError if it is missing without a default."""
        row = self.database.conn.execute("SELECT value FROM meta WHERE key = ?", [key]).fetchone()
        if row is None and default is None:
            raise sqlite3.DatabaseError(f"its entry '{key}' is missing")
        return str(row[0]) if row else str(default)

    def put(self, key: str, value: str) -> None:
        self.database.db.table("meta").upsert({"key": key, "value": value}, pk="key")

    def generation(self) -> str:
        """A token that changes whenever searchable embeddings are removed or replaced."""
        token = self.get("generation")
        if not token.isalnum():
            raise sqlite3.DatabaseError("its generation makes no sense")
        return token

    def renew_generation(self) -> None:
        """Record that a searchable embedding was removed or replaced."""
        self.put("generation", secrets.token_hex(8))
