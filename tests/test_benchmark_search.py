"""`retrieval benchmark search`: kinds of vectors and libraries measured, and what `auto` takes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import benchmarks.vector_libraries
from benchmarks import search_filters
from benchmarks.exact_answers import Answers, exact_answers
from benchmarks.index_types import written
from benchmarks.made_index import FOLDERS, MadeRows, number_of, write_index
from benchmarks.search import parse_sizes
from benchmarks.vector_libraries import LIBRARIES, autofaiss_key
from indexes.index import Index
from indexes.photos import Filter
from indexes.vectors.rows import Selection
from indexes.vectors.store import Kind
from retrieval.encoders.registry import load_encoder
from retrieval.errors import QueryError
from tests.conftest import Run, needs_extra, shared


@pytest.fixture
def captioned(originals: Path, tmp_path: Path) -> Path:
    """Real photos, each with its name for a caption."""
    lines = [
        json.dumps({"image": str(p.relative_to(originals)), "captions": [p.stem]})
        for p in sorted(originals.rglob("*.*"))
    ]
    (tmp_path / "captions.jsonl").write_text("\n".join(lines))
    (tmp_path / "images").symlink_to(originals)
    return tmp_path


@pytest.fixture(scope="module")
def rows() -> MadeRows:
    base = np.random.default_rng(0).standard_normal((500, 384)).astype(np.float32)
    return MadeRows(base / np.linalg.norm(base, axis=1, keepdims=True), 2000, seed=3)


def test_what_users_run_is_measured_beside_a_library(run: Run, captioned: Path) -> None:
    types = [part for name in ("exact", "hnsw", "autofaiss") for part in ("--type", name)]
    ran = run(
        "benchmark", "search", captioned, "--model", "mini", "--sizes", "1k", "--json", *types
    )
    assert ran.code == 0, ran.messages
    measured = ran.json
    exact, library = measured["results"]
    assert (exact["kind"], library["kind"], library["about"]) == ("exact", "autofaiss", "HNSW15")
    assert "1,000 vectors: an index of so few photos is always exact, not hnsw" in ran.messages
    assert exact["vectors"] == library["vectors"] == 1000
    assert exact["speed"]["recall"] == 100
    assert library["speed"]["recall"] > 90
    for result in (exact, library):
        assert 0 < result["speed"]["p50"] <= result["speed"]["p99"]
        assert result["speed"]["per_second"] > 0
        assert result["disk"] > 1000 * measured["dim"] * 4
    filtered = exact["whole"]["filtered"]
    assert set(filtered) == {"10%", "1%"}
    assert all(found["recall"] >= 98 for found in filtered.values())  # embeddings are float16
    assert exact["whole"]["p50"] > exact["speed"]["p50"]
    assert exact["cold"]["seconds"] > 0 and exact["cold"]["mebibytes"] > 10
    assert library["whole"] is None and library["cold"] is None
    assert measured["choices"]["1000"]["kind"] == "exact"


@pytest.mark.slow
def test_kinds_of_an_index_find_what_the_exact_one_does(run: Run) -> None:
    """Over 150 photos: made of fewer, rows in one folder differ by less than float16 can tell."""
    types = ("--type", "ivf", "--type", "hnsw")
    options = ("--model", "mini", "--sizes", "10k", "--json", *types)
    ran = run("benchmark", "search", shared("coco_cc"), *options)
    assert ran.code == 0, ran.messages
    ivf, hnsw = ran.json["results"]
    assert (ivf["kind"], hnsw["kind"]) == ("ivf", "hnsw")
    assert ivf["speed"]["setting"].startswith("nprobe ")
    assert hnsw["speed"]["setting"].startswith("efSearch ")
    for found in (ivf, hnsw):
        assert found["speed"]["recall"] > 95
        assert min(some["recall"] for some in found["whole"]["filtered"].values()) > 90


@needs_extra("plot", "matplotlib")
def test_the_table_and_the_chart_show_size_kind_and_choice(
    run: Run, captioned: Path, tmp_path: Path
) -> None:
    chart = tmp_path / "chart.png"
    options = ("--model", "mini", "--sizes", "500", "--type", "exact", "--plot", chart)
    ran = run("benchmark", "search", captioned, *options)
    assert "    500  exact" in ran.out
    assert "500 vectors: auto takes exact: an exact query takes about " in ran.out
    with Image.open(chart) as drawn:
        assert drawn.size[0] > 1000


@pytest.mark.extras
@pytest.mark.parametrize("name", ["hnswlib", "usearch", "lancedb"])
def test_each_library_finds_nearly_all(name: str, rows: MadeRows, tmp_path: Path) -> None:
    pytest.importorskip(LIBRARIES[name].module, reason=f"{name} is not installed")
    queries = rows.base[:100]
    exact = exact_answers(rows, queries, None).plain
    assert LIBRARIES[name].build(rows, tmp_path) > 0
    speed = benchmarks.vector_libraries.measure_library(name, tmp_path, rows.dim, queries, exact)
    assert speed.recall > 90
    assert 0 < speed.p50 <= speed.p99


def test_made_photos_are_those_of_the_exact_answers(rows: MadeRows, tmp_path: Path) -> None:
    place = write_index(tmp_path, rows, load_encoder("mini"))
    queries = rows.base[:20]
    exact = exact_answers(rows, queries, None)
    with Index.open(place) as index:
        assert index.photo_count() == rows.count
        for share, folder in FOLDERS.items():
            (root,) = index.roots()
            inside = Filter(folders=((root.id, folder),))
            assert len(index.catalogue.photos.matching(inside)) == pytest.approx(
                share * rows.count, rel=0.5
            )
            found = [[i for i, _ in index.search(query, 10, inside)] for query in queries]
            assert exact.filtered[share].recall([np.array(ids) for ids in found]) == 100
        found = [[i for i, _ in index.search(query, 10)] for query in queries]
        assert exact.plain.recall([np.array(ids) for ids in found]) == 100
        assert exact.plain.recall([np.array(ids[1:]) for ids in found]) == 90
        photo, ((_, path),) = index.catalogue.photos.get([7])[7]
        assert number_of(Path(path)) == 7 and photo.width == 640


def test_made_rows_are_the_same_each_time_and_in_a_larger_set(rows: MadeRows) -> None:
    def first(made: MadeRows) -> tuple[np.ndarray, ...]:
        return next(iter(made.blocks()))

    ids, values, near = first(rows)
    again_ids, again, again_near = first(replace(rows, count=50_000))
    assert (ids == np.arange(1, 2001)).all() and (again_ids[:2000] == ids).all()
    assert (again[:2000] == values).all() and (again_near[:2000] == near).all()
    assert np.allclose(np.linalg.norm(values, axis=1), 1, atol=1e-5)
    assert (first(replace(rows, seed=4))[1] != values).any()


def test_a_bias_changes_the_exact_answers(rows: MadeRows) -> None:
    exact = exact_answers(rows, rows.base[:5], lambda some: 9 * (some[:, 0] > 0))
    values = np.concatenate([some for _, some, _ in rows.blocks()])
    assert (values[exact.biased.ids[:, :10] - 1, 0] <= 0).all()
    assert (values[exact.plain.ids[:, :10] - 1, 0] > 0).any()


def test_recall_counts_what_is_as_near_as_the_exact_tenth() -> None:
    ids = np.arange(1, 21)[None]
    scores = np.array([[0.9] * 5 + [0.5] * 10 + [0.1] * 5], np.float32)
    answers = Answers(ids, scores)
    assert answers.recall([np.arange(1, 11)]) == 100
    assert answers.recall([np.r_[1:6, 11:16]]) == 100  # as near as those in their place
    assert answers.recall([np.arange(6, 16)]) == 100
    assert answers.recall([np.arange(11, 21)]) == 50
    assert answers.recall([np.ones(10, np.int64)]) == 10  # once, not ten times
    few = Answers(np.array([[4, 2, *[0] * 8]]), np.array([[0.9, 0.1, *[-np.inf] * 8]], np.float32))
    assert few.recall([np.array([2, 4])]) == 100
    assert few.recall([np.array([2])]) == 50


def test_sizes_are_named_as_people_write_them() -> None:
    assert parse_sizes("1M, 10k,500") == [500, 10_000, 1_000_000]
    for wrong in ("", "ten", "-5", "1.5M", "1G", "5", "10k,,1M"):
        with pytest.raises(QueryError, match="name sizes from 100 to 100M"):
            parse_sizes(wrong)


def test_faiss_is_built_as_autofaiss_would_build_it() -> None:
    assert autofaiss_key(500, 384) == "Flat"
    assert autofaiss_key(5_000, 384) == "HNSW15"
    assert autofaiss_key(1_000_000, 384) == "HNSW32"
    assert autofaiss_key(10_000_000, 384) == "HNSW8"
    assert autofaiss_key(10_000_000, 512) == "OPQ256_768,IVF65536_HNSW32,PQ256x8"


def test_filters_and_more_hits_are_measured(
    rows: MadeRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_filters, "QUERIES", 25)
    monkeypatch.setattr(search_filters, "SHARES", (0.5, 0.01))
    monkeypatch.setattr(search_filters, "HITS", (10, 100))
    queries = rows.base[:60]
    cases = list(search_filters.measure(rows, queries, ["ivf"]))
    assert [case.hits for case in cases if case.allowed == "all"] == [10, 100]
    assert {(c.allowed, c.share) for c in cases if c.allowed != "all"} == {
        (name, share) for name in ("random", "similar") for share in (0.5, 0.01)
    }
    for case in cases:
        assert case.exact > 0 and case.rule.milliseconds > 0
        assert 80 < case.rule.recall <= 100
        if case.enough is not None:
            assert case.enough.recall >= 98
    assert all(case.rule.factor == 0 for case in cases if case.share == 0.01)  # exact
    assert "ivf     all               10" in search_filters.as_table(cases)


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_a_folder_of_similar_photos_is_searched_as_well_as_all(kind: Kind) -> None:
    base = np.random.default_rng(1).standard_normal((900, 24)).astype(np.float32)
    made = MadeRows(base / np.linalg.norm(base, axis=1, keepdims=True), 9000, seed=0)
    values = np.concatenate([some for _, some, _ in made.blocks()])
    near = np.concatenate([near for _, _, near in made.blocks()])
    queries = made.base[:50]
    with written(kind, values, made.base[50:250]) as stored:
        for share in (0.1, 0.2, 0.5):
            inside = np.flatnonzero(made.is_similar(share)[near])
            found = 0
            for query in queries:
                exact = inside[np.argsort(-(values[inside] @ query))[:10]]
                positions, _ = stored.rows.nearest(query, 10, Selection(stored.rows.ids[inside]))
                found += len(np.intersect1d(exact, positions))
            assert found >= 0.98 * 10 * len(queries)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--type", "tree"], "There is no type 'tree'. Choose from: exact, hnsw, ivf, ivf-pq, "),
        (["--type", "gone"], "gone is not installed. Run `pip install "),
        (["--sizes", "many"], "name sizes from 100 to 100M"),
        (["--sizes", "100M"], "Measure smaller --sizes or fewer of --type"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_sentence(
    run: Run,
    captioned: Path,
    options: list[str],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gone = replace(LIBRARIES["hnswlib"], module="no_such_module")
    monkeypatch.setitem(LIBRARIES, "gone", gone)  # type: ignore[arg-type]
    ran = run("benchmark", "search", captioned, "--model", "mini", *options)
    assert ran.code == 1
    assert sentence in ran.messages
