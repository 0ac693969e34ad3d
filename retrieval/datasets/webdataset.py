"""Read WebDataset tars, `KEY.jpg` with `KEY.txt` or `KEY.json`, without unpacking them.

A photo is identified by its position in the tar. Only the captions are read, and their size is
limited. Compressed tars are rejected, because finding anything in them means unpacking all that
comes before it.
"""

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from retrieval.captions.formats import Problem, checked_captions, inner_path, quoted
from retrieval.errors import DataSetError
from retrieval.photos.walk import PHOTO_SUFFIXES
from retrieval.transfer.tar_header import TarHeader

_TEXT_SUFFIXES = frozenset(("txt", "caption", "captions", "cap", "text"))
_MAX_TEXT_BYTES = 1 << 20  # of captions or of a name
_MAX_PHOTO_BYTES = 1 << 29


@dataclass(frozen=True)
class Member:
    """A photo in a tar: its name, its captions, and its offset and length in bytes."""

    name: str
    captions: tuple[str, ...]
    offset: int
    length: int


@dataclass
class _Sample:
    """The files of one key, and what is wrong with them."""

    photo: tarfile.TarInfo | None = None
    captions: tuple[str, ...] = ()
    errors: list[str] = field(default_factory=list)


def read_members(file: Path) -> Iterator[Member | Problem]:
    """The captioned photos of a tar, in its order. Raises DataSetError if it is not a tar."""
    samples: dict[str, _Sample] = {}
    try:
        with (
            file.open("rb") as source,
            tarfile.open(fileobj=source, mode="r:", tarinfo=TarHeader, errors="replace") as archive,
        ):
            while (member := archive.next()) is not None:
                if member.isdir():
                    continue
                folder, _, last = member.name.rpartition("/")
                stem, _, suffix = last.partition(".")
                sample = samples.setdefault(f"{folder}/{stem}" if folder else stem, _Sample())
                try:
                    _add_member(sample, member, suffix.lower(), source)
                except ValueError as error:
                    sample.errors.append(f"{quoted(member.name)}: {error}")
            _check_end(archive, source)
    except tarfile.TarError as error:
        raise DataSetError(
            f"{file} is not a complete, uncompressed tar ({error}). Download it again, or pack it "
            f"with `tar -cf {file.name} FOLDER`."
        ) from None
    for key, sample in samples.items():
        yield _check_sample(file, key, sample)


def _check_end(archive: tarfile.TarFile, source: BinaryIO) -> None:
    """Raise TarError if reading stopped before the end of the tar; `tarfile` does not report it."""
    source.seek(archive.offset)
    if source.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise tarfile.ReadError(f"damaged at byte {archive.offset:,}")


def _add_member(sample: _Sample, member: tarfile.TarInfo, suffix: str, source: BinaryIO) -> None:
    """Add a photo or its captions to a sample; other files are ignored.

    Raises ValueError for a file that cannot be used.
    """
    is_photo = suffix.rpartition(".")[2] in PHOTO_SUFFIXES
    if not is_photo and suffix not in _TEXT_SUFFIXES and suffix != "json":
        return
    inner_path(member.name)
    if not member.isreg() or member.sparse is not None:
        raise ValueError("not a regular file")
    if member.size > (_MAX_PHOTO_BYTES if is_photo else _MAX_TEXT_BYTES):
        raise ValueError(f"too large ({member.size:,} bytes)")
    if is_photo:
        if sample.photo is not None:
            raise ValueError(f"a second photo next to {quoted(sample.photo.name)}")
        sample.photo = member
        return
    source.seek(member.offset_data)
    data = source.read(member.size)
    if suffix != "json":
        sample.captions = _from_text(data)
    elif not sample.captions:  # the .txt takes precedence
        sample.captions = _from_json(data)


def _from_text(data: bytes) -> tuple[str, ...]:
    """One caption per line."""
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError("not UTF-8 text") from None
    return checked_captions([line for line in lines if line.strip()])


def _from_json(data: bytes) -> tuple[str, ...]:
    """The captions in a JSON object; none if it holds other metadata."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None
    found = value.get("captions", value.get("caption")) if isinstance(value, dict) else None
    return () if found is None else checked_captions(found)


def _check_sample(file: Path, key: str, sample: _Sample) -> Member | Problem:
    where = f"{file}, {quoted(key)}"
    if sample.errors:
        return Problem(where, sample.errors[0])
    if sample.photo is None:
        return Problem(where, "the caption has no photo")
    if not sample.captions:
        return Problem(where, "the photo has no caption")
    photo = sample.photo
    return Member(photo.name, sample.captions, photo.offset_data, photo.size)
