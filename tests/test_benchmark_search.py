"""`retrieval benchmark search`: types of vector index measured, and the one `auto` would take."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.index_types import kth_best_scores, recall
from benchmarks.search import TypeResult, choose, parse_sizes
from retrieval.errors import QueryError
from tests.conftest import Run, needs_extra

SOME = TypeResult(1000, "exact", "Flat", "", 100.0, 1.0, 2.0, 5.0, 9.0, 0.1, 10**6, 10**6)


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


def test_every_type_is_measured(run: Run, captioned: Path) -> None:
    options = ("--model", "mini", "--sizes", "1k", "--json")
    ran = run("benchmark", "search", captioned, *options)
    assert ran.code == 0, ran.messages
    told = ran.json
    assert [figure["kind"] for figure in told["figures"]] == [
        "exact",
        "fp16",
        "int8",
        "hnsw",
        "ivf",
    ]
    for figure in told["figures"]:
        assert figure["vectors"] == 1000
        assert figure["recall"] > 90
        assert 0 < figure["one_p50"] <= figure["one_p99"]
        assert 0 < figure["batch_p50"] <= figure["batch_p99"]
    exact, half, quarter, *_ = told["figures"]
    assert exact["recall"] == 100
    assert exact["disk"] == pytest.approx(1000 * told["dim"] * 4, rel=0.05)
    assert half["disk"] == pytest.approx(exact["disk"] / 2, rel=0.05)
    assert quarter["disk"] == pytest.approx(exact["disk"] / 4, rel=0.05)
    assert told["choices"]["1000"]["kind"] == "exact"


@needs_extra("plot", "matplotlib")
def test_the_types_are_drawn(run: Run, captioned: Path, tmp_path: Path) -> None:
    chart = tmp_path / "chart.png"
    options = ("--model", "mini", "--sizes", "500", "--type", "exact", "--plot", chart)
    assert run("benchmark", "search", captioned, *options).code == 0
    with Image.open(chart) as drawn:
        assert drawn.size[0] > 1000


def test_the_table_names_size_type_and_choice(run: Run, captioned: Path) -> None:
    options = ("--model", "mini", "--sizes", "500", "--type", "exact")
    out = run("benchmark", "search", captioned, *options).out
    assert "500  exact (Flat)" in out
    assert "500 vectors: auto would use exact: " in out


def test_sizes_are_named_as_people_write_them() -> None:
    assert parse_sizes("1M, 10k,500") == [500, 10_000, 1_000_000]
    for wrong in ("", "ten", "-5", "1.5M", "1G", "5", "10k,,1M"):
        with pytest.raises(QueryError, match="name sizes from 100 to 100M"):
            parse_sizes(wrong)


def test_exact_is_taken_while_it_is_fast_enough_then_the_fastest_that_is_right() -> None:
    slow = replace(SOME, one_p50=900.0)
    hasty = replace(SOME, kind="ivf", recall=80.0, one_p50=0.5)
    right = replace(SOME, kind="hnsw", recall=99.0, one_p50=2.0)
    assert choose([SOME, right])[0] == "exact"
    kind, why = choose([slow, hasty, right])
    assert kind == "hnsw"
    assert why.startswith("2.0 ms a query where exact takes 900 ms")
    assert choose([slow, hasty])[0] == "exact"


def test_recall_counts_what_is_as_near_as_the_exact_tenth() -> None:
    rows = np.repeat(np.eye(3, dtype=np.float32), 10, axis=0)  # ten equals for each query
    queries = np.eye(3, dtype=np.float32)[:2]
    thresholds = kth_best_scores(rows, queries)
    found = np.array([np.arange(10), np.arange(5, 15)])
    assert recall(rows, queries, found, thresholds) == 75
    assert recall(rows, queries, np.full((2, 10), -1), thresholds) == 0
    assert (
        recall(rows, queries, np.zeros((2, 10), np.int64), thresholds) == 5
    )  # once, not ten times


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--type", "tree"], "There is no index type 'tree'. Choose from: exact, fp16"),
        (["--sizes", "many"], "name sizes from 100 to 100M"),
        (["--sizes", "100M"], "Measure smaller --sizes, or set TMPDIR"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_sentence(
    run: Run, captioned: Path, options: list[str], sentence: str
) -> None:
    ran = run("benchmark", "search", captioned, "--model", "mini", *options)
    assert ran.code == 1
    assert sentence in ran.messages
