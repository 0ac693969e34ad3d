"""The lake: parts and manifests of Parquet, and the lease."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

from indexes.catalogue import IndexModel
from indexes.errors import (
    IndexBusyError,
    IndexDamagedError,
    IndexMissingError,
    StorageError,
)
from indexes.lake import manifest as manifests
from indexes.lake.lease import FILE, SECONDS, lease
from indexes.lake.location import Location
from indexes.lake.manifest import Part
from indexes.lake.read_parts import PartReader
from indexes.lake.schema import FileRow, PhotoRow, photo_id
from indexes.lake.write_parts import write_files, write_photos
from indexes.photos import Photo

pytest.importorskip("pyarrow", reason="needs '.[cluster]': no pyarrow")
pytest.importorskip("fsspec", reason="needs '.[cluster]': no fsspec")
pytestmark = pytest.mark.extras

DIM = 8
MODEL = IndexModel("mini", "0" * 64, DIM, "mean")


def row(number: int, captions: tuple[str, ...] = (), **facts: object) -> PhotoRow:
    """A photo of its own; with captions it has embeddings of them."""
    vectors = np.random.default_rng(number).normal(size=(3, DIM)).astype(np.float32)
    seen, said, fused = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    photo = Photo(f"{number:08x}" * 8, 640, 480, "JPEG", **facts)  # type: ignore[arg-type]
    if not captions:
        return PhotoRow(photo, seen)
    return PhotoRow(photo, seen, said, b"digest", fused, 0.5, captions)


def place(row: PhotoRow, path: str, **more: object) -> FileRow:
    return FileRow("/photos", path, 10, 20, row.photo.hash, **more)  # type: ignore[arg-type]


def test_what_is_written_is_read(location: Location) -> None:
    rows = [row(i, ("a cat",) if i % 2 else (), taken="2024-05-06") for i in range(1, 1200)]
    part = write_photos(location, rows, DIM)
    with PartReader(location, part, DIM) as reader:
        facts = [fact for some in reader.facts() for fact in some]
        found = np.concatenate([some for _, some in reader.searchable()])
    assert [fact.photo for fact in facts] == [row.photo for row in rows]
    assert [fact.id for fact in facts] == [photo_id(row.photo.hash) for row in rows]
    searched = np.stack([row.seen if row.fused is None else row.fused for row in rows])
    assert np.abs(found - searched).max() < 1e-3
    assert np.abs(np.linalg.norm(found, axis=1) - 1).max() < 1e-6


def test_other_programs_read_a_part(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    location = Location.of(tmp_path)
    part = write_photos(location, [row(1, ("a cat",)), row(2)], DIM)
    table = pq.read_table(tmp_path / part.name)
    assert table["captions"].to_pylist() == [["a cat"], None]
    assert table["said"].null_count == 1
    assert len(table["seen"][0].as_py()) == DIM


def test_paths_that_are_not_utf8_stay_as_they_are(location: Location) -> None:
    rows = [FileRow("/photos", "a/\udcff.jpg", 1, 2, reason="no", captions=(("x.csv", "é"),))]
    with PartReader(location, write_files(location, rows), DIM) as reader:
        assert list(reader.files()) == [rows]


def test_two_writers_cannot_make_the_same_version(location: Location) -> None:
    first = manifests.create(location, MODEL)
    second = manifests.commit(location, first, [Part("files/part-a.parquet", 1, 1)])
    with pytest.raises(IndexBusyError, match="changed the lake"):
        manifests.commit(location, first, [Part("files/part-b.parquet", 1, 1)])
    assert manifests.latest(location) == second
    with pytest.raises(IndexBusyError):
        manifests.create(location, MODEL)


def test_a_second_writer_waits_for_the_lease(location: Location) -> None:
    with (
        lease(location),
        pytest.raises(IndexBusyError, match="being changed by process"),
        lease(location),
    ):
        pass
    with lease(location):
        pass


def test_the_lease_of_a_dead_writer_ends(location: Location) -> None:
    holder = {
        "token": "x",
        "machine": "another",
        "process": 1,
        "renewed": time.time() - SECONDS - 1,
    }
    location.write(FILE, json.dumps(holder).encode())
    with lease(location):
        pass


def test_a_lake_that_is_not_there_is_said_so(location: Location) -> None:
    with pytest.raises(IndexMissingError, match="There is no lake in"):
        manifests.latest(location)


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[" * 100_000,
        b"[]",
        b'{"format": 1}',
        json.dumps({"format": 1, "version": 1, "model": 3}).encode(),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(location: Location, content: bytes) -> None:
    location.write("manifest/00000001.json", content)
    with pytest.raises(IndexDamagedError, match="is not a manifest"):
        manifests.latest(location)


@pytest.mark.parametrize("name", ["../a.parquet", "photos/part-a/../../x", "photos/part-.parquet"])
def test_a_manifest_names_no_file_outside(location: Location, name: str) -> None:
    first = manifests.create(location, MODEL)
    content = json.loads(first.to_json())
    content["parts"] = [[name, 1, 1]]
    location.write("manifest/00000001.json", json.dumps(content).encode())
    with pytest.raises(IndexDamagedError):
        manifests.latest(location)
    with pytest.raises(IndexDamagedError):
        location.read("../a", 10)


def test_damaged_parts_are_refused(tmp_path: Path) -> None:
    location = Location.of(tmp_path)
    part = write_photos(location, [row(i) for i in range(1, 40)], DIM)
    file = tmp_path / part.name
    whole = file.read_bytes()
    for content in (b"", b"PAR1", whole[:-50], whole[100:], b"x" * len(whole)):
        file.write_bytes(content)
        with pytest.raises(IndexDamagedError):
            read_all(location, part)
    file.write_bytes(whole)
    with pytest.raises(IndexDamagedError, match="rows, not"):
        read_all(location, Part(part.name, 7, part.bytes))
    with pytest.raises(IndexDamagedError, match="another type"):
        PartReader(location, part, DIM + 1)


def test_embeddings_that_are_none_are_refused(tmp_path: Path) -> None:
    location = Location.of(tmp_path)
    for vector in (np.full(DIM, np.nan), np.zeros(DIM), np.full(DIM, 5.0)):
        photo = row(1)
        part = write_photos(
            location, [PhotoRow(photo.photo, vector.astype(np.float32))], DIM, "bad"
        )
        with pytest.raises(IndexDamagedError, match="damaged"):
            read_all(location, part)


def read_all(location: Location, part: Part) -> None:
    with PartReader(location, part, DIM) as reader:
        list(reader.facts())
        list(reader.searchable())
        reader.sum()


def test_a_place_that_cannot_be_opened_is_explained() -> None:
    with pytest.raises(StorageError, match="cannot be opened"):
        Location.of("nosuchthing://x").read("y", 10)
