"""How vectors are written: which kind, with which setting, and what is taken over from before."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from indexes.vectors import build as building
from indexes.vectors import flat, tune
from indexes.vectors.build import Before, Plan, build, wanted_kind
from indexes.vectors.rows import Bias, Rows
from indexes.vectors.store import Stored, open_stored
from tests.test_vectors import DIM, clustered, lean, made, write  # noqa: F401


def grown(stored: Stored, ids: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, ...]:
    """The ids and rows of the vectors with some removed, some replaced and some more; and which
    ids of before are stale."""
    random = np.random.default_rng(5)
    removed, replaced = random.permutation(ids)[:900].reshape(3, 300)[:2]
    keep = ~np.isin(ids, removed)
    rows = rows.copy()
    rows[np.isin(ids, replaced)] = clustered(77, len(replaced))
    more = np.arange(2000) + ids[-1] + 1
    return (
        np.concatenate([ids[keep], more]),
        np.concatenate([rows[keep], clustered(78, len(more))]),
        np.sort(np.concatenate([removed, replaced])),
    )


@pytest.mark.parametrize("kind", ["ivf", "ivf-pq"])
def test_new_rows_join_the_lists_that_there_are(
    made: Callable,  # noqa: F811
    tmp_path: Path,
    kind: str,
    monkeypatch,
) -> None:
    stored, ids, rows = made(kind)
    ids, rows, stale = grown(stored, ids, rows)
    plan = Plan({"lean": lean}, "lean", clustered(1, 200))
    monkeypatch.setattr(building.ivf, "build", None)  # nothing is learned again
    joined = build(
        tmp_path / "v", [(ids, rows)], len(ids), DIM, 1, plan, kind, Before(stored, stale)
    )
    for name in ("centroids.npy", "learned.npy"):
        assert (joined.folder / name).read_bytes() == (stored.folder / name).read_bytes()
    about = joined.about
    assert (about.count, about.cells, about.trained) == (len(ids), stored.about.cells, 12_000)
    assert about.recall >= 0.98 and joined.is_usable()
    hits = 0
    for query in np.concatenate([rows[-200:], rows[np.isin(ids, stale)]]):
        found, _ = flat.search([joined.rows], query, 1)
        hits += int(rows[np.searchsorted(ids, found[0])] @ query >= 1 - 2e-3)
    assert hits >= 0.97 * 500
    assert not np.isin(
        flat.search([joined.rows], rows[0], 2000)[0], stale[~np.isin(stale, ids)]
    ).any()


@pytest.mark.parametrize("name", ["lists.bin", "centroids.npy", "sizes.npy", "about.json"])
def test_lists_that_make_no_sense_are_learned_again(
    made: Callable,  # noqa: F811
    tmp_path: Path,
    name: str,
) -> None:
    stored, ids, rows = made("ivf")
    copy = tmp_path / "before"
    shutil.copytree(stored.folder, copy)
    file = copy / name
    content = file.read_bytes()
    if name == "lists.bin":  # every position is the same
        file.write_bytes(content[:-80] + content[-88:-80] * 10)
    elif name == "about.json":
        file.write_text(json.dumps(json.loads(content) | {"cells": 3}))
    else:
        file.write_bytes(content[: len(content) // 2])
    before = Before(open_stored(copy, DIM, 10**9), np.empty(0, np.int64))
    plan = Plan({"lean": lean}, "lean", clustered(1, 200))
    made_again = build(tmp_path / "v", [(ids, rows)], len(ids), DIM, 1, plan, "ivf", before)
    assert made_again.is_usable() and made_again.about.recall >= 0.98
    assert flat.search([made_again.rows], rows[4], 1)[0][0] == ids[4]


@pytest.mark.parametrize(("count", "bias"), [(25_000, True), (12_100, False)])
def test_lists_are_learned_again_for_many_more_rows_or_another_bias(
    made: Callable,  # noqa: F811
    tmp_path: Path,
    count: int,
    bias: bool,
) -> None:
    stored, _, _ = made("ivf")
    rows, ids = clustered(3, count), np.arange(count) + 1
    plan = Plan({"lean": lean} if bias else {}, "lean" if bias else "", clustered(1, 50))
    before = Before(stored, stored.rows.ids)
    again = build(tmp_path / "v", [(ids, rows)], count, DIM, 1, plan, "ivf", before)
    assert again.about.trained == count


def test_auto_is_exact_while_that_is_fast_and_does_not_waver(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for took, before, kind in (
        (14.0, None, "exact"),
        (14.0, "exact", "exact"),
        (14.0, "hnsw", "hnsw"),
        (16.0, None, "ivf"),
        (16.0, "exact", "ivf"),
        (5.0, "ivf", "exact"),
    ):
        monkeypatch.setattr(building, "exact_milliseconds", lambda *_, took=took: took)
        assert wanted_kind("auto", 100_000, 8, before) == kind
    assert wanted_kind("hnsw", 100_000, 8, None) == "hnsw"
    assert wanted_kind("hnsw", 100, 8, None) == "exact"


def test_an_exact_query_is_timed_as_it_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a search of a microsecond a row, over more rows than caches hold if there are as many."""
    now, timed = [0.0], []

    def nearest(rows: Rows, *_: object, **__: object) -> None:
        now[0] += len(rows) / 1e6
        timed.append(rows.rows.nbytes)

    monkeypatch.setattr(Rows, "nearest", nearest)
    monkeypatch.setattr(building.time, "perf_counter", lambda: now[0])
    for count, dim in ((0, 384), (30_000, 384), (2_000_000, 384), (2_000_000, 1152)):
        timed.clear()
        assert building.exact_milliseconds(count, dim) == pytest.approx(count / 1000)
        assert count < 10**6 or min(timed) > 10**8
        assert max(timed, default=0) <= 2**27, "it takes no more memory than that"


def test_the_setting_is_the_least_that_is_enough(tmp_path: Path) -> None:
    stored, _, _ = write(tmp_path / "v", "ivf", 12_000)
    queries = clustered(5, 100)
    bias = Bias("lean", stored.bias("lean", lambda _: np.empty(0)))
    found = tune.tune(stored.rows, bias, queries, (1, 2, 4, 8, 16, 32, 64))
    assert found.queries == 50 and found.recall >= 0.97
    if found.breadth > 1:
        less = tune.tune(stored.rows, bias, queries, (found.breadth // 2,))
        assert less.recall <= found.recall
