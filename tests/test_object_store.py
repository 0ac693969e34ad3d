"""A lake and photos in an object store: a real S3 protocol, spoken by a server on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from indexes.errors import StorageError
from indexes.lake.location import Location
from tests.cluster_fixtures import in_own_network, milvus_server, needs_milvus, rerun
from tests.conftest import Run
from tests.test_cluster_sources import indexed, job, texts  # noqa: F401

pytestmark = pytest.mark.extras
pytest.importorskip("moto.server", reason="moto is not installed (the extra `dev`)")
pytest.importorskip("s3fs", reason="s3fs is not installed (the extra `dev`)")


def needs_milvus_server(test: Callable[[], None]) -> Callable[[], None]:
    for mark in needs_milvus:
        test = mark(test)
    return test


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an empty bucket."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        import s3fs

        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("bucket")
        yield "s3://bucket"
        s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def test_files_of_a_lake_are_written_listed_and_deleted(store: str) -> None:
    lake = Location.of(f"{store}/lake")
    assert lake.names("parts") == {}
    lake.write("parts/a", b"one")
    lake.write("parts/a", b"three")
    assert lake.names("parts") == {"parts/a": 5}
    assert lake.read("parts/a", 100) == b"three"
    lake.delete("parts/a")
    lake.delete("parts/a")
    assert lake.names("parts") == {}
    with pytest.raises(FileNotFoundError):
        lake.read("parts/a", 100)
    with pytest.raises(StorageError, match="cannot be read or written"):
        Location.of("s3://nobucket/lake").write("a", b"")


def test_of_several_that_create_a_file_one_succeeds(store: str) -> None:
    lake = Location.of(f"{store}/leases")
    with ThreadPoolExecutor(8) as pool:
        created = list(pool.map(lambda i: lake.create("lease", bytes([i])), range(8)))
    assert sum(created) == 1
    assert lake.read("lease", 10) == bytes([created.index(True)])


def test_photos_of_a_bucket_are_indexed_with_the_captions_beside_them(
    store: str,
    job,  # noqa: F811
    originals: Path,
) -> None:
    photos = Location.of(f"{store}/photos")
    for name in ("coffee.png", "rocket.jpg", "china.jpg"):
        photos.write(f"trip 1/{name}", (originals / name).read_bytes())
    photos.write("trip 1/coffee.txt", b"a cup of coffee\n")
    photos.write("trip 1/damaged.jpg", b"no photo")
    photos.write(".trash/china.jpg", (originals / "china.jpg").read_bytes())
    files, rows = indexed(job, f"{store}/photos")
    assert set(files) == {f"trip 1/{n}" for n in ("coffee.png", "rocket.jpg", "china.jpg")} | {
        "trip 1/damaged.jpg"
    }
    assert files["trip 1/damaged.jpg"].reason
    assert len(rows) == 3
    assert texts(files["trip 1/coffee.png"]) == ["a cup of coffee"]
    assert all(row.mtime_ns > 0 for row in files.values())


@needs_milvus_server
@pytest.mark.timeout(1000)
def test_all_in_a_network_of_their_own() -> None:
    rerun(__file__)


@in_own_network
@pytest.mark.timeout(400)
def test_photos_and_lake_in_a_bucket_are_indexed_and_searched(
    store: str, run: Run, originals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    photos = Location.of(f"{store}/archive")
    for name in ("coffee.png", "rocket.jpg", "china.jpg"):
        photos.write(f"{name[0]}/{name}", (originals / name).read_bytes())
    photos.write("c/coffee.txt", b"zanzibar espresso\n")
    monkeypatch.chdir(tmp_path)
    with milvus_server(tmp_path / "milvus") as server:
        place = f"{server.address}bucket"
        first = run("index", f"{store}/archive", "--index", place, "--lake", f"{store}/lake2")
        assert first.code == 0, first.messages
        assert "3 added" in first.out

        def found(*asked: str) -> list[str]:
            done = run("search", *asked, "-f", "json", "--index", place)
            assert done.code == 0, done.messages
            return [hit["path"] for hit in done.json]

        assert found("zanzibar")[0] == f"{store}/archive/c/coffee.png"
        inside = found("a photo", "--in", f"{store}/archive/r", "-k", "9")
        assert inside == [f"{store}/archive/r/rocket.jpg"]
        photos.write("h/horse.png", (originals / "horse.png").read_bytes())
        photos.delete("r/rocket.jpg")
        again = run("index", "--index", place)
        assert again.code == 0, again.messages
        assert "1 added" in again.out, "the source is remembered"
        paths = found("a photo", "-k", "9")
        assert sorted(paths) == [
            f"{store}/archive/{name}" for name in ("c/china.jpg", "c/coffee.png", "h/horse.png")
        ]
        removed = run("remove", f"{store}/archive/h", "--index", place)
        assert removed.code == 0, removed.messages
        assert len(found("a photo", "-k", "9")) == 2
