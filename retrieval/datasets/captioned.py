"""Captioned photo sets: photos with the captions that people wrote for them, in one shape.

Training and benchmarks read every data set through `read_captioned`, whatever its format. Nothing
is unpacked, decoded or encoded here, and what a data set says of itself is not believed: a photo
is opened only inside the named folder or tar.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from indexes.locate import FOLDER_NAME, index_at
from retrieval.captions.formats import Problem, Row, read_rows
from retrieval.captions.locate import (
    find_caption_file,
    find_photos,
    find_shards,
    holds_captions,
    in_folder,
)
from retrieval.datasets import webdataset
from retrieval.datasets.indexed import read_index
from retrieval.errors import DataSetError, PhotoError
from retrieval.photos.files import open_inside

ALL = "all"


@dataclass(frozen=True)
class CaptionedPhoto:
    """A photo by its name in the data set, its captions (at least one) and its split.

    It lies in the file `path` inside `folder`; `span` is its (offset, length) in bytes where that
    file is a tar.
    """

    name: str
    captions: tuple[str, ...]
    split: str | None
    folder: Path
    path: str
    span: tuple[int, int] | None = None

    def open(self) -> BinaryIO:
        """The photo's bytes; raises PhotoError or FileNotFoundError where they are not there."""
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
    """The photos of one split (or of all) of a data set, in its own order."""

    name: str
    split: str
    photos: tuple[CaptionedPhoto, ...]

    @property
    def captions(self) -> tuple[str, ...]:
        """All captions, photo after photo."""
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
    """Read a captioned photo set; the format is recognised by itself.

    where: a folder with `captions.jsonl`, Karpathy's `dataset_*.json`, COCO's `captions_*.json`,
    Flickr's `*.token.txt`, a CSV with a column for image and caption, a WebDataset tar or a folder
    of such tars, or an indexed folder with captions. split: a split's name, several joined by +,
    or 'all'. images: the folder of the photos, if it is not in a usual place beside the captions.
    skip_bad: leave out what is wrong and `say` how much that was, instead of raising.
    Raises DataSetError, with file, line and remedy.
    """
    index = index_at(where)
    if index is not None and (index == where or not holds_captions(where)):
        return _chosen(*_read_indexed(where, index, images), split, skip_bad, log)
    read = _read_tars if find_shards(where) else _read_text
    return _chosen(*read(where, images), split, skip_bad, log)


def part(whole: CaptionedSet, split: str) -> CaptionedSet:
    """The photos of a split (or several, joined by +) of a set that was read with all of them.

    Raises DataSetError where there is no such split.
    """
    wanted = _wanted(whole.name, split, {p.split for p in whole.photos if p.split})
    photos = tuple(p for p in whole.photos if wanted is None or p.split in wanted)
    return CaptionedSet(whole.name, split, photos)


Found = CaptionedPhoto | Problem
Read = tuple[str, set[str], Callable[[set[str] | None], Iterator[Found]]]


def _read_text(where: Path, images: Path | None) -> Read:
    file = find_caption_file(where)
    rows = list(read_rows(file))
    good = [row for row in rows if isinstance(row, Row)]

    def photos(wanted: set[str] | None) -> Iterator[Found]:
        chosen = [r for r in good if wanted is None or r.split in wanted]
        folder, short = find_photos(file, chosen, images)
        for row in rows:
            if isinstance(row, Problem):
                yield row
            elif wanted is None or row.split in wanted:
                path = row.image.rpartition("/")[2] if short else row.image
                wrong = in_folder(folder, path)
                yield (
                    Problem(row.where, wrong)
                    if wrong
                    else CaptionedPhoto(row.image, row.captions, row.split, folder, path)
                )

    name = file.stem if file is where else where.resolve().name
    return name, {row.split for row in good if row.split}, photos


def _read_indexed(where: Path, index: Path, images: Path | None) -> Read:
    if images is not None:
        raise DataSetError(f"The index {index} knows where its photos are. Leave --images out.")
    found = [
        CaptionedPhoto(path, captions, None, folder, path)
        for folder, path, captions in read_index(index)
    ]
    if not found:
        raise DataSetError(
            f"The index {index} holds no captions. Put captions.jsonl beside the photos, or name a "
            "list with `retrieval index --captions FILE`."
        )

    def photos(wanted: set[str] | None) -> Iterator[Found]:
        for photo in found:
            wrong = in_folder(photo.folder, photo.path)
            yield Problem(f"{index}", wrong) if wrong else photo

    name = (where.parent if where.name == FOLDER_NAME else where).resolve().name
    return name, set(), photos


def _read_tars(where: Path, images: Path | None) -> Read:
    if images is not None:
        raise DataSetError(f"{where} holds its photos itself. Leave --images out.")
    shards = find_shards(where)
    found = [(shard, split, m) for shard, split in shards for m in webdataset.read_members(shard)]

    def photos(wanted: set[str] | None) -> Iterator[Found]:
        for shard, split, member in found:
            if isinstance(member, Problem):
                yield member
            elif wanted is None or split in wanted:
                name = (
                    f"{shard.relative_to(where).as_posix()}/{member.name}"
                    if shard != where
                    else member.name
                )
                folder = shard.parent.resolve()
                yield CaptionedPhoto(
                    name, member.captions, split, folder, shard.name, (member.offset, member.length)
                )

    return where.resolve().stem, {split for _, split in shards if split}, photos


def _chosen(
    name: str,
    splits: set[str],
    photos: Callable[[set[str] | None], Iterator[Found]],
    split: str,
    skip_bad: bool,
    log: Callable[[str], None],
) -> CaptionedSet:
    """The photos of a split, each with a name of its own, or the sentence on what is wrong."""
    wanted = _wanted(name, split, splits)
    good: dict[str, CaptionedPhoto] = {}
    problems: list[Problem] = []
    for found in photos(wanted):
        if isinstance(found, Problem):
            problems.append(found)
        else:
            good[found.name] = found
    if problems and not skip_bad:
        raise DataSetError(_sentence(problems, len(good)))
    if problems:
        first = problems[0]
        log(f"Left out {_count(len(problems))}, the first {first.where}: {first.what}.")
    if not good:
        raise DataSetError(
            f"{name} has no captioned photo"
            + (f" in the split '{split}'" if wanted else "")
            + (" but bad ones. Correct them." if problems else ". Name another data set.")
        )
    return CaptionedSet(name, split, tuple(good.values()))


def _wanted(name: str, split: str, splits: set[str]) -> set[str] | None:
    """The splits asked for, None for all; raises DataSetError for one that is not there."""
    wanted = None if split == ALL else set(split.split("+"))
    unknown = sorted((wanted or set()) - splits)
    if unknown:
        there = f"its splits are {', '.join(sorted(splits))} and {ALL}" if splits else "it has none"
        raise DataSetError(
            f"{name} has no split '{unknown[0]}': {there}. "
            + ("Choose one with --split." if splits else "Leave --split out.")
        )
    return wanted


def _count(entries: int) -> str:
    return f"{entries:,} bad {'entry' if entries == 1 else 'entries'}"


def _sentence(problems: Sequence[Problem], good: int) -> str:
    more = f" (and {_count(len(problems) - 1)} more)" if len(problems) > 1 else ""
    return (
        f"{problems[0].where}: {problems[0].what}{more}. Correct it, or add --skip-bad to go on "
        f"with the other {good} photos."
    )
