"""Indexing on a real Ray cluster of three nodes, of which workers, nodes and drivers are killed."""

import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

import retrieval
from indexes.index import Index
from indexes.lake.location import Location
from indexes.lake.manifest import latest
from indexes.lake.read_parts import PartReader
from retrieval.cluster.options import ClusterOptions, WorkerSize
from retrieval.cluster.run import index_lake
from retrieval.indexing.options import Progress
from tests import ray_cluster

pytestmark = [pytest.mark.slow, pytest.mark.extras]

COPIES = 60


@pytest.fixture(scope="module")
def nodes():
    with ray_cluster.three_nodes() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def many(originals: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 different photos, captions for some, a copy and a file that is no photo."""
    folder = tmp_path_factory.mktemp("many") / "photos"
    folder.mkdir()
    sources = sorted(path for path in originals.iterdir() if path.suffix in (".jpg", ".png"))
    for number in range(COPIES):
        with Image.open(sources[number % len(sources)]) as image:
            photo = image.convert("RGB").resize((96 + number, 96))
        photo.save(folder / f"{number:03d}.jpg")
    (folder / "007.txt").write_text("a photo that has a caption\n")
    shutil.copy(folder / "001.jpg", folder / "copy.jpg")
    (folder / "bad.jpg").write_bytes(b"no photo")
    return folder


def contents(lake: Path) -> tuple[dict[str, np.ndarray], dict[str, Any], Counter[str]]:
    """What a lake holds: vectors by hash, files by path, and how many rows each photo has."""
    location = Location.of(lake)
    manifest = latest(location)
    vectors, files, rows = {}, {}, Counter[str]()
    for part in manifest.parts:
        with PartReader(location, part, manifest.model.dim) as reader:
            if part.kind == "files":
                files.update((row.path, row) for some in reader.files() for row in some)
                continue
            facts = [fact for some in reader.facts() for fact in some]
            searched = np.concatenate([rows for _, rows in reader.searchable()])
            for fact, vector in zip(facts, searched, strict=True):
                vectors[fact.photo.hash] = vector
                rows[fact.photo.hash] += 1
    return vectors, files, rows


def assert_whole(lake: Path, folder: Path) -> None:
    """Every photo of the folder is in the lake, exactly once, as one machine encodes it."""
    vectors, files, rows = contents(lake)
    names = {path.name for path in folder.iterdir() if path.suffix == ".jpg"}
    assert set(files) == names
    assert set(rows.values()) == {1}
    good = {name for name in names if files[name].hash}
    assert {files[name].hash for name in good} == set(vectors)
    with Index.open(folder / ".retrieval") as index:
        ids = index.catalogue.photos.ids(vectors)
        assert len(ids) == len(vectors)
        alone = index.catalogue.embeddings.searchable(list(ids.values()), index.model.dim)
    cosines = np.sum(alone * np.stack([vectors[digest] for digest in ids]), axis=1)
    assert cosines.min() > 0.9999


@pytest.fixture(scope="module", autouse=True)
def _alone(many: Path) -> None:
    """What one machine makes of the photos."""
    retrieval.index(many, model="mini")


def run(lake: Path, folder: Path, **options: Any) -> Any:
    cluster = ClusterOptions(task_files=6, size=WorkerSize(cpus=1))
    return index_lake(
        str(lake),
        lake.with_name("mirror"),
        [str(folder)],
        "mini",
        cluster=cluster,
        **options,
    )


def test_three_nodes_encode_each_photo_once_and_as_one_machine_does(nodes, many, tmp_path):
    lake = tmp_path / "lake"
    report = run(lake, many)
    assert (report.encoded, report.copied, report.skipped) == (COPIES, 1, 1)
    assert report.captioned == 1
    assert_whole(lake, many)
    _, files, _ = contents(lake)
    assert "not a photo" in files["bad.jpg"].reason
    assert files["007.jpg"].captions == (("007.txt", "a photo that has a caption"),)
    again = run(lake, many)
    assert (again.encoded, again.unchanged) == (0, COPIES + 2)


def test_a_worker_that_is_killed_costs_no_photo(nodes, many, tmp_path):
    lake = tmp_path / "lake"
    report = run(lake, many, make=ray_cluster.KilledOnce)
    assert (tmp_path / "killed").exists()
    assert report.encoded == COPIES
    assert_whole(lake, many)


def test_a_photo_that_kills_every_worker_is_recorded_and_the_others_are_encoded(
    nodes, originals, tmp_path
):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("coffee.png", "rocket.jpg", "china.jpg", "chelsea.png"):
        shutil.copy(originals / name, folder)
    shutil.copy(originals / "flower.jpg", folder / "poison.jpg")
    report = run(tmp_path / "lake", folder, make=ray_cluster.KilledByPhoto)
    assert report.encoded == 4
    assert [Path(path).name for path, _ in report.reasons] == ["poison.jpg"]
    _, files, rows = contents(tmp_path / "lake")
    assert "ended the process" in files["poison.jpg"].reason
    assert set(rows.values()) == {1}


def test_a_node_that_is_lost_costs_no_photo(nodes, many, tmp_path):
    lost = []

    def lose(now: Progress) -> None:
        if now.done and not lost:
            lost.append(nodes.worker_nodes.copy().pop())
            nodes.remove_node(lost[0], allow_graceful=False)

    report = run(tmp_path / "lake", many, make=ray_cluster.Slow, progress=lose)
    nodes.add_node(num_cpus=1, object_store_memory=ray_cluster.STORE)
    assert lost
    assert report.encoded == COPIES
    assert_whole(tmp_path / "lake", many)


DRIVER = """
import sys
from pathlib import Path
from retrieval.cluster.options import ClusterOptions, WorkerSize
from retrieval.cluster.run import index_lake
from tests.ray_cluster import Slow

options = ClusterOptions(task_files=6, size=WorkerSize(workers=1, cpus=1))
mirror = Path(sys.argv[1] + "-mirror")
index_lake(sys.argv[1], mirror, [sys.argv[2]], "mini", cluster=options, make=Slow)
"""


def test_a_run_that_is_killed_is_continued_and_nothing_is_encoded_twice(nodes, many, tmp_path):
    lake = tmp_path / "lake"
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(lake), str(many)],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 120
        while len(list(lake.glob("photos/*.parquet"))) < 2:
            assert driver.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        others = psutil.Process(driver.pid).children(recursive=True)
        driver.kill()
        driver.wait()
    # Ray's own processes see that the driver has gone; a worker may end its task before that.
    _, alive = psutil.wait_procs(others, timeout=15)
    for process in alive:
        process.kill()
    written = sum(len(rows) for rows in _photos_in(lake).values())
    assert 0 < written < COPIES
    report = run(lake, many)
    assert report.encoded == COPIES - written
    assert_whole(lake, many)


def _photos_in(lake: Path) -> dict[str, list[str]]:
    """The photos of every part that there is, named in a manifest or not."""
    import pyarrow.parquet as pq

    return {
        path.name: pq.read_table(path, columns=["hash"]).column(0).to_pylist()
        for path in lake.glob("photos/part-*.parquet")
    }


def test_two_runs_at_once_are_refused(nodes, many, tmp_path):
    refused = []

    def second(now: Progress) -> None:
        if not refused:
            with pytest.raises(retrieval.IndexBusyError, match="being changed") as raised:
                run(tmp_path / "lake", many)
            refused.append(raised)

    run(tmp_path / "lake", many, progress=second)
    assert refused
