"""Captions of the photos in a folder, read from text files when the folder is indexed.

A photo `photo.jpg` may have `photo.txt`, `photo.xmp`, `photo.jpg.txt` and `photo.jpg.xmp` in its
folder. No file is trusted: sizes are bounded, links are not followed out of the folder, and control
characters are dropped. Lists of captions: see `lists`; captions inside photo files: see `metadata`.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from indexes.captions import Caption
from retrieval.captions.lists import LISTS, MAX_CAPTIONS, read_lists
from retrieval.captions.metadata import MAX_XMP, xmp_texts
from retrieval.captions.rows import LONGEST_CAPTION
from retrieval.errors import PhotoError
from retrieval.photos.files import open_inside

_MAX_SIDECAR = 1 << 16  # bytes


@dataclass
class ReadCaptions:
    """The captions of photos, and sentences about files that could not be read."""

    captions: list[Caption] = field(default_factory=list)
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
        for caption in _read_sidecars(root, folder, inside, unreadable):
            captions[caption.path].append(caption)
    for caption in read_lists(root, by_folder, paths, lists, result.notes):
        if text := clean(caption.text):
            captions[caption.path].append(replace(caption, text=text))
    for path in paths:
        unique = {caption.text: caption for caption in reversed(captions.get(path, ()))}
        result.captions += list(reversed(unique.values()))[:MAX_CAPTIONS]
    if unreadable:
        result.notes.append(
            f"{len(unreadable)} text file(s) could not be read as captions, the first "
            f"{unreadable[0]}."
        )
    return result


def clean(text: str) -> str:
    """A caption as one line of printable characters, cut at the longest length."""
    words = "".join(c if c.isprintable() else " " for c in text[:LONGEST_CAPTION]).split()
    return " ".join(words)


def _read_sidecars(
    root: Path, folder: str, photos: Sequence[str], unreadable: list[str]
) -> Iterator[Caption]:
    """The captions in text and XMP files of one folder; `unreadable` gets those that are bad."""
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
        for sidecar in dict.fromkeys(
            f"{start}{suffix}" for suffix in (".txt", ".xmp") for start in (name, stem)
        ):
            if sidecar not in names or (sidecar in LISTS and stem == "captions"):
                continue
            origin = f"{folder}/{sidecar}" if folder else sidecar
            try:
                texts = _read_sidecar(root, origin)
            except Exception as error:  # whatever is wrong with a file, the others are read
                unreadable.append(f"{origin!r} ({error})")
                continue
            yield from (Caption(path, origin, text) for text in map(clean, texts) if text)


def _read_sidecar(root: Path, path: str) -> list[str]:
    """The texts in a sidecar; raises OSError, PhotoError or ValueError."""
    is_xmp = path.endswith(".xmp")
    limit = MAX_XMP if is_xmp else _MAX_SIDECAR
    with open_inside(root, path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise PhotoError(f"longer than {limit:,} bytes")
    return xmp_texts(data) if is_xmp else data.decode("utf-8-sig").splitlines()
