"""Photo files on disk: opened only inside their folder, hashed, their names made printable.

Nothing is decoded here. Whatever the system or a decoder raises becomes a PhotoError with a short
reason.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from blake3 import blake3
from PIL import (  # noqa: F401
    AvifImagePlugin,
    ExifTags,
    Image,
    ImageOps,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from retrieval.errors import PhotoError

# Reasons that can pass without the file changing: the index looks for them.
NO_PERMISSION = "no permission to read it"
UNREADABLE = "cannot be read just now"
TOO_LARGE = "too large"


def content_hash(file: BinaryIO) -> str:
    """BLAKE3 of a file's bytes (hex), read in pieces."""
    digest = blake3()
    file.seek(0)
    while piece := file.read(1 << 20):
        digest.update(piece)
    file.seek(0)
    return digest.hexdigest()


@contextmanager
def reading() -> Iterator[None]:
    """Turn whatever decoders raise for a bad file into a PhotoError with a short reason."""
    try:
        yield
    except PhotoError:
        raise
    except UnidentifiedImageError as error:
        raise PhotoError("not a photo that can be read (damaged, encrypted or no image)") from error
    except FileNotFoundError:
        raise
    except PermissionError as error:
        raise PhotoError(NO_PERMISSION) from error
    except MemoryError as error:
        raise PhotoError(f"{TOO_LARGE} for the memory of this machine") from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:  # the system's, not a decoder's
            raise PhotoError(f"{UNREADABLE} ({error.strerror})") from error
        text = printable(" ".join(str(error).split())[:100])
        what = "truncated" if "truncated" in text.lower() else "damaged"
        raise PhotoError(f"{what} ({text})" if text else what) from error


def real_path(root: Path, path: str) -> Path | None:
    """Where `path` in `root` (itself without links) really is; None if that is outside."""
    real, place = os.path.realpath(root / path), str(root)
    inside = real == place or real.startswith(place.rstrip(os.sep) + os.sep)
    return Path(real) if inside else None


def open_inside(root: Path, path: str) -> BinaryIO:
    """Open the regular file `path` in `root`, and nothing that a link puts outside of it."""
    real = real_path(root, path)
    if real is None:
        raise PhotoError("a link leads outside the indexed folder")
    file = real.open("rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise PhotoError("not a regular file")
    return file


def printable(path: Path | str) -> str:
    """A path that any terminal can show, whatever bytes are in its name."""
    text = os.fsencode(path).decode("utf-8", "replace")
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
