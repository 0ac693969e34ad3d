"""Where the photos of imported embeddings are: paths of another machine, found in a folder here.

Without a folder nothing on disk is looked at. A path never leaves the folder, and links are not
followed; what is not there keeps its path as the table has it, made relative.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from indexes.regular_files import is_regular
from retrieval.errors import PhotoError
from retrieval.photos.exif import PhotoFacts, read_facts
from retrieval.photos.files import content_hash, mtime_ns, open_inside, reading, real_path
from retrieval.photos.open_image import is_plain, open_image
from retrieval.photos.size import check_size, default_max_megapixels
from retrieval.photos.walk import PHOTO_SUFFIXES, is_raw

_WINDOWS = re.compile(r"^[A-Za-z]:[\\/]")
_KEY_ENDINGS = ("jpg", "jpeg", "png", "webp")  # of a photo that a table calls by its bare name
_MOST_MISSES = 2000  # photos in a row whose place is guessed in vain


@dataclass(frozen=True)
class Content:
    """A photo file that is at hand. facts: None if its header was not read."""

    bytes: int
    mtime_ns: int
    hash: str
    facts: PhotoFacts | None


class Places:
    """Finds paths of a table in `folder`, a path without links; None to look for nothing.

    What had to be cut from one absolute path is tried first on the next: folders move whole.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._cut: tuple[str, ...] = ()
        self._misses = 0

    @property
    def looks(self) -> bool:
        """Whether photos are looked for at all."""
        return self._folder is not None

    def find(self, text: str) -> tuple[str, bool]:
        """The path inside the folder, '' for none, and whether a photo file is there."""
        parts = self._parts(text)
        if self._folder is None or not parts:
            return "/".join(parts), False
        direct = "/".join(parts)
        if found := self._existing(direct):
            return found, True
        cut = len(self._cut)
        if cut and parts[:cut] == self._cut and (found := self._existing("/".join(parts[cut:]))):
            return found, True
        if self._misses < _MOST_MISSES:
            for start in range(1, len(parts)):
                if found := self._existing("/".join(parts[start:])):
                    self._cut, self._misses = parts[:start], 0
                    return found, True
            self._misses += 1
        return direct, False

    def _parts(self, text: str) -> tuple[str, ...]:
        """A path as names from the folder on; what leads upwards is left out."""
        if _WINDOWS.match(text) or ("\\" in text and "/" not in text):
            text = text.replace("\\", "/")
            text = text[2:] if text[1:2] == ":" else text
        if self._folder is not None and text.startswith("/"):
            path = Path(os.path.normpath(text))
            if path.is_relative_to(self._folder):
                text = path.relative_to(self._folder).as_posix()
        names: list[str] = []
        for name in text.split("/"):
            if name == "..":
                del names[-1:]
            elif name not in ("", "."):
                names.append(name)
        return tuple(names)

    def _existing(self, inside: str) -> str | None:
        """The path of the photo file that is meant by `inside`; None if there is none."""
        assert self._folder is not None
        ending = PurePosixPath(inside).suffix[1:].lower()
        known = ending in PHOTO_SUFFIXES or is_raw(inside)
        for name in (inside,) if known else (f"{inside}.{e}" for e in _KEY_ENDINGS):
            path = self._folder / name
            if is_regular(path) and real_path(self._folder, name) == path:
                return name
        return None


def read_content(folder: Path, path: str) -> Content | None:
    """What identifies a photo file, and its facts if they are cheap; None if it cannot be read."""
    facts = None
    try:
        with open_inside(folder, path) as file:
            state = os.fstat(file.fileno())
            digest = content_hash(file)
            if is_plain(file):
                try:
                    with reading(), open_image(file) as image:
                        check_size(image.size, default_max_megapixels(1))
                        facts = read_facts(image)
                except PhotoError:
                    pass  # the embedding tells that it was a photo to somebody
        return Content(state.st_size, mtime_ns(state), digest, facts) if state.st_size else None
    except (OSError, PhotoError):
        return None
