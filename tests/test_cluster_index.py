"""The whole way on many machines: sources, Ray's workers, the lake, Milvus, and searches.

Run in a network of its own, for Milvus listens on all addresses: see `tests.cluster_fixtures`.
"""

import shutil
from pathlib import Path

import pytest

import retrieval
from retrieval import ClusterOptions, WorkerSize
from tests.cluster_fixtures import Milvus, in_own_network, milvus_server, needs_milvus, rerun
from tests.conftest import Run

pytestmark = needs_milvus


def test_in_a_network_of_its_own() -> None:
    rerun(__file__)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory):
    with milvus_server(tmp_path_factory.mktemp("milvus")) as running:
        yield running


@pytest.fixture
def captioned(originals: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    shutil.copytree(originals, folder)
    (folder / "coffee.txt").write_text("an espresso on a wooden table\n")
    return folder


@in_own_network
def test_a_folder_is_indexed_searched_changed_and_loaded_again(
    server: Milvus, captioned: Path, tmp_path: Path, run: Run
):
    place, lake = f"{server.address}folder", tmp_path / "lake"
    alone = tmp_path / "alone"
    retrieval.index(captioned, index=alone, model="mini")
    done = run("index", captioned, "--index", place, "--lake", lake, "--model", "mini")
    assert done.code == 0, done.messages
    for query in ("a cup of coffee", "a cat", "espresso on wood"):
        expected = run("search", query, "--index", alone, "-f", "json", "-k", 10).json
        found = run("search", query, "--index", place, "-f", "json", "-k", 10)
        assert found.code == 0, found.messages
        assert [hit["path"] for hit in found.json] == [hit["path"] for hit in expected]

    # What is new is encoded, what is gone is not found, a caption is embedded without its photo.
    (captioned / "rocket.jpg").unlink()
    shutil.copy(captioned / "coffee.png", captioned / "copy.png")
    (captioned / "cat.txt").write_text("x")
    (captioned / "chelsea.txt").write_text("the neighbour's ginger tomcat\n")
    report = retrieval.index(index=place)
    assert (report.encoded, report.removed, report.fused) == (0, 1, 1)
    retrieval.index(index=alone)
    with retrieval.open(place) as photos, retrieval.open(alone) as others:
        found = photos.search("ginger tomcat", k=19)
        assert Path(found[0].path).name == "chelsea.png"
        assert [hit.path for hit in found] == [h.path for h in others.search("ginger tomcat", k=19)]

    # All vectors are loaded into a new collection; nothing is encoded.
    options = ClusterOptions(kind="HNSW", rebuild_vectors=True, size=WorkerSize(1, 1))
    again = retrieval.index(index=place, cluster=options)
    assert again.encoded == 0
    with retrieval.open(place) as photos:
        assert Path(photos.search("ginger tomcat", k=1)[0].path).name == "chelsea.png"


@in_own_network
def test_what_makes_no_sense_there_says_so(server: Milvus, captioned: Path, tmp_path: Path):
    place = f"{server.address}none"
    with pytest.raises(retrieval.RetrievalError, match="--lake URL"):
        retrieval.index(captioned, index=place)
    options = ClusterOptions(lake=str(tmp_path / "lake"))
    with pytest.raises(retrieval.RetrievalError, match="--rebuild is for an index in a folder"):
        retrieval.index(
            captioned, index=place, options=retrieval.Options(rebuild=True), cluster=options
        )
    with pytest.raises(retrieval.RetrievalError, match="--index milvus://"):
        retrieval.index(captioned, index=tmp_path / "index", cluster=options)
