"""A source of embeddings in batches: files of rows with their tables, or tars of one .npy an image.

Which files belong together is found by their names and checked by their numbers of rows before
anything is read. No photo is looked for here.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from indexes.arrays import Bools, Floats
from retrieval.errors import DataSetError
from retrieval.photos.files import printable
from retrieval.transfer.about import About, read_about
from retrieval.transfer.npy import NpyFile, open_npy
from retrieval.transfer.tables import SUFFIXES, Entry, count_entries, read_entries
from retrieval.transfer.tars import TarRow, is_tar_of_embeddings, read_tar

_BATCH = 2048  # rows
_SHORTEST = 1e-6  # the length of a row that has a direction
_TEXT_WORD = re.compile(r"(^|[^a-z])(text|txt|caption)s?([^a-z]|$)")
_LAYOUTS = (
    "a .npy of embeddings with a .parquet, .csv or .jsonl of paths beside it, a folder with "
    "img_emb/ and metadata/ as clip-retrieval writes them, or a tar with one .npy an image"
)


_Counted = tuple[Path, int]
"""A file and its number of rows."""


@dataclass(frozen=True)
class Batch:
    """Some embeddings with what is known of them, an entry a row.

    images, texts: float32 [n, dim], unit rows, zeros where there is none; `texts` is None in a
    source without embeddings of captions. An entry with a problem has no image embedding.
    """

    entries: tuple[Entry, ...]
    images: Floats
    texts: Floats | None


@dataclass(frozen=True)
class Source:
    """Embeddings on disk. dim: of every row; rows: how many there are, None if that is not known
    before they are read; about: what an export says of itself."""

    where: Path
    dim: int
    rows: int | None
    has_texts: bool
    about: About | None
    batches: Callable[[], Iterator[Batch]]


@dataclass(frozen=True)
class _Files:
    """Arrays and tables in the order of their rows; texts: none, or as many rows as images."""

    images: tuple[NpyFile, ...]
    texts: tuple[NpyFile, ...]
    tables: tuple[Path, ...]


def is_source(where: Path) -> bool:
    """Whether a file or folder holds embeddings, by the names in it."""
    if where.is_dir():
        tars = _find(where, (".tar",))
        return bool(_find(where, (".npy",))) or bool(tars and is_tar_of_embeddings(tars[0]))
    suffix = where.suffix.lower()
    return suffix == ".npy" or (suffix == ".tar" and is_tar_of_embeddings(where))


def open_source(where: Path, dim: int | None = None) -> Source:
    """Find the embeddings in a file or folder and check that they belong together.

    dim: of the model, if known: embeddings of another length are refused. Raises DataSetError.
    """
    if not where.exists():
        raise DataSetError(f"There is no file or folder {printable(where)}. Name {_LAYOUTS}.")
    folder = where if where.is_dir() else where.parent
    about = read_about(folder) if where.is_dir() else None
    tars = [where] if where.suffix.lower() == ".tar" and where.is_file() else []
    if where.is_dir() and not _find(where, (".npy",)):
        tars = _find(where, (".tar",))
    if tars:
        return _tar_source(where, tars, dim)
    files = _files(where)
    first = files.images[0]
    for file in (*files.images, *files.texts):
        if file.dim != (dim or first.dim):
            raise DataSetError(
                f"The rows of {printable(file.path)} have {file.dim} numbers, "
                + (f"and those of the model {dim}" if dim else f"and others {first.dim}")
                + ". Name the model that made them with --model, and files of one model."
            )
    rows = sum(file.rows for file in files.images)
    return Source(where, first.dim, rows, bool(files.texts), about, lambda: _read(files))


def _read(files: _Files) -> Iterator[Batch]:
    entries = (
        entry for table in files.tables for some in read_entries(table, _BATCH) for entry in some
    )
    texts = _blocks(files.texts)
    for images in _blocks(files.images):
        some = list(islice(entries, len(images)))
        if len(some) != len(images):
            raise DataSetError(f"{printable(files.tables[-1])} was shortened while it was read.")
        yield _batch(some, images, next(texts) if files.texts else None)


def _blocks(files: Sequence[NpyFile]) -> Iterator[Floats]:
    """The rows of several files one after the other, in blocks of one size but the last."""
    rest: Floats | None = None
    for block in (block for file in files for block in file.blocks(_BATCH)):
        rest = block if rest is None else np.concatenate([rest, block])
        if len(rest) >= _BATCH:
            yield rest[:_BATCH]
            rest = rest[_BATCH:]
    if rest is not None and len(rest):
        yield rest


def _batch(entries: Sequence[Entry], images: Floats, texts: Floats | None) -> Batch:
    """Rows as they were stored, of any length, as a batch of unit rows."""
    unit, good = _unit_rows(images)
    checked = tuple(
        entry if entry.problem or fine else Entry(entry.path, problem=_why(row))
        for entry, fine, row in zip(entries, good, images, strict=True)
    )
    return Batch(checked, unit, None if texts is None else _unit_rows(texts)[0])


def _unit_rows(rows: Floats) -> tuple[Floats, Bools]:
    """Rows of length one, zeros for those that have no direction; and which have one, bool [n]."""
    with np.errstate(all="ignore"):
        lengths = np.linalg.norm(rows.astype(np.float64), axis=1)
        good = np.isfinite(lengths) & (lengths > _SHORTEST)
        unit = rows / np.where(good, lengths, 1.0)[:, None]
    return np.where(good[:, None], unit, 0.0).astype(np.float32), good


def _why(row: Floats) -> str:
    finite = np.isfinite(row).all()
    return "its embedding is zero" if finite else "its embedding has a number that is not finite"


# Which files belong together -------------------------------------------------------------------


def _files(where: Path) -> _Files:
    """The files of embeddings with those of captions and the tables."""
    if where.is_dir():
        arrays, tables = _find(where, (".npy",)), _find(where, SUFFIXES)
    elif where.suffix.lower() == ".npy":
        arrays, tables = [where], _tables_beside(where)
    else:
        raise DataSetError(f"{printable(where)} holds no embeddings. Name {_LAYOUTS}.")
    texts = [file for file in arrays if _is_of_texts(file, where)]
    images = [file for file in arrays if file not in texts]
    if not images:
        what = "only embeddings of texts" if texts else "no embeddings"
        raise DataSetError(f"{printable(where)} holds {what}. Name {_LAYOUTS}.")
    # What people write down of one set in several formats is read once.
    suffix = next((s for s in SUFFIXES if any(t.suffix.lower() == s for t in tables)), "")
    tables = [file for file in tables if file.suffix.lower() == suffix]
    if not tables:
        raise DataSetError(
            f"{printable(where)} has embeddings and no table of paths. Put a .parquet, .csv or "
            ".jsonl with a line for each row beside it."
        )
    files = _Files(tuple(map(open_npy, images)), tuple(map(open_npy, texts)), tuple(tables))
    rows = [(file.path, file.rows) for file in files.images]
    _check_rows(rows, [(file, count_entries(file)) for file in files.tables], "lines")
    if texts:
        _check_rows(rows, [(file.path, file.rows) for file in files.texts], "rows")
    return files


def _check_rows(images: Sequence[_Counted], others: Sequence[_Counted], what: str) -> None:
    """Raise DataSetError unless there are as many: file by file, or in all if files differ."""
    pairs = list(zip(images, others, strict=False))
    if len(images) != len(others):
        whole = [(files[0][0], sum(rows for _, rows in files)) for files in (images, others)]
        pairs = [(whole[0], whole[1])]
    for (image, rows), (other, count) in pairs:
        if rows != count:
            more = " and the files with it" if len(images) != len(others) else ""
            raise DataSetError(
                f"{printable(image)} has {rows:,} rows and {printable(other)}{more} {count:,} "
                f"{what}: they do not belong together. Name files that do, or move others away."
            )


def _is_of_texts(file: Path, where: Path) -> bool:
    """Whether a .npy holds embeddings of texts, by its name or that of its folder."""
    if file == where:
        return False
    names = [file.stem.lower(), *([file.parent.name.lower()] if file.parent != where else [])]
    return any(_TEXT_WORD.search(name) for name in names)


def _tables_beside(file: Path) -> list[Path]:
    """The table of one .npy: of the same name, else the only one in its folder."""
    same = [file.with_suffix(s) for s in SUFFIXES if file.with_suffix(s).is_file()]
    if same:
        return same
    found = _find_in(file.parent, SUFFIXES)
    number = _order(file)[1]
    numbered = [path for path in found if number and _order(path)[1] == number]
    if len(found) == 1 or not numbered:
        return found
    return numbered


def _find(where: Path, suffixes: Sequence[str]) -> list[Path]:
    """The files with these suffixes in a folder and in the folders in it, in the order of shards.

    Files and folders with a dot first are left out.
    """
    inner = (path for path in where.iterdir() if path.is_dir() and path.name[0] != ".")
    folders = [where, *inner]
    return sorted((f for folder in folders for f in _find_in(folder, suffixes)), key=_order)


def _find_in(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    return sorted(
        (
            path
            for path in folder.iterdir()
            if path.suffix.lower() in suffixes and path.is_file() and path.name[0] != "."
        ),
        key=_order,
    )


def _order(file: Path) -> tuple[str, tuple[int, ...], str]:
    """Shards are numbered: 2 comes before 10."""
    numbers = tuple(int(digits[:18]) for digits in re.findall(r"[0-9]+", file.stem))
    return str(file.parent), numbers, file.name


# Tars ------------------------------------------------------------------------------------------


def _tar_source(where: Path, tars: Sequence[Path], dim: int | None) -> Source:
    """dim: of the model; without it, that of the first embedding that can be read."""
    found = dim
    has_texts = False
    for row in (row for file in tars for row in read_tar(file)):
        if row.image is not None:
            found, has_texts = found or len(row.image), row.text is not None
            break
    if found is None:
        raise DataSetError(f"{printable(where)} holds no embeddings. Name {_LAYOUTS}.")
    length = found

    def batches() -> Iterator[Batch]:
        rows: list[TarRow] = []
        for row in (row for file in tars for row in read_tar(file)):
            rows.append(row)
            if len(rows) == _BATCH:
                yield _of_rows(rows, length)
                rows = []
        if rows:
            yield _of_rows(rows, length)

    return Source(where, length, None, has_texts, None, batches)


def _of_rows(rows: Sequence[TarRow], dim: int) -> Batch:
    images, texts = np.zeros((2, len(rows), dim), np.float32)
    entries = []
    for i, row in enumerate(rows):
        entry = row.entry
        if entry.problem is None and row.image is not None:
            if len(row.image) == dim:
                images[i] = row.image
            else:
                problem = f"its embedding has {len(row.image)} numbers, not {dim}"
                entry = Entry(entry.path, problem=problem)
        if row.text is not None and len(row.text) == dim:
            texts[i] = row.text
        entries.append(entry)
    any_text = any(row.text is not None for row in rows)
    return _batch(entries, images, texts if any_text else None)
