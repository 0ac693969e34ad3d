"""Captioned photo sets: photos with the captions that people wrote for them.

Training and benchmarks read every data set through `read_captioned`, whatever its format. Nothing
is unpacked, decoded or encoded here. Paths in a data set are not trusted: a photo is opened only
inside the named folder or tar.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from indexes.locate import FOLDER_NAME, index_at
from retrieval.captions.formats import read_rows
from retrieval.captions.locate import find_photos
from retrieval.captions.names import Gathered, parts_of
from retrieval.captions.rows import Findings, Note, Problem, Row, quoted
from retrieval.datasets import webdataset
from retrieval.datasets.indexed import read_index
from retrieval.datasets.locate import find_caption_file, find_shards, holds_captions, in_folder
from retrieval.errors import DataSetError, PhotoError
from retrieval.photos.files import open_inside

ALL = "all"


@dataclass(frozen=True)
class CaptionedPhoto:
    """A photo: its name in the data set, its captions (at least one) and its split.

    path: the photo's file inside `folder`, or the tar that holds it; span: in a tar, the photo's
    (offset, length) in bytes.
    """

    name: str
    captions: tuple[str, ...]
    split: str | None
    folder: Path
    path: str
    span: tuple[int, int] | None = None

    def open(self) -> BinaryIO:
        """Open the photo's bytes. Raises PhotoError, or FileNotFoundError if the file is gone."""
        file = open_inside(self.folder, self.path)
        if self.span is None:
            return file
        offset, length = self.span
        with file:
            file.seek(offset)
            data = file.read(length)
        if len(data) != length:
            raise PhotoError("truncated (the tar ends before the photo does)")
        return io.BytesIO(data)


@dataclass(frozen=True)
class CaptionedSet:
    """The photos of a data set, or of some of its splits, in the order of the data set."""

    name: str
    split: str
    photos: tuple[CaptionedPhoto, ...]

    @property
    def captions(self) -> tuple[str, ...]:
        """All captions, photo by photo."""
        return tuple(caption for photo in self.photos for caption in photo.captions)

    @property
    def owners(self) -> tuple[int, ...]:
        """For each of `captions`, the position of its photo in `photos`."""
        return tuple(i for i, photo in enumerate(self.photos) for _ in photo.captions)


def read_captioned(
    where: Path,
    split: str = ALL,
    images: Path | None = None,
    skip_bad: bool = False,
    log: Callable[[str], None] = lambda _: None,
) -> CaptionedSet:
    """Read a captioned photo set and recognise its format.

    where: a folder with `captions.jsonl`, Karpathy's `dataset_*.json`, COCO's `captions_*.json`,
    Flickr's `*.token.txt` or a CSV with columns for image and caption; one of those files; a
    WebDataset tar or a folder of such tars; or an indexed folder with captions. split: the name of
    a split, several joined by +, or 'all'. images: the folder of the photos, if it is in no usual
    place next to the captions. skip_bad: leave out bad entries and report their number to `log`,
    instead of raising. log: also gets sentences on what was read in another way than it is written.
    Raises DataSetError, with the file, the line and the remedy.
    """
    index = index_at(where)
    if index is not None and (index == where or not holds_captions(where)):
        source = _read_indexed(where, index, images)
    elif shards := find_shards(where):
        source = _read_tars(where, shards, images)
    else:
        source = _read_text(where, images)
    return _collect(source, split, skip_bad, log)


def select_split(whole: CaptionedSet, split: str) -> CaptionedSet:
    """The photos of a split, or of several joined by +, of a set that was read with all splits.

    Raises DataSetError if there is no such split.
    """
    selected = _parse_splits(split, whole.name, {p.split for p in whole.photos if p.split})
    photos = tuple(p for p in whole.photos if selected is None or p.split in selected)
    return CaptionedSet(whole.name, split, photos)


@dataclass(frozen=True)
class _Source:
    """A data set whose format is known.

    entries: the photos of the given splits (None: of all), and what is wrong with bad entries.
    """

    name: str
    splits: set[str]
    entries: Callable[[set[str] | None], Iterator[CaptionedPhoto | Problem | Note]]


@dataclass
class _Listed:
    """A photo as a caption file names it, with all its captions there. where: the first."""

    where: str
    name: str
    captions: list[str]
    split: str | None


