"""The vectors: every kind against brute force."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexes.vectors import flat
from indexes.vectors.approximate import EXACT_SHARE, ApproximateRows
from indexes.vectors.build import Plan, build
from indexes.vectors.rows import Bias, Rows, Selection
from indexes.vectors.store import KINDS, Stored, open_stored

APPROXIMATE = [kind for kind in KINDS if kind != "exact"]
DIM = 24


def unit_rows(seed: int, count: int, dim: int) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def clustered(seed: int, count: int) -> np.ndarray:
    """Rows near 200 centres, as photos are: without structure no approximate kind is any good."""
    random = np.random.default_rng(seed)
    centres = unit_rows(1000, 200, DIM)
    rows = centres[random.integers(200, size=count)] + 0.6 * unit_rows(seed, count, DIM)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def write(
    folder: Path, kind: str, count: int, seed: int = 0, bias: bool = True
) -> tuple[Stored, np.ndarray, np.ndarray]:
    """Vectors of a kind on disk, with their ids and rows."""
    rows = clustered(seed, count)
    ids = np.arange(count) * 2 + 3
    plan = Plan({"lean": lean} if bias else {}, "lean" if bias else "", clustered(seed + 1, 200))
    return build(folder, [(ids, rows)], count, DIM, 0, plan, kind), ids, rows  # type: ignore[arg-type]


def lean(rows: np.ndarray) -> np.ndarray:
    """A bias that changes the order."""
    return np.abs(rows[:, 0]) * np.float32(0.5)


# Exact search ------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=80)
@given(
    seed=st.integers(0, 1000),
    count=st.integers(0, 60),
    dim=st.integers(1, 40),
    k=st.integers(1, 80),
    split=st.floats(0, 1),
    share=st.one_of(st.none(), st.floats(0, 1)),
    exclude=st.booleans(),
    strength=st.sampled_from([None, 0.0, 0.1, 3.0]),
    lowest=st.one_of(st.none(), st.floats(-0.5, 0.5)),
)
def test_search_equals_brute_force(
    seed: int,
    count: int,
    dim: int,
    k: int,
    split: float,
    share: float | None,
    exclude: bool,
    strength: float | None,
    lowest: float | None,
) -> None:
    """Over two parts, with and without a choice of ids, a bias and a lowest score: as numpy."""
    random = np.random.default_rng(seed)
    rows, query = unit_rows(seed, count, dim), unit_rows(seed + 1, 1, dim)[0]
    ids = np.sort(random.permutation(3 * count + 1)[:count]) + 1
    values = (random.standard_normal(count) * (strength or 0)).astype(np.float32)
    cut = int(split * count)
    parts = [Rows(ids[:cut], rows[:cut]), Rows(ids[cut:], rows[cut:])]
    biases = [Bias("b", values[:cut]), Bias("b", values[cut:])]
    chosen = None if share is None else np.sort(random.permutation(ids)[: int(share * count)])
    mask = np.ones(count, bool) if chosen is None else np.isin(ids, chosen) ^ exclude
    selection = Selection(None if exclude else chosen, chosen if exclude else None, lowest)
    found, scores = flat.search(
        parts, query, k, [selection] * 2, None if strength is None else biases
    )
    exact = rows @ query
    if lowest is not None:
        mask &= exact >= lowest
    ordered = exact - values
    expected = np.sort(ordered[mask])[::-1][:k]
    places = np.searchsorted(ids, found)
    assert mask[places].all() and len(set(found.tolist())) == len(found)
    if lowest is None:  # else rounding may decide about the last
        assert np.allclose(scores - values[places], expected, atol=1e-5)
    assert np.allclose(exact[places], scores, atol=1e-5)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 1000),
    copies=st.integers(2, 9),
    dim=st.integers(1, 600),
    k=st.integers(1, 12),
    split=st.floats(0, 1),
)
def test_equal_rows_get_equal_scores_and_come_in_order_of_id(
    seed: int, copies: int, dim: int, k: int, split: float
) -> None:
    """Wherever they are among other rows, though a product rounds a row by its place."""
    random = np.random.default_rng(seed)
    rows = unit_rows(seed, 20 + copies, dim)
    equal = random.permutation(len(rows))[:copies]
    rows[equal] = rows[equal[0]]
    ids = np.arange(len(rows)) + 1
    cut = int(split * len(rows))
    parts = [Jittery(ids[:cut], rows[:cut]), Jittery(ids[cut:], rows[cut:])]
    found, scores = flat.search(parts, rows[equal[0]], k)
    first = min(k, copies)
    if dim > 1:  # in one dimension all rows are equal, or opposite
        assert found[:first].tolist() == sorted(ids[equal].tolist())[:first]
    assert (scores[:first] == scores[0]).all() and len(found) == min(k, len(rows))
    assert (np.diff(scores) <= 0).all() and ((np.diff(found) > 0) | (np.diff(scores) < 0)).all()


class Jittery(Rows):
    """Rounds every other row down: what BLAS does on some processors, on any processor."""

    def scores(self, query: np.ndarray) -> np.ndarray:
        scores = super().scores(query)
        scores[::2] = np.nextafter(scores[::2], np.float32(-2))
        return scores


def test_rows_that_hold_nan_are_never_found() -> None:
    rows = unit_rows(0, 5, 8)
    query = rows[3].copy()
    rows[[1, 3]] = np.nan
    found, scores = flat.search([Rows(np.arange(5), rows)], query, 5)
    assert sorted(found.tolist()) == [0, 2, 4] and np.isfinite(scores).all()


# Approximate kinds -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple]:
    """Vectors of each kind over 12,000 rows, written once."""
    known: dict[str, tuple] = {}

    def of(kind: str) -> tuple:
        if kind not in known:
            known[kind] = write(tmp_path_factory.mktemp("vectors") / kind, kind, 12_000)
        return known[kind]

    return of


@pytest.mark.parametrize("kind", APPROXIMATE)
@pytest.mark.parametrize("biased", [True, False])
def test_an_approximate_kind_finds_what_the_biased_exact_order_would(
    made: Callable, kind: str, biased: bool
) -> None:
    stored, ids, rows = made(kind)
    assert isinstance(stored.rows, ApproximateRows) and stored.about.recall >= 0.98
    values = lean(rows)
    bias = [Bias("lean", values)] if biased else None
    hits = 0
    for query in clustered(99, 100):
        found, scores = flat.search([stored.rows], query, 10, None, bias)
        exact = rows @ query
        assert np.allclose(scores, exact[np.searchsorted(ids, found)], atol=2e-3)  # float16 rows
        ordered = exact - values if biased else exact
        best = np.sort(ordered)[-10]
        hits += int((ordered[np.searchsorted(ids, found)] >= best - 2e-3).sum())
    assert hits >= 970


@pytest.mark.parametrize("kind", APPROXIMATE)
@pytest.mark.parametrize("share", [0.5, EXACT_SHARE * 1.2, EXACT_SHARE / 2, 0.0])
def test_a_filter_loses_nothing(made: Callable, kind: str, share: float) -> None:
    stored, ids, rows = made(kind)
    allowed = np.sort(np.random.default_rng(1).permutation(ids)[: int(share * len(ids))])
    mask = np.isin(ids, allowed)
    hits = 0
    for query in clustered(99, 50):
        found, _ = flat.search([stored.rows], query, 10, [Selection(allowed)])
        assert np.isin(found, allowed).all()
        best = np.sort((rows @ query)[mask])[-10:]
        hits += int((rows[np.searchsorted(ids, found)] @ query >= best[:1] - 2e-3).sum())
    assert hits >= 0.97 * 50 * min(10, len(allowed))


@pytest.mark.parametrize("kind", APPROXIMATE)
def test_a_folder_of_similar_photos_far_from_the_query_loses_nothing(
    made: Callable, kind: str
) -> None:
    stored, ids, rows = made(kind)
    queries = clustered(98, 60)
    order = np.argsort(-(rows @ rows[11]), kind="stable")
    mask = np.zeros(len(ids), np.bool_)
    mask[order[: len(ids) // 10]] = True  # the tenth that is most like one photo
    hits = 0
    for query in queries:
        found, _ = flat.search([stored.rows], query, 10, [Selection(ids[mask])])
        assert mask[np.searchsorted(ids, found)].all()
        best = np.sort((rows @ query)[mask])[-10]
        hits += int((rows[np.searchsorted(ids, found)] @ query >= best - 2e-3).sum())
    assert hits >= 0.98 * 600


@pytest.mark.parametrize("value", [65_535, 0])
def test_wrong_cells_of_rows_find_other_rows_and_break_nothing(
    made: Callable, tmp_path: Path, value: int
) -> None:
    stored, ids, rows = made("ivf")
    copy = tmp_path / "v"
    shutil.copytree(stored.folder, copy)
    np.save(copy / "cells.npy", np.full(len(ids), value, np.uint16))
    allowed = ids[::2]
    found, _ = flat.search([open_stored(copy, DIM, 10**9).rows], rows[0], 10, [Selection(allowed)])
    assert len(found) <= 10 and np.isin(found, allowed).all()


@pytest.mark.parametrize("kind", APPROXIMATE)
def test_what_is_excluded_is_never_found(made: Callable, kind: str) -> None:
    stored, _, rows = made(kind)
    first, _ = flat.search([stored.rows], rows[7], 20)
    excluded = Selection(excluded=first[::2])
    second, _ = flat.search([stored.rows], rows[7], 20, [excluded])
    assert len(second) == 20 and not set(second.tolist()) & set(first[::2].tolist())
    assert set(first[1::2].tolist()) <= set(second.tolist())


def test_another_bias_or_very_many_hits_are_answered_exactly(made: Callable) -> None:
    stored, ids, rows = made("ivf")
    other = Bias("other", np.abs(rows[:, 1]))
    query = clustered(99, 1)[0]
    found, _ = flat.search([stored.rows], query, 10, None, [other])
    assert found.tolist() == ids[np.argsort(-(rows @ query - other.values))[:10]].tolist()
    found, _ = flat.search([stored.rows], query, 5000)
    assert len(found) == 5000
    missed = set(ids[np.argsort(-(rows @ query))[:4900]].tolist()) - set(found.tolist())
    assert not missed


def test_threads_of_faiss_do_not_wait_by_spinning() -> None:
    """Beside a program that uses the processor, spinning makes a search eight times slower."""
    code = (
        "import os; from indexes.lazy_imports import load_faiss; load_faiss(); "
        "assert 'OMP_WAIT_POLICY' not in os.environ"
    )
    told = {**os.environ, "OMP_DISPLAY_ENV": "true"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=told, capture_output=True, text=True, check=True
    )
    if "OMP_WAIT_POLICY" not in done.stderr:
        pytest.skip("FAISS has a GPU here, or an OpenMP that does not tell")
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in done.stderr
