"""Captions of the photos in a folder, read from files beside them when the folder is indexed.

Files that belong to one photo are read by `photo_sidecars`. Lists of captions (`captions.jsonl`,
CSV) are looked for in its folder and those above, up to the indexed folder, and one above that if
the indexed folder is the `images` of a data set; lists elsewhere are named by the user. No file is
trusted: sizes are bounded, links are not followed out of the folder, and control characters are
dropped. Captions inside photo files: see `metadata`.
"""

from collections import defaultdict
from collections.abc import Collection, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from indexes.captions import Caption
from retrieval.captions.formats import LONGEST_CAPTION, Problem, Row, read_rows
from retrieval.captions.locate import find_photos, is_file
from retrieval.captions.photo_sidecars import Sidecar, read_sidecars
from retrieval.photos.files import real_path

LISTS = ("captions.jsonl", "metadata.jsonl", "captions.csv", "captions.txt")
_IMAGES = ("images", "Images")  # data sets have their captions in the folder above these
_MAX_CAPTIONS = 50  # of one photo


@dataclass
class ReadCaptions:
    """The captions of photos, and sentences about files that could not be read.

    sidecars: the files beside each photo that tell when or where it was taken, by path.
    """

    captions: list[Caption] = field(default_factory=list)
    sidecars: dict[str, list[Sidecar]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_captions(root: Path, photos: Iterable[str], lists: Sequence[Path] = ()) -> ReadCaptions:
    """The captions of `photos`, paths in an indexed folder, in their order.

    root: the folder, without links; lists: more files of captions, which name photos by their path
    in the folder or by their name alone. Never raises for what is wrong with a file.
    """
    result = ReadCaptions()
    paths = dict.fromkeys(photos)
    by_folder: defaultdict[str, list[str]] = defaultdict(list)
    for path in paths:
        by_folder[path.rpartition("/")[0]].append(path)
    captions: defaultdict[str, list[Caption]] = defaultdict(list)
    unreadable: list[str] = []
    for folder, inside in by_folder.items():
        for sidecar in read_sidecars(root, folder, inside, unreadable):
            captions[sidecar.photo] += [
                Caption(sidecar.photo, sidecar.origin, text)
                for text in filter(None, map(clean, sidecar.texts))
            ]
            if sidecar.dates or sidecar.place:
                result.sidecars.setdefault(sidecar.photo, []).append(sidecar)
    for file, origin in _find_lists(root, by_folder):
        for caption in _read_found_list(file, origin, root, paths, result.notes):
            captions[caption.path].append(caption)
    for file in lists:
        for caption in _read_named_list(file, paths, result.notes):
            captions[caption.path].append(caption)
    for path in paths:
        unique = {caption.text: caption for caption in reversed(captions.get(path, ()))}
        result.captions += list(reversed(unique.values()))[:_MAX_CAPTIONS]
    if unreadable:
        result.notes.append(
            f"{len(unreadable)} file(s) beside photos could not be read as captions, the first "
            f"{unreadable[0]}."
        )
    return result


def clean(text: str) -> str:
    """A caption as one line of printable characters, cut at the longest length."""
    words = "".join(c if c.isprintable() else " " for c in text[:LONGEST_CAPTION]).split()
    return " ".join(words)


def _find_lists(root: Path, folders: Iterable[str]) -> Iterator[tuple[Path, str]]:
    """The lists of captions that may name photos in these folders, each with its origin."""
    within: dict[str, None] = {"": None}
    for folder in folders:
        while folder:
            within[folder] = None
            folder = folder.rpartition("/")[0]
    for folder in within:
        for name in LISTS:
            origin = f"{folder}/{name}" if folder else name
            # A link may lead out of the folder, and reading a pipe would never end.
            if is_file(root / origin) and real_path(root, origin) is not None:
                yield root / origin, origin
    if root.name in _IMAGES:
        for name in LISTS:
            above = root.parent / name
            if is_file(above) and not above.is_symlink():
                yield above, f"../{name}"


def _read_found_list(
    file: Path, origin: str, root: Path, photos: Container[str], notes: list[str]
) -> Iterator[Caption]:
    """The captions of a list in or above the indexed folder, which names photos by their paths."""
    problems: list[Problem] = []
    try:
        rows: list[Row] = []
        for row in read_rows(file):
            if isinstance(row, Row):
                rows.append(row)
            else:
                problems.append(row)
        folder, by_name = find_photos(file, rows, None)
    except Exception as error:  # whatever is wrong with a file, the others are read
        notes.append(f"No captions were taken from {file}: {error}")
        return
    if problems:
        first = problems[0]
        notes.append(_bad_entries(file, len(problems), f"{first.where}: {first.what}"))
    for row in rows:
        photo = folder / (row.image.rpartition("/")[2] if by_name else row.image)
        if not photo.is_relative_to(root):
            continue
        path = photo.relative_to(root).as_posix()
        if path in photos:
            yield from (Caption(path, origin, text) for text in map(clean, row.captions) if text)


def _read_named_list(file: Path, photos: Collection[str], notes: list[str]) -> Iterator[Caption]:
    """The captions of a list that the user named, wherever it is.

    It names photos by their paths in the indexed folder, or by names that only one photo has.
    """
    by_name: defaultdict[str, list[str]] = defaultdict(list)
    for path in photos:
        by_name[path.rpartition("/")[2]].append(path)
    bad, first = 0, ""
    try:
        for row in read_rows(file):
            if not isinstance(row, Row):
                bad, first = bad + 1, first or f"{row.where}: {row.what}"
                continue
            found = [row.image] if row.image in photos else by_name[row.image.rpartition("/")[2]]
            if len(found) > 1:
                bad += 1
                first = first or f"{len(found)} photos are called {row.image}"
            elif found:
                for text in filter(None, map(clean, row.captions)):
                    yield Caption(found[0], str(file), text)
    except Exception as error:  # whatever is wrong with a file, the others are read
        notes.append(f"No captions were taken from {file}: {error}")
    if bad:
        notes.append(_bad_entries(file, bad, first))


def _bad_entries(file: Path, count: int, first: str) -> str:
    return f"{count} bad entry(s) in {file} were skipped, the first {first}."
