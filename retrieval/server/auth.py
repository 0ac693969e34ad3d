"""The token of a server: printed once, kept as a hash, compared in constant time.

A program sends it as `Authorization: Bearer TOKEN`. A browser sends it once, in the address or the
form, and then has it in a cookie that no script can read and no other site can send.
"""

import hashlib
import hmac
import json
import secrets
from pathlib import Path

from indexes.atomic_write import atomic_write
from indexes.errors import StorageError
from indexes.regular_files import read_regular

COOKIE = "retrieval"
_FILE = "server-token.json"
_MOST_BYTES = 1000
_MOST_TOKEN = 200  # characters


class Tokens:
    """Checks tokens against a hash; `digest` is SHA-256 of a random token, in hexadecimal digits.

    A token has 256 random bits, so that a plain hash cannot be searched.
    """

    def __init__(self, digest: str) -> None:
        self._digest = digest

    def fits(self, token: str | None) -> bool:
        """Whether a token is the right one; takes the same time for every wrong one."""
        if not token or len(token) > _MOST_TOKEN:
            return False
        return hmac.compare_digest(_hash(token), self._digest)


def make_or_load(folder: Path, new: bool) -> tuple[Tokens, str | None]:
    """The token of this user: its check and, if it is made now, the token itself.

    folder: the user's data folder; new: replace the one that there is. Raises StorageError.
    """
    file = folder / _FILE
    digest = None if new else _read(file)
    if digest is not None:
        return Tokens(digest), None
    token = secrets.token_urlsafe(32)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as temporary:
            temporary.chmod(0o600)
            temporary.write_text(json.dumps({"sha256": _hash(token)}), "ascii")
    except OSError as error:
        raise StorageError(
            f"The token cannot be kept: {file} cannot be written ({error.strerror}). Check the "
            "permissions of the folder, then run the same command again."
        ) from error
    return Tokens(_hash(token)), token


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def _read(file: Path) -> str | None:
    try:
        digest = json.loads(read_regular(file, _MOST_BYTES))["sha256"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    whole = isinstance(digest, str) and len(digest) == 64
    return digest if whole and set(digest) <= set("0123456789abcdef") else None
