"""Captions that lie beside photos: found and read when a folder is indexed.

Looked for are `photo.txt` and `photo.xmp`, or `photo.jpg.txt` and `photo.jpg.xmp`, beside a photo,
and lists of captions (`captions.jsonl` and CSV) in its folder or one above, up to the indexed
folder; above that only where the indexed folder is the usual `images` of a data set. Lists from
anywhere else are named by the user. What a file says is not believed: sizes are bounded, links are
not followed out of the folder, and control characters are dropped.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from indexes.fulltext import Caption
from retrieval.captions.formats import LONGEST_CAPTION, Problem, Row, read_rows
from retrieval.captions.locate import find_photos
from retrieval.captions.metadata import LARGEST, xmp_texts
from retrieval.errors import DataSetError, PhotoError
from retrieval.photos.files import open_inside, real_path

LISTS = ("captions.jsonl", "metadata.jsonl", "captions.csv", "captions.txt")
_IMAGES = ("images", "Images")  # whose captions usually lie in the folder above
_MOST = 50  # captions of a photo that are kept
_LONGEST_SIDECAR = 1 << 16  # bytes


@dataclass
class Found:
    """The captions of photos, and sentences on what could not be read."""

    captions: list[Caption] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_captions(root: Path, photos: Iterable[str], lists: Sequence[Path] = ()) -> Found:
    """What is said of `photos`, paths in an indexed folder, in their order.

    root: the folder, without links; lists: more files of captions, which name photos by their path
    in the folder or by their name alone. Never raises for what is wrong with a file.
    """
    found = Found()
    wanted = dict.fromkeys(photos)
    folders: defaultdict[str, list[str]] = defaultdict(list)
    for path in wanted:
        folders[path.rpartition("/")[0]].append(path)
    said: defaultdict[str, list[Caption]] = defaultdict(list)
    bad: list[str] = []
    for folder, inside in folders.items():
        for caption in _sidecars(root, folder, inside, bad):
            said[caption.path].append(caption)
    for file, origin in _lists(root, folders):
        for path, caption in _listed(file, origin, root, wanted, found.notes):
            said[path].append(caption)
    for file in lists:
        for path, caption in _named(file, wanted, found.notes):
            said[path].append(caption)
    for path in wanted:
        unique = {caption.text: caption for caption in reversed(said.get(path, ()))}
        found.captions += list(reversed(unique.values()))[:_MOST]
    if bad:
        found.notes.append(
            f"{len(bad)} text(s) beside photos could not be read as captions, the first {bad[0]}."
        )
    return found


def clean(text: str) -> str:
    """A caption as one line of printable characters, cut where it is too long."""
    words = "".join(c if c.isprintable() else " " for c in text[:LONGEST_CAPTION]).split()
    return " ".join(words)


def _sidecars(root: Path, folder: str, photos: Sequence[str], bad: list[str]) -> Iterator[Caption]:
    try:
        with os.scandir(root / folder if folder else root) as entries:
            names = {e.name for e in entries if e.name.endswith((".txt", ".xmp")) and e.is_file()}
    except OSError:
        return
    if not names:
        return
    for path in photos:
        name = path.rpartition("/")[2]
        stem = name.rpartition(".")[0]
        for text in dict.fromkeys(
            f"{of}{kind}" for kind in (".txt", ".xmp") for of in (name, stem)
        ):
            if text not in names or (text in LISTS and name.rpartition(".")[0] == "captions"):
                continue
            origin = f"{folder}/{text}" if folder else text
            try:
                most = LARGEST if text.endswith(".xmp") else _LONGEST_SIDECAR
                with open_inside(root, origin) as file:
                    data = file.read(most + 1)
                if len(data) > most:
                    raise PhotoError(f"longer than {most:,} bytes")
                if text.endswith(".xmp"):
                    lines = xmp_texts(data)
                else:
                    lines = data.decode("utf-8-sig").splitlines()
            except (OSError, PhotoError, ValueError) as error:
                bad.append(f"{origin!r} ({error})")
                continue
            yield from (Caption(path, origin, line) for line in map(clean, lines) if line)


def _lists(root: Path, folders: Iterable[str]) -> Iterator[tuple[Path, str]]:
    """The lists of captions that may speak of photos in these folders, with their names here."""
    within: dict[str, None] = {"": None}
    for folder in folders:
        while folder:
            within[folder] = None
            folder = folder.rpartition("/")[0]
    for folder in within:
        for name in LISTS:
            origin = f"{folder}/{name}" if folder else name
            # Following links may lead out of the folder, and reading a pipe would never end.
            if _is_file(root / origin) and real_path(root, origin) is not None:
                yield root / origin, origin
    if root.name in _IMAGES:
        for name in LISTS:
            above = root.parent / name
            if _is_file(above) and not above.is_symlink():
                yield above, f"../{name}"


def _listed(
    file: Path, origin: str, root: Path, wanted: dict[str, None], notes: list[str]
) -> Iterator[tuple[str, Caption]]:
    problems: list[Problem] = []
    try:
        rows: list[Row] = []
        for row in read_rows(file):
            if isinstance(row, Row):
                rows.append(row)
            else:
                problems.append(row)
        place, short = find_photos(file, rows, None)
    except (DataSetError, OSError) as error:
        notes.append(f"No captions were taken from {file}: {error}")
        return
    if problems:
        first = problems[0]
        notes.append(
            f"{len(problems)} entry(s) of {file} gave no caption, the first {first.where}: "
            f"{first.what}."
        )
    for row in rows:
        path = place / (row.image.rpartition("/")[2] if short else row.image)
        if not path.is_relative_to(root):
            continue
        inside = path.relative_to(root).as_posix()
        if inside in wanted:
            yield from ((inside, Caption(inside, origin, t)) for t in map(clean, row.captions) if t)


def _named(file: Path, wanted: dict[str, None], notes: list[str]) -> Iterator[tuple[str, Caption]]:
    """The captions of a list that lies anywhere: photos are known by path or, if only one has it,
    by name."""
    names: defaultdict[str, list[str]] = defaultdict(list)
    for path in wanted:
        names[path.rpartition("/")[2]].append(path)
    wrong, first = 0, ""
    try:
        for row in read_rows(file):
            if not isinstance(row, Row):
                wrong, first = wrong + 1, first or f"{row.where}: {row.what}"
                continue
            found = [row.image] if row.image in wanted else names[row.image.rpartition("/")[2]]
            if len(found) > 1:
                wrong += 1
                first = first or f"{len(found)} photos are called {row.image}"
            elif found:
                for text in filter(None, map(clean, row.captions)):
                    yield found[0], Caption(found[0], str(file), text)
    except (DataSetError, OSError) as error:
        notes.append(f"No captions were taken from {file}: {error}")
    if wrong:
        notes.append(f"{wrong} entry(s) of {file} gave no caption, the first {first}.")


def _is_file(path: Path) -> bool:
    """Whether there is such a file; False where that may not be looked at."""
    try:
        return path.is_file()
    except OSError:
        return False
