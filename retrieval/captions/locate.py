"""Find the photos of a data set, which its caption file names, in the places where data sets have
them.

No caption is read here. The files of captions themselves are found elsewhere: by `lists` in an
indexed folder, by `retrieval.datasets.locate` in a data set.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from retrieval.captions.names import PHOTO_FOLDERS, Match, PhotoNames, parts_of
from retrieval.captions.rows import inner_path, quoted
from retrieval.errors import DataSetError
from retrieval.photos.walk import LeftOut, walk

_SAMPLE = 50  # photos that are looked for in every place
_MOST_FILES = 500_000  # that are looked through for photos of other names


def is_file(path: Path) -> bool:
    """Whether there is such a file; False for a name that no file can have, or may not be seen."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


@dataclass
class PhotoFolder:
    """The folder of a data set's photos, without links. by_name: whether folders in names are to be
    dropped. Its files are listed once a name is not found as it is."""

    folder: Path
    by_name: bool = False
    _names: PhotoNames | None = field(default=None, repr=False)

    def find(self, name: str) -> Match:
        """The photo that a name means; the path is inside the folder, but may be a link."""
        parts = parts_of(name)[-1:] if self.by_name else parts_of(name)
        if not self.by_name and is_inner(name) and is_file(self.folder / name):
            return Match("/".join(part for part in name.split("/") if part not in ("", ".")), True)
        if parts and is_file(self.folder / "/".join(parts)):
            return Match("/".join(parts), not self.by_name)
        if self._names is None:
            found = walk(self.folder, "", (), True, LeftOut())
            self._names = PhotoNames(dict.fromkeys(f.path for f in islice(found, _MOST_FILES)))
        return self._names.find(name)


def is_inner(name: str) -> bool:
    """Whether a name is a path that stays inside a folder."""
    try:
        return bool(inner_path(name))
    except ValueError:
        return False


def find_photos(file: Path, names: Sequence[str], images: Path | None) -> PhotoFolder:
    """The folder of a caption file's photos.

    names: of the photos, in the caption file; images: the folder, if the user named it. Raises
    DataSetError if no place has any of the photos.
    """
    if images is not None and not images.is_dir():
        raise DataSetError(
            f"There is no folder {images}. Name the folder of the photos with --images."
        )
    above = file.absolute().parent
    roots = [above, above.parent] if above.name == "annotations" else [above]
    places = (
        [images] if images is not None else [r / n for r in roots for n in ("", *PHOTO_FOLDERS)]
    )
    if images is None:
        places += [root / "images" / name for root in roots for name in PHOTO_FOLDERS]
    sample = [parts_of(name) for name in names[:: max(1, len(names) // _SAMPLE)]]
    best, most = (places[0], False), 0
    for place in places:
        for by_name in (False, True):
            paths = ("/".join(parts[-1:] if by_name else parts) for parts in sample if parts)
            count = sum(is_file(place / path) for path in paths) if place.is_dir() else 0
            if count > most:
                best, most = (place, by_name), count
    found = PhotoFolder(best[0].resolve(), best[1])
    if most or not names:
        return found
    for root in [images] if images is not None else roots:
        found = PhotoFolder(root.resolve())
        if any(found.find("/".join(parts)).path for parts in sample if parts):
            return found
    raise DataSetError(
        f"The photos of {file} (such as {quoted(names[0])}) are not "
        f"{f'in {images}' if images is not None else 'beside it'}. Say where they are with "
        "--images DIR."
    )
