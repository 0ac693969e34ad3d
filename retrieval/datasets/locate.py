"""Find the parts of a captioned photo set on disk: its caption file or its tars.

A data set is named by its folder or its caption file. No caption is read here; where the photos of
a caption file are is found by `retrieval.captions.locate`.
"""

import stat
from pathlib import Path

from retrieval.captions.rows import quoted, unknown_format
from retrieval.errors import DataSetError
from retrieval.photos.files import real_path

_CAPTION_FILES = (
    "captions.jsonl",
    "metadata.jsonl",
    "dataset_*.json",
    "dataset.json",
    "captions_*.json",
    "annotations/captions_*.json",
    "*.token.txt",
    "*.token",
    "captions.txt",
    "captions.csv",
    "captions.tsv",
    "captions.json",
    "metadata.csv",
    "results.csv",
    "*_karpathy.txt",  # as CLIP_benchmark has them
)
# What a folder may have besides: a caption file if nothing else is, or what is none for certain.
_OTHER_FILES = ("*.csv", "*.tsv", "*.jsonl", "instances_*.json", "annotations/instances_*.json")
_COMPRESSED = (".gz", ".tgz", ".bz2", ".xz", ".zst", ".zip")


def find_shards(where: Path) -> list[tuple[Path, str | None]]:
    """The tars that `where` is or has, each with its split: the subfolder it is in, if any."""
    if where.is_file():
        return [(where, None)] if where.suffix.lower() == ".tar" else []
    if not where.is_dir() or any(next(where.glob(name), None) for name in _CAPTION_FILES):
        return []
    return [(path, None) for path in sorted(where.glob("*.tar"))] or [
        (path, path.parent.name) for path in sorted(where.glob("*/*.tar"))
    ]


def holds_captions(folder: Path) -> bool:
    """Whether a folder has a caption file or tars, by their names."""
    names = (*_CAPTION_FILES, "*.tar", "*/*.tar")
    return folder.is_dir() and any(next(folder.glob(name), None) for name in names)


def find_caption_file(where: Path) -> Path:
    """The caption file; raises DataSetError if there is none or more than one."""
    if where.is_file():
        if where.suffix.lower() in _COMPRESSED:
            raise unknown_format(where, "it is compressed: unpack it first")
        return where
    if not where.is_dir():
        raise DataSetError(f"There is no data set {where}. Name a folder or a file that exists.")
    for name in (*_CAPTION_FILES, *_OTHER_FILES):
        found = sorted(where.glob(name))
        if len(found) > 1:
            listed = ", ".join(str(path.relative_to(where)) for path in found)
            raise DataSetError(f"{where} holds several data sets: {listed}. Name one of the files.")
        if found:
            return found[0]
    raise unknown_format(where, "no captions in it")


def in_folder(folder: Path, path: str) -> str | None:
    """What is wrong with the photo `path` in `folder`; None if it is a file inside it."""
    try:
        state = (folder / path).lstat()
        if stat.S_ISLNK(state.st_mode):
            real = real_path(folder, path)
            if real is None:
                return f"the photo {quoted(path)} is a link that leads out of {folder}"
            state = real.stat()
    except (OSError, ValueError, RuntimeError):
        return f"there is no photo {quoted(path)} in {folder}"
    return None if stat.S_ISREG(state.st_mode) else f"{quoted(path)} in {folder} is not a file"
