"""Captions of the photos in an indexed folder, from lists: found beside the photos or named by the
user.

Lists (`captions.jsonl`, `metadata.csv` and the like) are looked for in the folders of photos and
those above, up to the indexed folder, and one above that if the indexed folder is the `images` of a
data set. A list is read as a stream: only captions of photos that are here are held. What could not
be used is counted and said. Text files of single photos: see `sidecars`.
"""

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from indexes.captions import Caption
from retrieval.captions.formats import read_rows
from retrieval.captions.locate import is_file
from retrieval.captions.names import Gathered, Match, PhotoNames, parts_of
from retrieval.captions.rows import Findings, Note, Problem, Row, quoted
from retrieval.photos.files import real_path

LISTS = (
    "captions.jsonl",
    "captions.json",
    "metadata.jsonl",
    "metadata.csv",
    "captions.csv",
    "captions.tsv",
    "captions.txt",
)
MAX_CAPTIONS = 50  # of one photo
_IMAGES = ("images", "Images")  # data sets have their captions in the folder above these
_SHOWN = 3  # kinds of bad entries in a sentence
_NONE, _SEVERAL = "no photo has their name", "several photos have their name"
_ELSEWHERE = "the photo is in another folder than the list says; it was found by its file name"


def read_lists(
    root: Path,
    folders: Iterable[str],
    photos: Collection[str],
    named: Sequence[Path],
    notes: list[str],
) -> Iterator[Caption]:
    """The captions that lists have for `photos`, paths in an indexed folder, as they are written.

    root: the folder, without links; folders: those of the photos; named: lists that the user named;
    notes: gets sentences on what could not be used. Never raises for what is wrong with a file.
    """
    names = PhotoNames(photos)
    for file, origin, folder in _find_lists(root, folders):
        yield from _List(file, root, folder, names, notes).captions(origin)
    for file in named:
        yield from _List(file, root, None, names, notes).captions(str(file))


def _find_lists(root: Path, folders: Iterable[str]) -> Iterator[tuple[Path, str, str]]:
    """The lists that may name photos in these folders, each with its origin and its folder."""
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
                yield root / origin, origin, folder
    for above in lists_above(root):
        if is_file(above) and not above.is_symlink():
            yield above, f"../{above.name}", ".."


def lists_above(root: Path) -> list[Path]:
    """Where lists may be that belong to an indexed folder but are not in it."""
    return [root.parent / name for name in LISTS] if root.name in _IMAGES else []


class _List:
    """A list that is being read. folder: its folder in the root, '..' for that above the root, None
    for a list that the user named."""

    def __init__(
        self, file: Path, root: Path, folder: str | None, names: PhotoNames, notes: list[str]
    ) -> None:
        self.file, self.root, self.folder, self.names, self.notes = file, root, folder, names, notes
        self.problems, self.remarks, self.missing = Findings(), Findings(), Findings()
        self.rows, self._above = 0, str(file.parent)

    def captions(self, origin: str) -> Iterator[Caption]:
        """All captions for photos that are here; what could not be used is said in the notes."""
        gathered: Gathered[str] = Gathered()
        try:
            for row in read_rows(self.file):
                if isinstance(row, Row):
                    self._add(row, gathered)
                else:
                    (self.problems if isinstance(row, Problem) else self.remarks).add(row)
        except Exception as error:  # whatever is wrong with a file, the others are read
            self.notes.append(f"No captions were taken from {self.file}: {error}")
            return
        found, unclear = gathered.decide()
        for path, texts in unclear:
            what = f"captions of several names would be those of the photo {quoted(path)}"
            self.problems.add(Problem(f"{self.file}, {quoted(texts[0])}", what))
        self._say()
        for path, texts in found.items():
            yield from (Caption(path, origin, text) for text in texts)

    def _add(self, row: Row, gathered: Gathered[str]) -> None:
        self.rows += 1
        match = self._match(row.image)
        if match is None:
            return
        if match.path is None:
            several = f", {match.count} photos" if match.count else ""
            where = f"{row.where.removeprefix(f'{self.file}, ')} ({quoted(row.image)}{several})"
            self.missing.add(Problem(where, _SEVERAL if several else _NONE))
            return
        if match.elsewhere:
            self.remarks.add(Note(row.where, _ELSEWHERE))
        texts = gathered.of(match, row.image)
        for text in row.captions:
            if len(texts) < MAX_CAPTIONS:
                texts.append(text)
            else:
                what = f"a photo has more than {MAX_CAPTIONS} captions; the others were left out"
                self.remarks.add(Note(row.where, what))

    def _match(self, name: str) -> Match | None:
        """The photo that a name means; None if it means a file that this run does not look at."""
        match = self.names.find(*self._as_seen_from(name))
        if match.exact:
            return match
        path = "/".join((self._above, *parts_of(name)))
        if not os.path.isfile(path):  # noqa: PTH113 - it is asked for a million names
            return match
        there = Path(path)
        if match.path is not None and _is_same(there, self.root / match.path):
            return match  # on a disk that does not tell upper from lower case
        inside = there.resolve().is_relative_to(self.root)
        return None if inside or self.folder is not None else match

    def _as_seen_from(self, name: str) -> tuple[str, str | None]:
        """A name and the folder that it starts from; a list above the root starts in the root."""
        if self.folder != "..":
            return name, self.folder
        parts = parts_of(name)
        return ("/".join(parts[1:]) if parts[:1] == [self.root.name] else name), ""

    def _say(self) -> None:
        if self.problems.count:
            kinds = [f"{places}: {what}" for what, places, _ in self.problems.items()]
            shown = "; ".join(kinds[:_SHOWN]).replace(f"{self.file}, ", "")
            self.notes.append(
                f"{self.problems.count:,} bad entry(s) in {self.file} were skipped ({shown}"
                f"{'; …' if len(kinds) > _SHOWN else ''})."
            )
        self.notes += self.remarks.sentences()
        for why, places, count in self.missing.items():
            if why == _NONE and count == self.rows:
                self.notes.append(
                    f"No captions were taken from {self.file}: no photo of {self.root} has the "
                    f"name of any of its {count:,} row(s): {places}. Names are paths from the "
                    "folder of the list or the indexed folder, or names of files alone."
                )
            else:
                self.notes.append(
                    f"{count:,} of {self.rows:,} row(s) in {self.file} were left out because "
                    f"{why}: {places}."
                )


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
