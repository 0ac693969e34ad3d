"""An index in Milvus answers as one in a folder does: the same queries, filters and commands."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import retrieval
from indexes.index import Index
from indexes.lake.copy_index import copy_index
from indexes.lake.location import Location
from tests.cluster_fixtures import (
    Milvus,
    in_own_network,
    milvus_server,
    needs_milvus,
    rerun,
)
from tests.conftest import Run
from tests.golden import record

pytestmark = needs_milvus
KINDS = ("without captions", "with captions")
CASES = [(kind, name) for kind in KINDS for name in record.queries(kind == KINDS[1])]


def test_all_in_a_network_of_their_own() -> None:
    rerun(__file__)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Milvus]:
    with milvus_server(tmp_path_factory.mktemp("milvus")) as server:
        yield server


@pytest.fixture(scope="module", autouse=True)
def caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Mirrors go to a folder of the test; the bank of queries is encoded there, too."""
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
    yield
    patch.undo()


@pytest.fixture(scope="module")
def indexed(
    server: Milvus, originals: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, str]]:
    """The demo's photos, each time in a folder's index and in Milvus."""
    from retrieval.cluster.load import load_vectors

    found = {}
    for at, kind in enumerate(KINDS):
        folder = tmp_path_factory.mktemp("photos") / "photos"
        shutil.copytree(originals, folder)
        if at:
            record.write_captions(folder)
        retrieval.index(folder, model="mini")
        lake = folder.with_name("lake")
        with Index.open(folder / ".retrieval") as index:
            copy_index(index, Location.of(lake))
        place = f"{server.address}golden{at}"
        load_vectors(f"{place}?lake={lake}")
        with retrieval.open(place, trust=True):
            pass  # trusted from now on
        found[kind] = folder, place
    return found


@in_own_network
@pytest.mark.parametrize(("kind", "name"), CASES)
def test_a_query_has_the_same_answer(
    run: Run, indexed: dict[str, tuple[Path, str]], kind: str, name: str
) -> None:
    folder, place = indexed[kind]
    arguments = record.queries(kind == KINDS[1])[name]
    here = run("search", *arguments, "-k", 10, "-f", "json", cwd=folder)
    there = run("search", *arguments, "-k", 10, "-f", "json", "--index", place, cwd=folder)
    assert here.code == there.code == 0, there.messages
    assert [hit["path"] for hit in here.json] == [hit["path"] for hit in there.json]
    for one, other in zip(here.json, there.json, strict=True):
        assert numbers(one) == pytest.approx(numbers(other), abs=1e-4)


def numbers(hit: dict[str, Any]) -> list[float]:
    why = hit["why"] or {}
    values = [hit["score"], hit["relevance"], hit["match"], *why.get("terms", ())]
    return [value for value in values if value is not None]


@in_own_network
@pytest.mark.parametrize(
    "filters",
    [
        ["--after", "2000"],
        ["--before", "2100"],
        ["--in", "."],
        ["--min-score", "0.2"],
    ],
)
def test_filters_leave_the_same_photos(
    run: Run, indexed: dict[str, tuple[Path, str]], filters: list[str]
) -> None:
    folder, place = indexed[KINDS[1]]
    here = run("search", "a cat", *filters, "-k", 20, "-f", "json", cwd=folder)
    there = run("search", "a cat", *filters, "-k", 20, "-f", "json", "--index", place, cwd=folder)
    assert here.code == there.code == 0, there.messages
    assert here.names == there.names


@in_own_network
def test_similar_photos_are_the_same(run: Run, indexed: dict[str, tuple[Path, str]]) -> None:
    folder, place = indexed[KINDS[1]]
    here = run("similar", "chelsea.png", "-f", "json", cwd=folder)
    there = run("similar", "chelsea.png", "-f", "json", "--index", place, cwd=folder)
    assert here.code == there.code == 0, there.messages
    assert here.names == there.names


@in_own_network
def test_info_tells_of_the_lake_and_of_milvus(
    run: Run, indexed: dict[str, tuple[Path, str]]
) -> None:
    done = run("info", "--index", indexed[KINDS[0]][1])
    assert done.code == 0, done.messages
    assert "Milvus FLAT" in done.out


