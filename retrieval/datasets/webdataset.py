"""Read WebDataset tars, `KEY.jpg` with `KEY.txt` or `KEY.json`, without unpacking them.

A sample is all files with the same KEY, the name up to its first dot: `KEY.jpg`, `KEY.mask.png`.
One of them is the photo, by a rule. A photo is identified by its position in the tar. Only the
captions are read, and their size is limited. Compressed tars are rejected, because finding anything
in them means unpacking all that comes before it.
"""

import json
import re
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from retrieval.captions.rows import Note, Problem, entry, inner_path, quoted, usable_captions
from retrieval.captions.text_lines import decode_text
from retrieval.errors import DataSetError
from retrieval.photos.walk import PHOTO_SUFFIXES
from retrieval.transfer.tar_header import TarHeader

_TEXT_SUFFIXES = frozenset(("txt", "caption", "captions", "cap", "text"))
# Of several photos in a sample: by what their names have between key and ending, then by the
# ending, for what is beside a photograph in another format is most often a mask of it.
_PHOTO_LABELS = ("", "image", "img", "photo", "rgb", "input", "left")
_PHOTO_ENDINGS = ("jpg", "jpeg", "jpe", "jfif", "webp", "heic", "heif", "avif", "png")
_MAX_TEXT_BYTES = 1 << 20  # of captions or of a name
_MAX_PHOTO_BYTES = 1 << 29


@dataclass(frozen=True)
class Member:
    """A photo in a tar: its name, its captions, and its offset and length in bytes."""

    name: str
    captions: tuple[str, ...]
    offset: int
    length: int


@dataclass(frozen=True)
class _File:
    """A photo or captions in a sample. label: what its name has between the key and the ending."""

    name: str
    label: str
    ending: str
    offset: int
    length: int
    captions: tuple[str, ...] = ()


@dataclass
class _Sample:
    """The files of one key, and what is wrong with others."""

    photos: list[_File] = field(default_factory=list)
    texts: list[_File] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)  # what is wrong with single captions


def read_members(file: Path) -> Iterator[Member | Problem | Note]:
    """The captioned photos of a tar, in its order. Raises DataSetError if it is not a tar."""
    samples: defaultdict[str, _Sample] = defaultdict(_Sample)
    try:
        with (
            file.open("rb") as source,
            tarfile.open(fileobj=source, mode="r:", tarinfo=TarHeader, errors="replace") as archive,
        ):
            while (member := archive.next()) is not None:
                # It would hold all headers in memory.
                archive.members.clear()  # type: ignore[attr-defined]
                if not member.isdir():
                    _add_member(samples, member, source)
            _check_end(archive, source)
    except tarfile.TarError as error:
        raise DataSetError(
            f"{file} is not a complete, uncompressed tar ({error}). Download it again, or pack it "
            f"with `tar -cf {file.name} FOLDER`."
        ) from None
    for key, sample in samples.items():
        for name, part in _split_sample(key, sample):
            yield from _check_sample(f"{file}, {quoted(name)}", part)


def _check_end(archive: tarfile.TarFile, source: BinaryIO) -> None:
    """Raise TarError if reading stopped before the end of the tar; `tarfile` does not report it."""
    source.seek(archive.offset)
    if source.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise tarfile.ReadError(f"damaged at byte {archive.offset:,}")


