"""Tars with one .npy an image, as WebDataset names them: `KEY.npy` beside `KEY.txt`, `KEY.json`.

A tar is read in its order and never unpacked; other members are passed over. What is wrong with one
image is in its entry.
"""

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from indexes.arrays import Floats
from retrieval.errors import DataSetError
from retrieval.photos.files import printable
from retrieval.photos.walk import PHOTO_SUFFIXES
from retrieval.transfer.npy import LARGEST_VECTOR, vector_from_bytes
from retrieval.transfer.tables import Entry, entry_of
from retrieval.transfer.tar_header import TarHeader

_MOST_TEXT_BYTES = 1 << 20
_PEEKED = 20  # members that tell what a tar holds
_TEXT_ENDINGS = ("txt", "caption", "text")
_TEXT_WORDS = ("text", "txt", "caption")


@dataclass(frozen=True)
class TarRow:
    """One image of a tar: what is known of it and its embeddings as stored, float32 [any].

    An entry with a problem may have none.
    """

    entry: Entry
    image: Floats | None
    text: Floats | None


@dataclass
class _Sample:
    """The members of one key so far."""

    key: str
    photo: str | None = None
    about: dict[str, Any] = field(default_factory=dict)
    captions: str = ""
    image: Floats | None = None
    text: Floats | None = None
    problem: str | None = None

    def row(self) -> TarRow:
        record = {"key": self.key, **self.about}
        if self.photo:
            record["image_path"] = self.photo
        if self.captions:
            record["captions"] = self.captions
        entry = entry_of(record)
        if self.problem is not None:
            entry = Entry(entry.path, problem=self.problem)
        return TarRow(entry, self.image, self.text)


def is_tar_of_embeddings(file: Path) -> bool:
    """Whether a tar holds .npy and no photos, by the names of its first members."""
    try:
        with tarfile.open(file, "r:", tarinfo=TarHeader, errors="replace") as archive:
            names = [member.name.lower() for member in islice(archive, _PEEKED)]
    except (tarfile.TarError, OSError, ValueError, OverflowError):
        return False
    endings = {name.rpartition(".")[2] for name in names}
    return "npy" in endings and not endings & PHOTO_SUFFIXES


def read_tar(file: Path) -> Iterator[TarRow]:
    """The images of a tar that have an embedding, in its order. Raises DataSetError."""
    sample = _Sample("")
    try:
        with tarfile.open(file, "r:", tarinfo=TarHeader, errors="surrogateescape") as archive:
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined] # it remembers all of them
                if not member.isreg():
                    continue
                folder, _, last = member.name.rpartition("/")
                stem, _, ending = last.partition(".")
                key = f"{folder}/{stem}" if folder else stem
                if key != sample.key:
                    if _has_embedding(sample):
                        yield sample.row()
                    sample = _Sample(key)
                _add(sample, archive, member, ending.lower())
            if _has_embedding(sample):
                yield sample.row()
    except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
        raise DataSetError(
            f"{printable(file)} is not a complete, uncompressed tar ({error}). Pack it again with "
            "`tar -cf FILE.tar FOLDER`."
        ) from None


def _has_embedding(sample: _Sample) -> bool:
    return sample.image is not None or sample.problem is not None


def _add(sample: _Sample, archive: tarfile.TarFile, member: tarfile.TarInfo, ending: str) -> None:
    """Add a member to its sample; what it is is told by the ending of its name."""
    kind = ending.rpartition(".")[2]
    if kind in PHOTO_SUFFIXES:
        sample.photo = member.name
    elif kind == "npy":
        try:
            row = vector_from_bytes(_read(archive, member, LARGEST_VECTOR))
        except ValueError as error:
            sample.problem = f"{printable(member.name[-100:])}: {error}"
            return
        if any(word in ending for word in _TEXT_WORDS):
            sample.text = row
        else:
            sample.image = row
    elif kind in _TEXT_ENDINGS or kind == "json":
        try:
            data = _read(archive, member, _MOST_TEXT_BYTES).decode("utf-8-sig", "replace")
            value = json.loads(data) if kind == "json" else data
        except (ValueError, RecursionError):
            return  # no caption
        if isinstance(value, str):
            sample.captions = value.strip()
        elif isinstance(value, dict):
            sample.about = {str(name).lower(): some for name, some in value.items()}


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo, most: int) -> bytes:
    if member.size > most or member.sparse is not None:
        raise ValueError(f"it has {member.size:,} bytes, more than {most:,}")
    file = archive.extractfile(member)
    data = b"" if file is None else file.read()
    if len(data) != member.size:
        raise ValueError("the tar ends before it does")
    return data
