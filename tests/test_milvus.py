"""An index in Milvus answers as one in a folder does: the same queries, filters and commands."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import retrieval
from indexes.index import Index
from indexes.lake.copy_index import copy_index
from indexes.lake.location import Location
from indexes.milvus.place import parse
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


@pytest.mark.timeout(1000)
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
def test_a_load_goes_on_after_the_server_or_the_loader_was_killed(
    server: Milvus, tmp_path: Path
) -> None:
    """Every photo is there once in the end, and the parts that are loaded are not loaded again."""
    from indexes.milvus.cluster_index import ClusterIndex
    from indexes.vectors.build import Plan

    place = parse(f"{server.address}killed?lake={tmp_path / 'lake'}")
    ids = set(random_lake(Location.of(tmp_path / "lake"), parts=4, photos=1500))

    def kill_once(done: int, _: int) -> None:
        if done > 2000 and not killed:
            killed.append(done)
            server.kill()
            server.start()

    def end(done: int, _: int) -> None:
        if done > 1000:
            raise KeyboardInterrupt

    killed: list[int] = []
    with ClusterIndex.open(ClusterIndex.locate_at(place), writable=True) as index:
        with pytest.raises(KeyboardInterrupt):
            index.load_vectors(Plan(progress=end))
        assert index.load_vectors(Plan(progress=kill_once)) == len(ids)
        assert killed
        assert index.load_vectors(Plan()) == 0
        assert index.collection.count() == len(ids)
        chosen = sorted(ids)[::500]
        assert set(index.collection.values(chosen, "bias")) == set(chosen)


def random_lake(location: Location, parts: int, photos: int) -> list[int]:
    """A lake of photos that look like nothing; gives their ids."""
    from indexes.catalogue import IndexModel
    from indexes.lake import manifest as manifests
    from indexes.lake.schema import FileRow, PhotoRow
    from indexes.lake.write_parts import write_files, write_photos
    from indexes.photos import Photo
    from retrieval.encoders.registry import load_encoder

    encoder = load_encoder("mini")
    model = IndexModel(encoder.name, encoder.fingerprint, encoder.dim, "mean")
    manifest = manifests.create(location, model)
    random, ids = np.random.default_rng(0), []
    for part in range(parts):
        vectors = random.normal(size=(photos, encoder.dim)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        rows = [PhotoRow(Photo(random.bytes(32).hex(), 1, 1, "JPEG"), v) for v in vectors]
        places = [FileRow("/photos", f"{part}/{i}", 1, 1, r.photo.hash) for i, r in enumerate(rows)]
        written = [write_photos(location, rows, encoder.dim), write_files(location, places)]
        manifest = manifests.commit(location, manifest, written)
        ids += [row.id for row in rows]
    return ids


@in_own_network
@pytest.mark.parametrize("kind", ["FLAT", "IVF_SQ8"])
def test_filters_give_what_exact_search_over_the_lake_gives(
    server: Milvus, tmp_path: Path, kind: str
) -> None:
    """Few photos, which Milvus is told by their ids, and many, which a condition lets through."""
    from indexes.milvus import snapshot
    from indexes.milvus.cluster_index import ClusterIndex
    from indexes.photos import Filter
    from indexes.vectors.build import Plan

    location = Location.of(tmp_path / "lake")
    place = parse(f"{server.address}filtered_{kind}?lake={location.url}")
    random_lake(location, parts=4, photos=500)
    folder = ClusterIndex.locate_at(place)
    with ClusterIndex.open(folder, writable=True) as index:
        index.load_vectors(Plan(), kind)  # type: ignore[arg-type]
        every, rows = index.catalogue.embeddings.all_searchable(index.model.dim)
        roots = index.catalogue.roots.all()
        for listed in (20_000, 10):
            patch = pytest.MonkeyPatch()
            patch.setattr(snapshot, "_LISTED", listed)
            for folders in ((), ("1",), ("0", "3"), ("2/7",), ("2/77", "2/7", "3")):
                wanted = Filter(folders=tuple((roots[0][0], name) for name in folders))
                allowed = index.catalogue.photos.matching(wanted)
                keep = np.isin(every, allowed)
                for query in rows[::700]:
                    query = query + 0.02 * np.random.default_rng(1).normal(size=len(query))
                    query = (query / np.linalg.norm(query)).astype(np.float32)
                    scores = rows[keep] @ query
                    best = every[keep][np.argsort(-scores)[:10]].tolist()
                    found = [i for i, _ in index.search(query, 10, wanted)]
                    assert len(found) == len(best)
                    enough = len(best) if kind == "FLAT" else 0.8 * len(best)
                    assert len(set(found) & set(best)) >= enough
                    cosines = index.cosines(query, found)
                    assert cosines == pytest.approx(
                        index.catalogue.embeddings.searchable(found, len(query)) @ query, abs=1e-5
                    )
            patch.undo()


@in_own_network
def test_a_lost_collection_is_made_again_from_the_lake(
    run: Run, indexed: dict[str, tuple[Path, str]]
) -> None:
    from indexes.milvus.collection import Collection
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
    for kind in ("HNSW", "IVF_SQ8", "FLAT"):  # exact again in the end
        load_vectors(place, kind)
        found = run("search", "a cat", "-f", "json", "--index", place, cwd=folder)
        assert found.code == 0, found.messages
        assert len(set(exact.names) & set(found.names)) >= 9
    assert found.names == exact.names


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


@in_own_network
def test_recall_of_an_exact_collection_is_that_of_the_folder(
    indexed: dict[str, tuple[Path, str]], run: Run
) -> None:
    from benchmarks import index_recall
    from benchmarks.recall import RecallOptions

    folder, place = indexed["with captions"]
    result = run("benchmark", "recall", place, "--ranking", "plain", "--ranking", "nnn", "--json")
    assert result.code == 0, result.messages
    options = RecallOptions(rankings=("plain", "nnn"))
    for there, here in zip(
        json.loads(result.out), index_recall.measure(str(folder), options), strict=True
    ):
        measured = {name: round(m.value, 4) for name, m in here.measured["text_to_image"].items()}
        assert measured == {name: there["text_to_image"][name] for name in measured}
        assert measured["R@1"] > 0 and measured["R@10"] > 50
    result = run("benchmark", "recall", place, "--ranking", "csls")
    assert result.code and "plain, nnn" in result.messages
