"""Sources of photos past folders: object stores, WebDataset tars, tables of paths, bytes and URLs.

No Ray is needed: a task is done in this process by the same work.
"""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from indexes.catalogue import IndexModel
from indexes.lake.location import Location
from indexes.lake.read_parts import PartReader
from retrieval.cluster.claims import Claims
from retrieval.cluster.fetch import download
from retrieval.cluster.known import Known
from retrieval.cluster.sources import find_source, list_source
from retrieval.cluster.tasks import Task, in_tasks
from retrieval.cluster.work import Job, Work
from retrieval.encoders.registry import load_encoder
from retrieval.errors import DataSetError, PhotoError, RetrievalError
from retrieval.fusion.store import load_fusion

pytestmark = pytest.mark.extras
pytest.importorskip("pyarrow", reason="pyarrow is not installed (the extra `cluster`)")
pytest.importorskip("fsspec", reason="fsspec is not installed (the extra `cluster`)")


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    encoder = load_encoder("mini")
    fusion = load_fusion(encoder.fingerprint, encoder.dim)
    model = IndexModel(encoder.name, encoder.fingerprint, encoder.dim, fusion.name)
    return Job(str(tmp_path_factory.mktemp("lake")), model, fusion)


def indexed(job: Job, named: str) -> tuple[dict, dict]:
    """The rows of files by path, and of photos by hash, of a source that one worker encodes."""
    work = Work(job, Claims(np.empty(0, np.int64)).claim)
    files, photos = {}, {}
    for listing in list_source(find_source(named), (), (), ()):
        for task in in_tasks(listing.root, listing.items, 100):
            for part in work.run(task).parts:
                with PartReader(Location.of(job.lake), part, job.model.dim) as reader:
                    if part.kind == "files":
                        files.update((f.path, f) for some in reader.files() for f in some)
                    else:
                        photos.update((p.photo.hash, p) for some in reader.facts() for p in some)
    return files, photos


def texts(row) -> list[str]:
    return [text for _, text in row.captions]


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


@pytest.fixture
def tar(originals: Path, tmp_path: Path) -> Path:
    file = tmp_path / "tars" / "00000.tar"
    file.parent.mkdir()
    with tarfile.open(file, "w") as archive:
        add(archive, "a.png", (originals / "coffee.png").read_bytes())
        add(archive, "a.txt", b"a cup of coffee\n")
        add(archive, "a.json", json.dumps({"caption": "espresso", "width": 5}).encode())
        add(archive, "b.jpg", (originals / "rocket.jpg").read_bytes())
        add(archive, "c.jpg", b"no photo")
        add(archive, "../d.jpg", (originals / "china.jpg").read_bytes())
    return file


@pytest.mark.parametrize("named", ["file", "folder"])
def test_a_tar_gives_its_photos_with_their_captions(job, tar, named):
    files, photos = indexed(job, str(tar if named == "file" else tar.parent))
    assert set(files) == {"00000.tar/a.png", "00000.tar/b.jpg", "00000.tar/c.jpg"}
    assert texts(files["00000.tar/a.png"]) == ["a cup of coffee", "espresso"]
    assert "not a photo" in files["00000.tar/c.jpg"].reason
    assert len(photos) == 2
    assert files["00000.tar/a.png"].root == str(tar.parent)
    captioned = photos[files["00000.tar/a.png"].hash]
    assert captioned.digest is not None
    assert 0 < captioned.share < 1


def test_a_tar_that_is_cut_off_gives_a_sentence(tar):
    tar.write_bytes(tar.read_bytes()[:-30_000])
    listings = list(list_source(find_source(str(tar)), (), (), ()))
    assert not listings[0].items
    assert "not a complete, uncompressed tar" in listings[0].notes[0]