def _read_text(where: Path, images: Path | None) -> _Source:
    file = find_caption_file(where)
    listed: dict[str, _Listed] = {}
    findings: list[Problem | Note] = []
    for row in read_rows(file):
        if not isinstance(row, Row):
            findings.append(row)
            continue
        photo = listed.setdefault(row.image, _Listed(row.where, row.image, [], row.split))
        if photo.split == row.split:
            photo.captions.extend(row.captions)
        else:
            what = f"the photo {quoted(row.image)} is in the split {quoted(photo.split)} before"
            findings.append(Problem(row.where, what))

    def entries(splits: set[str] | None) -> Iterator[CaptionedPhoto | Problem | Note]:
        yield from findings
        selected = [p for p in listed.values() if splits is None or p.split in splits]
        photos = find_photos(file, [p.name for p in selected], images)
        gathered: Gathered[_Listed] = Gathered()
        for photo in selected:
            match = photos.find(photo.name)
            if match.path is None:
                count = f"are {match.count} photos" if match.count else "is no photo"
                what = f"there {count} {quoted(photo.name)} in {photos.folder}"
                yield Problem(photo.where, what)
            elif error := in_folder(photos.folder, match.path):
                yield Problem(photo.where, error)
            else:
                gathered.of(match, photo.name).append(photo)
        found, unclear = gathered.decide()
        for path, several in unclear:
            what = f"the photo {quoted(path)} is named in several ways"
            yield from (Problem(photo.where, what) for photo in several)
        places = {id(photo): i for i, photo in enumerate(selected)}
        for path, same in sorted(found.items(), key=lambda item: places[id(item[1][0])]):
            captions = tuple(caption for photo in same for caption in photo.captions)
            name = "/".join(parts_of(same[0].name))
            yield CaptionedPhoto(name, captions, same[0].split, photos.folder, path)

    name = file.stem if file is where else where.resolve().name
    return _Source(name, {photo.split for photo in listed.values() if photo.split}, entries)


def _read_indexed(where: Path, index: Path, images: Path | None) -> _Source:
    if images is not None:
        raise DataSetError(f"The index {index} knows where its photos are. Leave out --images.")
    photos = [
        CaptionedPhoto(path, captions, None, folder, path)
        for folder, path, captions in read_index(index)
    ]
    if not photos:
        raise DataSetError(
            f"The index {index} holds no captions. Put captions.jsonl next to the photos, or name "
            "a caption file with `retrieval index --captions FILE`."
        )

    def entries(_: set[str] | None) -> Iterator[CaptionedPhoto | Problem | Note]:
        for photo in photos:
            error = in_folder(photo.folder, photo.path)
            yield Problem(f"{index}", error) if error else photo

    name = (where.parent if where.name == FOLDER_NAME else where).resolve().name
    return _Source(name, set(), entries)


def _read_tars(
    where: Path, shards: Sequence[tuple[Path, str | None]], images: Path | None
) -> _Source:
    if images is not None:
        raise DataSetError(f"{where} holds its photos itself. Leave out --images.")
    members = [(shard, split, m) for shard, split in shards for m in webdataset.read_members(shard)]

    def entries(splits: set[str] | None) -> Iterator[CaptionedPhoto | Problem | Note]:
        for shard, split, member in members:
            if isinstance(member, Problem | Note):
                yield member
            elif splits is None or split in splits:
                name = (
                    f"{shard.relative_to(where).as_posix()}/{member.name}"
                    if shard != where
                    else member.name
                )
                folder = shard.parent.resolve()
                yield CaptionedPhoto(
                    name, member.captions, split, folder, shard.name, (member.offset, member.length)
                )

    return _Source(where.resolve().stem, {split for _, split in shards if split}, entries)


def _collect(
    source: _Source, split: str, skip_bad: bool, log: Callable[[str], None]
) -> CaptionedSet:
    """The photos of a split, no name twice. Raises DataSetError for bad entries or no photos."""
    selected = _parse_splits(split, source.name, source.splits)
    photos: dict[str, CaptionedPhoto] = {}
    problems, notes = Findings(), Findings()
    for entry in source.entries(selected):
        if isinstance(entry, CaptionedPhoto):
            photos[entry.name] = entry
        else:
            (problems if isinstance(entry, Problem) else notes).add(entry)
    if problems.count and not skip_bad:
        raise DataSetError(_describe(problems, len(photos)))
    if problems.count:
        log(f"Left out {_count(problems.count)}, the first {problems.first}.")
    for sentence in notes.sentences():
        log(sentence)
    if not photos:
        raise DataSetError(
            f"{source.name} has no captioned photo"
            + (f" in the split '{split}'" if selected else "")
            + (" but bad ones. Correct them." if problems.count else ". Name another data set.")
        )
    return CaptionedSet(source.name, split, tuple(photos.values()))


def _parse_splits(text: str, name: str, known: set[str]) -> set[str] | None:
    """The splits that `text` names, None for all. Raises DataSetError for an unknown one."""
    selected = None if text == ALL else set(text.split("+"))
    unknown = sorted((selected or set()) - known)
    if unknown:
        choices = f"its splits are {', '.join(sorted(known))} and {ALL}" if known else "it has none"
        raise DataSetError(
            f"{name} has no split '{unknown[0]}': {choices}. "
            + ("Choose one with --split." if known else "Leave out --split.")
        )
    return selected


def _count(entries: int) -> str:
    return f"{entries:,} bad {'entry' if entries == 1 else 'entries'}"


def _describe(problems: Findings, good: int) -> str:
    more = f" (and {_count(problems.count - 1)} more)" if problems.count > 1 else ""
    return (
        f"{problems.first}{more}. Correct it, or add --skip-bad to continue with the other {good} "
        "photos."
    )