@in_own_network
def test_a_killed_server_has_lost_nothing(
    run: Run, server: Milvus, indexed: dict[str, tuple[Path, str]]
) -> None:
    folder, place = indexed[KINDS[0]]
    before = run("search", "a cat", "-f", "json", "--index", place, cwd=folder)
    server.kill()
    server.start()
    after = run("search", "a cat", "-f", "json", "--index", place, cwd=folder)
    assert after.code == 0, after.messages
    assert json.loads(before.out) == json.loads(after.out)


@in_own_network
def test_a_lost_collection_is_made_again_from_the_lake(
    run: Run, indexed: dict[str, tuple[Path, str]]
) -> None:
    from indexes.milvus.collection import Collection
    from indexes.milvus.place import parse
    from retrieval.cluster.load import load_vectors

    folder, place = indexed[KINDS[1]]
    before = run("search", "a cat", "-f", "json", "--index", place, cwd=folder)
    collection = Collection(parse(place))
    collection.drop()
    collection.close()
    gone = run("search", "a cat", "--index", place, cwd=folder)
    assert gone.code == 1
    assert "There is no index" in gone.messages
    load_vectors(f"{place}?lake={folder.with_name('lake')}")
    after = run("search", "a cat", "-f", "json", "--index", place, cwd=folder)
    assert before.json == after.json


@in_own_network
def test_another_kind_finds_nearly_the_same(run: Run, indexed: dict[str, tuple[Path, str]]) -> None:
    from retrieval.cluster.load import load_vectors

    folder, place = indexed[KINDS[0]]
    exact = run("search", "a cat", "-f", "json", "--index", place, cwd=folder)
    for kind in ("HNSW", "IVF_SQ8", "FLAT"):
        load_vectors(place, kind)
        found = run("search", "a cat", "-f", "json", "--index", place, cwd=folder)
        assert found.code == 0, found.messages
        assert len(set(exact.names) & set(found.names)) >= 9


@in_own_network
def test_fusing_again_writes_to_the_lake(
    run: Run, indexed: dict[str, tuple[Path, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from retrieval.fusion import store
    from retrieval.fusion.attention import Fusion

    folder, place = indexed[KINDS[1]]
    query = ("search", "a red temple", "-k", 20, "-f", "json")
    before = run(*query, "--index", place, cwd=folder)
    assert "Fused 0 photo" in run("fuse", "--index", place).out
    monkeypatch.setattr(store, "load_fusion", lambda *_: Fusion())  # half of each
    for where in ("--index", place), ():
        done = run("fuse", *where, cwd=folder)
        assert done.code == 0, done.messages
        assert f"Fused {len(record.CAPTIONS)} photo" in done.out
    here, there = run(*query, cwd=folder), run(*query, "--index", place, cwd=folder)
    assert there.names == here.names
    assert [hit["score"] for hit in there.json] != [hit["score"] for hit in before.json]


@in_own_network
def test_the_server_shows_an_index_in_milvus(indexed: dict[str, tuple[Path, str]]) -> None:
    from tests.server_fixtures import client_of, names, search, text

    folder, place = indexed[KINDS[1]]
    with retrieval.open(folder) as photos:
        expected = [hit.path.name for hit in photos.search("a cat", k=10)]
    with client_of(place) as client:  # type: ignore[arg-type]
        assert names(search(client, text("a cat"), k=10)) == expected
        known = search(client, text("a cat"))["hits"][0]["id"]
        refused = client.post(
            "/api/v1/notes", json={"ids": [known], "kind": "caption", "text": "mine"}
        )
        assert refused.status_code >= 400
        assert "many machines" in refused.text


@in_own_network
@pytest.mark.parametrize("command", [["check"], ["remove", "--all", "--yes"]])
def test_what_makes_no_sense_there_is_refused(
    run: Run, indexed: dict[str, tuple[Path, str]], command: list[str]
) -> None:
    done = run(*command, "--index", indexed[KINDS[1]][1])
    assert done.code == 1
    assert "is in Milvus" in done.messages


@in_own_network
def test_removed_photos_are_found_no_more(run: Run, indexed: dict[str, tuple[Path, str]]) -> None:
    folder, place = indexed[KINDS[0]]
    assert "chelsea.png" in run("search", "a cat", "-f", "json", "--index", place).names
    done = run("remove", "chelsea.png", "--index", place, cwd=folder)
    assert done.code == 0, done.messages
    found = run("search", "a cat", "-k", 100, "-f", "json", "--index", place, cwd=folder)
    assert "chelsea.png" not in found.names
    assert (
        len(found.names)
        == len(run("search", "a cat", "-k", 100, "-f", "json", cwd=folder).names) - 1
    )
