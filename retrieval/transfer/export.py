"""Write an index out for other programs: embeddings as .npy, paths, captions and facts as a table.

The layout is that of clip-retrieval, which `retrieval.transfer.source` reads back. Nothing is
encoded, and photos are not copied.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_type_hints

import numpy as np

from indexes.arrays import Floats
from indexes.atomic_write import sync_names
from indexes.catalogue import IndexModel
from indexes.errors import StorageError
from indexes.index import Index
from indexes.photos import Photo
from indexes.regular_files import delete_tree
from retrieval.transfer.about import About, write_about

DType = Literal["float32", "float16"]
Table = tuple[str, Callable[[list[dict[str, Any]]], None], Callable[[], None]]
"""A table that is being written: its name, how to add rows, and how to close it."""
_BATCH = 2048  # photos


@dataclass(frozen=True)
class ExportReport:
    """What was written. table: its file; captioned: photos with a caption embedding."""

    folder: Path
    table: Path
    model: IndexModel
    photos: int
    captioned: int


def export_to(index: Index, folder: Path, dtype: DType = "float32") -> ExportReport:
    """Write all photos of an index that can be found to a new folder, whole or not at all.

    Raises StorageError if there is something in the folder, or it cannot be written.
    """
    try:
        if folder.is_symlink() or (
            folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
        ):
            raise StorageError(f"There is something in {folder}. Name a new folder to export to.")
        with _whole_folder(folder) as temporary:
            table, photos, captioned = index.read(lambda: _write(index, temporary, dtype))
    except OSError as error:
        raise StorageError(
            f"{folder} cannot be written ({error.strerror}). Free some space, or name another "
            "folder."
        ) from error
    return ExportReport(folder, folder / table, index.model, photos, captioned)


@contextmanager
def _whole_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder, which becomes `folder` at the end; it goes if the block raises."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    delete_tree(temporary)
    try:
        yield temporary
        for path in sorted(temporary.rglob("*")):
            if path.is_file():
                with path.open("rb+") as file:
                    os.fsync(file.fileno())
            else:
                sync_names(path)
        if folder.is_dir():
            folder.rmdir()  # it was empty
        temporary.rename(folder)
        sync_names(folder.parent)
    finally:
        with suppress(OSError):
            delete_tree(temporary)


def _write(index: Index, folder: Path, dtype: DType) -> tuple[str, int, int]:
    """Write all files; returns the name of the table, and the photos without and with captions."""
    delete_tree(folder)  # `Index.read` may call this twice
    for name in ("img_emb", "text_emb", "metadata"):
        (folder / name).mkdir(parents=True)
    catalogue, dim = index.catalogue, index.model.dim
    photos = captioned = 0
    ids = _pages(lambda last: catalogue.photos.next_ids(last, _BATCH))
    table, write_rows, close = _open_table(folder / "metadata")
    with (
        (folder / "img_emb" / "img_emb_0.npy").open("wb") as images,
        (folder / "text_emb" / "text_emb_0.npy").open("wb") as texts,
    ):
        for file in (images, texts):
            _write_header(file, 0, dim, dtype)
        try:
            for page in ids:
                images.write(_bytes(catalogue.embeddings.images(page, dim), dtype))
                found = catalogue.embeddings.captions_of(page, dim)
                rows = np.zeros((len(page), dim), np.float32)
                for i, photo in enumerate(page):
                    rows[i] = found.get(photo, 0.0)
                texts.write(_bytes(rows, dtype))
                write_rows(_facts(index, page))
                photos, captioned = photos + len(page), captioned + len(found)
        finally:
            close()
        for file in (images, texts):
            _write_header(file, photos, dim, dtype)
    if not captioned:
        delete_tree(folder / "text_emb")
    model = index.model
    write_about(folder, About(model.name, model.fingerprint, dim, photos))
    return f"metadata/{table}", photos, captioned


def _pages(following: Callable[[int], list[int]]) -> Iterator[list[int]]:
    """Ids page by page; following: the next ones after an id."""
    last = 0
    while page := following(last):
        yield page
        last = page[-1]


def _write_header(file: BinaryIO, rows: int, dim: int, dtype: DType) -> None:
    """The header of a .npy, at its start; it has the same length whatever the number of rows."""
    file.seek(0)
    about = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": (rows, dim)}
    np.lib.format.write_array_header_1_0(file, about)
    if rows:
        file.seek(0, os.SEEK_END)


def _bytes(rows: Floats, dtype: DType) -> bytes:
    return rows.astype(np.dtype(dtype).newbyteorder("<")).tobytes()


# The table -------------------------------------------------------------------------------------


def _facts(index: Index, ids: Sequence[int]) -> list[dict[str, Any]]:
    """What is known of each photo, as plain values.

    Paths are relative to the indexed folder, or absolute if there are several.
    """
    catalogue = index.catalogue
    roots = {root.id: root.path for root in index.roots()}
    captions: dict[int, tuple[str, ...]] = {}
    if catalogue.captions.any():  # an older format has no table of them
        captions = catalogue.captions.of_photos(range(ids[0], ids[-1] + 1))
    known = catalogue.photos.get(ids)
    rows = []
    for i in ids:
        photo, places = known[i]
        paths = [
            path if len(roots) == 1 else str(roots[root] / path)
            for root, path in places
            if root in roots
        ]
        texts = list(captions.get(i, ()))
        rows.append(
            {
                "image_path": paths[0] if paths else photo.hash,
                "copies": paths[1:],
                "caption": texts[0] if texts else None,
                "captions": texts,
                **asdict(photo),
            }
        )
    return rows


def _open_table(
    folder: Path,
) -> tuple[str, Callable[[list[dict[str, Any]]], None], Callable[[], None]]:
    """A table to write: its name, how to add rows, and how to close it."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        return _open_json_lines(folder)
    text, texts = pyarrow.string(), pyarrow.list_(pyarrow.string())
    kinds = {"str": text, "int": pyarrow.int64(), "float": pyarrow.float64()}
    facts = [
        (name, next(kind for word, kind in kinds.items() if word in str(hint)))
        for name, hint in get_type_hints(Photo).items()
    ]
    columns = [("image_path", text), ("copies", texts), ("caption", text), ("captions", texts)]
    schema = pyarrow.schema([*columns, *facts])
    writer = parquet.ParquetWriter(folder / "metadata_0.parquet", schema, write_page_checksum=True)

    def write(rows: list[dict[str, Any]]) -> None:
        writer.write_table(pyarrow.Table.from_pylist([_unicode(row) for row in rows], schema))

    return "metadata_0.parquet", write, writer.close


def _unicode(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose texts are Unicode: Parquet has no bytes in a name that are not."""
    return {
        name: [*map(_as_unicode, value)] if isinstance(value, list) else _as_unicode(value)
        for name, value in row.items()
    }


def _as_unicode(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _open_json_lines(folder: Path) -> Table:
    file = (folder / "metadata_0.jsonl").open("w", encoding="ascii")

    def write(rows: list[dict[str, Any]]) -> None:
        file.writelines(json.dumps(row) + "\n" for row in rows)

    return "metadata_0.jsonl", write, file.close
