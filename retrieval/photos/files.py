"""Photo files on disk: open them inside their folder only, hash them, print their names.

Nothing is decoded here, but whatever the system or a decoder raises is turned into a PhotoError
with a short reason.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from blake3 import blake3
from PIL import Image, UnidentifiedImageError

from retrieval.errors import PhotoError

# Reasons that may no longer hold though the file is the same: indexing looks for them.
NO_PERMISSION = "no permission to read it"
UNREADABLE = "cannot be read just now"
TOO_LARGE = "too large"


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
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PhotoError(f"{TOO_LARGE} for Pillow (PIL.Image.MAX_IMAGE_PIXELS)") from error
    except Exception as error:
        # Without a number, the error is from a decoder and not from the system.
        if isinstance(error, OSError) and error.errno is not None:
            raise PhotoError(f"{UNREADABLE} ({error.strerror})") from error
        text = printable(" ".join(str(error).split())[:100])
        reason = "truncated" if "truncated" in text.lower() else "damaged"
        raise PhotoError(f"{reason} ({text})" if text else reason) from error


def real_path(root: Path, path: str) -> Path | None:
    """`path` in `root` with all links followed; None if that leads outside of `root`.

    root: a path without links.
    """
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
    file = real.open("rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise PhotoError("not a regular file")
    return file


def printable(path: Path | str) -> str:
    """A path that any terminal can show, whatever bytes are in its name."""
    text = os.fsencode(path).decode("utf-8", "replace")
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
