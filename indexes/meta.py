"""The catalogue's table of keys and values: the model, settings and the generation.

What a key means is up to the catalogue, except the generation, which several parts renew.
"""

import secrets
from dataclasses import dataclass

from indexes.database import Database
from indexes.rows import TEXT, Columns, RowError

_ENTRY = Columns("meta", {"key": TEXT, "value": TEXT})
_MOST_TOKEN = 64  # characters; the token is a part of file names


@dataclass(frozen=True)
class Meta:
    """The table `meta`. SQLite's errors pass through; the callers explain them."""

    database: Database

    def create_table(self) -> None:
        self.database.db.table("meta").create({"key": str, "value": str}, pk="key")
        self.renew_generation()

    def get(self, key: str, default: str | None = None) -> str:
        """The value of a key; raises RowError if it is missing without a default."""
        row = self.database.conn.execute(
            "SELECT key, value FROM meta WHERE key = ?", [key]
        ).fetchone()
        if row is None and default is None:
            raise RowError(f"meta: its entry {key!r} is missing")
        return str(_ENTRY.checked(row)[1]) if row else str(default)

    def put(self, key: str, value: str) -> None:
        self.database.db.table("meta").upsert({"key": key, "value": value}, pk="key")

    def generation(self) -> str:
        """A token that no other catalogue has."""
        token = self.get("generation")
        if not is_token(token):
            raise RowError("meta: the generation makes no sense")
        return token

    def renew_generation(self) -> None:
        """Give the catalogue a new token."""
        self.put("generation", secrets.token_hex(8))


def is_token(value: object) -> bool:
    """Whether a value may be a generation."""
    return (
        isinstance(value, str) and value.isascii() and value.isalnum() and len(value) <= _MOST_TOKEN
    )
