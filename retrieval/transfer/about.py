"""`index.json`, which an export writes beside the embeddings: the model that made them.

A stranger may have written the file: it is of bounded size, and names no file that is opened.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from indexes.regular_files import read_regular
from retrieval.errors import DataSetError
from retrieval.photos.files import printable

NAME = "index.json"
_MOST_BYTES = 1 << 16


@dataclass(frozen=True)
class About:
    """How exported embeddings were computed: model, a hash of its weights, dimension, photos."""

    model: str
    fingerprint: str
    dim: int
    photos: int


def write_about(folder: Path, about: About) -> None:
    (folder / NAME).write_text(json.dumps(asdict(about), indent=2) + "\n", "utf-8")


def read_about(folder: Path) -> About | None:
    """What an export says of itself; None if the folder is none. Raises DataSetError."""
    if not (folder / NAME).exists():
        return None
    try:
        value = json.loads(read_regular(folder / NAME, _MOST_BYTES))
        about = About(value["model"], value["fingerprint"], value["dim"], value["photos"])
        if not all(isinstance(text, str) for text in (about.model, about.fingerprint)):
            raise ValueError
        if type(about.dim) is not int or type(about.photos) is not int:
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise DataSetError(
            f"{printable(folder / NAME)} does not say which model made the embeddings. Remove it, "
            "and name the model with --model."
        ) from None
    return about
