"""WebDataset tars: `KEY.jpg` beside `KEY.txt` or `KEY.json`, read where they are.

Nothing is unpacked: a photo is remembered by its place in the tar. Only the captions are read, each
of a bounded size; compressed tars are refused, since nothing in them can be found without unpacking
all before it.
"""

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Self

from retrieval.captions.formats import Problem, checked_captions, inner_path, quoted
from retrieval.errors import DataSetError
from retrieval.photos.walk import PHOTO_SUFFIXES

_TEXTS = frozenset(("txt", "caption", "captions", "cap", "text"))
_LARGEST_TEXT = 1 << 20  # bytes, of a caption or of a name
_LARGEST_PHOTO = 1 << 29


@dataclass(frozen=True)
class Member:
    """A photo in a tar: its name, its captions, and where its bytes are."""

    name: str
    captions: tuple[str, ...]
    offset: int
    length: int


@dataclass
class _Sample:
    photo: tarfile.TarInfo | None = None
    captions: tuple[str, ...] = ()
    wrong: list[str] = field(default_factory=list)


class _Header(tarfile.TarInfo):
    """A tar's header whose long names are bounded; `tarfile` would read gigabytes of a name."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        assert archive.fileobj is not None
        place = archive.fileobj.tell()
        block = archive.fileobj.read(tarfile.BLOCKSIZE)
        archive.fileobj.seek(place)
        if len(block) == tarfile.BLOCKSIZE and block[156:157] in b"xXgLK":
            size = tarfile.TarInfo.frombuf(block, archive.encoding or "utf-8", "replace").size
            if size > _LARGEST_TEXT:
                raise tarfile.ReadError(f"a name of {size:,} bytes")
        return super().fromtarfile(archive)


def read_members(file: Path) -> Iterator[Member | Problem]:
    """The captioned photos of a tar, in its order; raises DataSetError if it is none."""
    samples: dict[str, _Sample] = {}
    try:
        with (
            file.open("rb") as source,
            tarfile.open(fileobj=source, mode="r:", tarinfo=_Header, errors="replace") as archive,
        ):
            while (member := archive.next()) is not None:
                if member.isdir():
                    continue
                folder, _, last = member.name.rpartition("/")
                stem, _, suffix = last.partition(".")
                sample = samples.setdefault(f"{folder}/{stem}" if folder else stem, _Sample())
                try:
                    _take(sample, member, suffix.lower(), source)
                except ValueError as bad:
                    sample.wrong.append(f"{quoted(member.name)}: {bad}")
            _check_end(archive, source)
    except tarfile.TarError as error:
        raise DataSetError(
            f"{file} is no whole, uncompressed tar ({error}). Fetch it again, or pack it with "
            f"`tar -cf {file.name} FOLDER`."
        ) from None
    for key, sample in samples.items():
        yield _judged(file, key, sample)


def _check_end(archive: tarfile.TarFile, source: BinaryIO) -> None:
    """Raise TarError where reading ended before the tar did; `tarfile` says nothing then."""
    source.seek(archive.offset)
    if source.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise tarfile.ReadError(f"damaged at byte {archive.offset:,}")


def _take(sample: _Sample, member: tarfile.TarInfo, suffix: str, source: BinaryIO) -> None:
    """Note a photo or its captions; other parts of a sample are not ours."""
    is_photo = suffix.rpartition(".")[2] in PHOTO_SUFFIXES
    if not is_photo and suffix not in _TEXTS and suffix != "json":
        return
    inner_path(member.name)
    if not member.isreg() or member.sparse is not None:
        raise ValueError("not a regular file")
    if member.size > (_LARGEST_PHOTO if is_photo else _LARGEST_TEXT):
        raise ValueError(f"too large ({member.size:,} bytes)")
    if is_photo:
        if sample.photo is not None:
            raise ValueError(f"a second photo beside {quoted(sample.photo.name)}")
        sample.photo = member
        return
    source.seek(member.offset_data)
    data = source.read(member.size)
    if suffix != "json":
        sample.captions = _from_text(data)
    elif not sample.captions:  # what the .txt says goes
        sample.captions = _from_json(data)


def _from_text(data: bytes) -> tuple[str, ...]:
    """A caption a line."""
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError("not UTF-8 text") from None
    return checked_captions([line for line in lines if line.strip()])


def _from_json(data: bytes) -> tuple[str, ...]:
    """The captions that an object names; none where it is of other facts."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None
    found = value.get("captions", value.get("caption")) if isinstance(value, dict) else None
    return () if found is None else checked_captions(found)


def _judged(file: Path, key: str, sample: _Sample) -> Member | Problem:
    where = f"{file}, {quoted(key)}"
    if sample.wrong:
        return Problem(where, sample.wrong[0])
    if sample.photo is None:
        return Problem(where, "the caption has no photo")
    if not sample.captions:
        return Problem(where, "the photo has no caption")
    photo = sample.photo
    return Member(photo.name, sample.captions, photo.offset_data, photo.size)
