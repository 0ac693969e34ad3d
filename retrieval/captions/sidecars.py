"""Captions of the photos in a folder, read from files beside them when the folder is indexed.

Files that belong to one photo are read by `photo_sidecars`. No file is trusted: sizes are bounded,
links are not followed out of the folder, and control characters are dropped. Lists of captions: see
`lists`; captions inside photo files: see `metadata`.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from indexes.captions import Caption
from retrieval.captions.lists import MAX_CAPTIONS, read_lists
from retrieval.captions.photo_sidecars import Sidecar, read_sidecars
from retrieval.captions.rows import LONGEST_CAPTION


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
    for caption in read_lists(root, by_folder, paths, lists, result.notes):
        if text := clean(caption.text):
            captions[caption.path].append(replace(caption, text=text))
    for path in paths:
        unique = {caption.text: caption for caption in reversed(captions.get(path, ()))}
        result.captions += list(reversed(unique.values()))[:MAX_CAPTIONS]
    if unreadable:
        result.notes.append(
            f"{len(unreadable)} file(s) beside photos could not be read as captions, the first "
            f"{unreadable[0]}."
        )
    return result


def clean(text: str) -> str:
    """A caption as one line of printable characters, cut at the longest length."""
    cut = text[:LONGEST_CAPTION]
    if not cut.isprintable():  # few are not
        cut = "".join(c if c.isprintable() else " " for c in cut)
    return " ".join(cut.split())
