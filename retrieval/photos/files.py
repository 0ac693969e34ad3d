"""Photo files on disk: open them inside their folder only, hash them, print their names.

Nothing is decoded here, but whatever the system or a decoder raises is turned into a PhotoError
with a short reason.
"""

import errno
import os
import stat
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from blake3 import blake3
from PIL import Image, UnidentifiedImageError

from indexes.errors import RetrievalError
from indexes.paths import UrlPath
from retrieval.errors import PhotoError

# Reasons that may no longer hold though the file is the same: indexing looks for them.
NO_PERMISSION = "no permission to read it"
UNREADABLE = "cannot be read just now"
TOO_LARGE = "too large"
# What decoders cause when they follow a damaged file to places that it has not; or they have no
# number. A disk that fails has others.
_OF_DECODERS = (
    None,
    errno.EINVAL,
    errno.EOVERFLOW,
    errno.ESPIPE,
    errno.EFBIG,
    errno.EDOM,
    errno.ERANGE,
)
_LARGEST_TIME = (1 << 63) - 1  # nanoseconds that the catalogue can store: until the year 2262


def content_hash(file: BinaryIO) -> str:
    """BLAKE3 of a file's bytes (hex), read in pieces; the file is left at its start."""
    digest = blake3()
    file.seek(0)
    while piece := file.read(1 << 20):
        digest.update(piece)
    file.seek(0)
    return digest.hexdigest()


@contextmanager
def reading() -> Iterator[None]:
    """Turn whatever decoders raise for a bad file into a PhotoError with a short reason.

    Errors of this package pass: those that are not PhotoErrors are not about the file.
    """
    try:
        yield
    except RetrievalError:
        raise
    except UnidentifiedImageError as error:
        raise PhotoError("not a photo that can be read (damaged, encrypted or no image)") from error
    except FileNotFoundError:
        raise
    except PermissionError as error:
        raise PhotoError(NO_PERMISSION) from error
    except MemoryError as error:
        raise PhotoError(f"{TOO_LARGE} for the memory of this machine") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PhotoError(f"{TOO_LARGE} for Pillow (PIL.Image.MAX_IMAGE_PIXELS)") from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno not in _OF_DECODERS:
            raise PhotoError(f"{UNREADABLE} ({error.strerror})") from error
        text = printable(" ".join(str(error).split())[:100])
        reason = "truncated" if "truncated" in text.lower() else "damaged"
        raise PhotoError(f"{reason} ({text})" if text else reason) from error


def real_path(root: Path, path: str) -> Path | None:
    """`path` in `root` with all links followed; None if that leads outside of `root`.

    root: a path without links.
    """
    if isinstance(root, UrlPath):  # it has no links
        return UrlPath(root, path)
    real, folder = os.path.realpath(root / path), str(root)
    inside = real == folder or real.startswith(folder.rstrip(os.sep) + os.sep)
    return Path(real) if inside else None


def open_inside(root: Path, path: str) -> BinaryIO:
    """Open the regular file `path` in `root`, which no link may lead out of.

    Raises PhotoError and OSError.
    """
    real = real_path(root, path)
    if real is None:
        raise PhotoError("a link leads outside the indexed folder")
    return open_regular(real)


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file without following a link at its end, or waiting at a pipe.

    Raises PhotoError and OSError.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags | getattr(os, "O_NOFOLLOW", 0))
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise PhotoError("a link") from error
        raise
    file = os.fdopen(descriptor, "rb")
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        file.close()
        raise PhotoError("not a regular file")
    return file


def mtime_ns(state: os.stat_result) -> int:
    """The time of a file's last change in nanoseconds, no later than the catalogue can store."""
    time = state.st_mtime_ns
    if -_LARGEST_TIME <= time <= _LARGEST_TIME:  # asked of every file
        return time
    return _LARGEST_TIME if time > 0 else -_LARGEST_TIME


def composed(name: str) -> str:
    """A name in Unicode's composed form (NFC), to compare it: systems store and type either form.

    Paths are kept as the file system gives them.
    """
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def as_on_disk(path: Path) -> Path:
    """A path in the Unicode form that its names have on disk; as it is if there is no such file.

    A name that is there as it was typed stays so.
    """
    if str(path).isascii() or os.path.lexists(path):
        return path
    found = Path(path.anchor)
    for part in path.parts[1:] if path.anchor else path.parts:
        names = [part]
        if not os.path.lexists(found / part):
            try:
                names = [n for n in os.listdir(found) if composed(n) == composed(part)]  # noqa: PTH208
            except OSError:
                names = []
        if len(names) != 1:
            return path
        found /= names[0]
    return found


def printable(path: Path | str) -> str:
    """A path that any terminal can show, whatever bytes are in its name."""
    text = os.fsencode(path).decode("utf-8", "replace")
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