def _add_member(
    samples: defaultdict[str, _Sample], member: tarfile.TarInfo, source: BinaryIO
) -> None:
    """Add a photo or captions to the sample of their key; other files are ignored."""
    *folders, last = [part for part in member.name.split("/") if part not in ("", ".")] or [""]
    if last.startswith(".") or "__MACOSX" in folders:  # of macOS, about the files
        return
    stem, _, suffix = last.partition(".")
    label, _, ending = suffix.lower().rpartition(".")
    is_photo = ending in PHOTO_SUFFIXES
    if not is_photo and ending not in _TEXT_SUFFIXES and ending != "json":
        return
    sample = samples["/".join([*folders, stem])]
    try:
        found = _File(inner_path(member.name), label, ending, member.offset_data, member.size)
        if not member.isreg() or member.sparse is not None:
            raise ValueError("not a regular file")
        if member.size > (_MAX_PHOTO_BYTES if is_photo else _MAX_TEXT_BYTES):
            raise ValueError(f"too large ({member.size:,} bytes)")
    except ValueError as error:
        sample.errors.append(f"{quoted(member.name)}: {error}")
        return
    if is_photo:
        sample.photos.append(found)
        return
    try:
        source.seek(member.offset_data)
        captions = _captions(source.read(member.size), ending)
    except ValueError as error:
        sample.dropped.append(f"a file of captions cannot be used: {error}")
        return
    if captions is not None:
        good, dropped = captions
        sample.dropped += dropped
        sample.texts.append(replace(found, captions=good))


def _captions(data: bytes, ending: str) -> tuple[tuple[str, ...], list[str]] | None:
    """The captions in a text, one a line, or in JSON, and what is wrong with others.

    None if there are none, as in JSON of other facts.
    """
    text = decode_text(data)
    if ending != "json":
        found: object = [line for line in re.split(r"[\r\n]+", text) if line.strip()]
    else:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            raise ValueError("not JSON") from None
        found = entry(value)[1] if isinstance(value, dict) else value
        if not isinstance(found, list | str):
            return None
    return usable_captions(found) if found else None


def _split_sample(key: str, sample: _Sample) -> Iterator[tuple[str, _Sample]]:
    """The samples of a key: one, unless its dots are part of names.

    They are if several photos have captions of their own: `IMG.1.jpg` and `IMG.1.txt`, `IMG.2.jpg`
    and `IMG.2.txt`.
    """
    texts = {text.label for text in sample.texts}
    labels = dict.fromkeys(photo.label for photo in sample.photos if photo.label in texts)
    if len(labels) < 2:
        yield key, sample
        return
    for label in labels:
        part = _Sample(
            [photo for photo in sample.photos if photo.label == label],
            [text for text in sample.texts if text.label == label],
        )
        yield f"{key}.{label}" if label else key, part
    if sample.errors:
        yield key, _Sample(errors=sample.errors)


def _check_sample(where: str, sample: _Sample) -> Iterator[Member | Problem | Note]:
    if sample.errors:
        yield Problem(where, sample.errors[0])
    elif not sample.photos:
        yield Problem(where, "the caption has no photo")
    elif not sample.texts or not (captions := _choose_captions(sample.texts)):
        why = f" ({sample.dropped[0]})" if sample.dropped else ""
        yield Problem(where, f"the photo has no caption{why}")
    else:
        photo = min(sample.photos, key=_rank)
        if len(sample.photos) > 1:
            chosen = ".".join(part for part in (photo.label, photo.ending) if part)
            yield Note(where, f"of several photos the one that ends in .{chosen} was taken")
        yield from (Note(where, what) for what in sample.dropped)
        yield Member(photo.name, captions, photo.offset, photo.length)


def _rank(photo: _File) -> tuple[int, int]:
    """The lower, the more likely it is the photo that the captions are of; then the first is."""
    return (
        _PHOTO_LABELS.index(photo.label) if photo.label in _PHOTO_LABELS else len(_PHOTO_LABELS),
        _PHOTO_ENDINGS.index(photo.ending)
        if photo.ending in _PHOTO_ENDINGS
        else len(_PHOTO_ENDINGS),
    )


def _choose_captions(texts: list[_File]) -> tuple[str, ...]:
    """The captions of a sample: from texts before JSON, and from those named by the key alone."""
    numbered = sorted(texts, key=lambda text: (len(text.label), text.label))  # 2 before 10
    plain = [text for text in texts if not text.label] or numbered
    chosen = [text for text in plain if text.ending != "json"] or plain
    return tuple(dict.fromkeys(caption for text in chosen for caption in text.captions))