def test_an_object_store_gives_photos_with_what_lies_beside_them(job, originals):
    import fsspec

    store = fsspec.filesystem("memory")
    store.pipe("/bucket/trip/coffee.png", (originals / "coffee.png").read_bytes())
    store.pipe("/bucket/trip/coffee.txt", b"a cup of coffee")
    store.pipe("/bucket/trip/rocket.jpg", (originals / "rocket.jpg").read_bytes())
    store.pipe("/bucket/trip/.hidden.jpg", b"x")
    store.pipe("/bucket/notes.doc", b"x")
    try:
        files, photos = indexed(job, "memory://bucket")
        assert set(files) == {"trip/coffee.png", "trip/rocket.jpg"}
        assert texts(files["trip/coffee.png"]) == ["a cup of coffee"]
        assert files["trip/coffee.png"].captions[0][0] == "trip/coffee.txt"
        assert len(photos) == 2
    finally:
        store.rm("/bucket", recursive=True)


def test_parquet_with_bytes_gives_its_photos(job, originals, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = ["coffee.png", "rocket.jpg"]
    image = [{"bytes": (originals / name).read_bytes(), "path": name} for name in names]
    table = pa.table({"image": [*image, {"bytes": b"no", "path": ""}], "text": ["coffee", "", "x"]})
    pq.write_table(table, tmp_path / "data.parquet", row_group_size=2)
    files, photos = indexed(job, str(tmp_path / "data.parquet"))
    assert [texts(files[path]) for path in sorted(files)] == [["coffee"], [], ["x"]]
    assert len(photos) == 2
    assert [files[path].hash is None for path in sorted(files)] == [False, False, True]


def test_a_table_of_paths_gives_photos_inside_its_folder_alone(job, originals, tmp_path):
    (tmp_path / "rocket.jpg").write_bytes((originals / "rocket.jpg").read_bytes())
    (tmp_path / "list.csv").write_text(
        "image,caption\nrocket.jpg,a rocket\n../secret.jpg,x\n/etc/x.jpg,y\nmissing.jpg,z\n"
    )
    files, photos = indexed(job, str(tmp_path / "list.csv"))
    assert set(files) == {"rocket.jpg"}
    assert texts(files["rocket.jpg"]) == ["a rocket"]
    assert len(photos) == 1


def test_a_table_of_urls_never_asks_machines_of_a_private_network(job, tmp_path):
    (tmp_path / "urls.csv").write_text(
        "url,caption\nhttp://127.0.0.1:1/a.jpg,x\nhttp://169.254.169.254/b.jpg,y\nfile:///c.jpg,z\n"
    )
    files, photos = indexed(job, str(tmp_path / "urls.csv"))
    assert not photos
    assert "private network" in files["http/127.0.0.1:1/a.jpg"].reason
    assert "private network" in files["http/169.254.169.254/b.jpg"].reason
    assert "not one of the web" in files["file//c.jpg"].reason


def test_a_url_of_localhost_is_refused():
    with pytest.raises(PhotoError, match="private network"):
        download("http://localhost/a.jpg", 100)


def test_a_source_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(RetrievalError, match="does not exist"):
        find_source(str(tmp_path / "nowhere"))


def test_what_is_no_parquet_file_is_an_error(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"no")
    with pytest.raises(DataSetError, match="no Parquet file"):
        list(list_source(find_source(str(tmp_path / "x.parquet")), (), (), ()))


def test_a_photo_in_many_places_is_encoded_by_one_task(job, originals, tmp_path):
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes((originals / "rocket.jpg").read_bytes())
    (listing,) = list_source(find_source(str(tmp_path)), (), (), ())
    work = Work(job, Claims(np.empty(0, np.int64)).claim)
    tasks = list(in_tasks(listing.root, listing.items, 1))
    assert [work.run(task).encoded for task in tasks] == [1, 0]
    assert work.run(tasks[0]).encoded == 1  # the same again, as after a worker's end


def test_known_photos_are_not_encoded_again(originals):
    (listing,) = list_source(find_source(str(originals)), (), (), ())
    to_read, gone = Known().changes(listing, False)
    assert to_read == listing.items
    assert not gone


def test_halves_of_a_task_share_a_key():
    task = Task("/x", ())
    assert {half.key for half in task.halves(2)} == {task.name}
