"""Vectors on GPUs: what is found there, and what happens where they lack room or fail.

`pytest -m cuda` runs what needs a GPU; elsewhere FAISS on the processor stands in for one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import retrieval
from indexes.lazy_imports import load_faiss
from indexes.vectors import flat
from indexes.vectors import gpu as gpu_vectors
from indexes.vectors.approximate import padded_dim
from indexes.vectors.build import Plan, build
from indexes.vectors.rows import Bias, Rows, Selection


def unit_rows(count: int, dim: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("copies", [1, 2, 3])
@pytest.mark.parametrize("biased", [False, True])
def test_copies_that_share_the_rows_find_what_the_whole_finds(copies: int, biased: bool) -> None:
    rows, ids = unit_rows(1001, 24), np.arange(1001) * 3 + 1
    whole = Rows(ids, rows)
    own = Bias("own", np.abs(rows[:, 3]))
    faiss = load_faiss()
    spread = gpu_vectors.copied(
        whole, own, [faiss.IndexFlatIP(padded_dim(24)) for _ in range(copies)]
    )
    biases = [own] if biased else None
    for query in unit_rows(9, 24, seed=1):
        for limits in (
            Selection(),
            Selection(allowed=ids[::7]),
            Selection(excluded=ids[:500]),
            Selection(lowest=0.2),
        ):
            found, scores = flat.search([spread], query, 20, [limits], biases)
            expected, right = flat.search([whole], query, 20, [limits], biases)
            assert found.tolist() == expected.tolist()
            np.testing.assert_allclose(scores, right, atol=1e-6)
        other = [Bias("other", np.abs(rows[:, 5]))]
        found, _ = flat.search([spread], query, 20, None, other)
        assert found.tolist() == flat.search([whole], query, 20, None, other)[0].tolist()
    assert flat.nearest_ids([spread], rows[:5]) == set(ids[:5].tolist())


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Rows, Bias]:
    """Rows with inverted lists."""
    rows, ids = unit_rows(12_000, 24), np.arange(12_000) + 5
    compute = lambda some: np.abs(some[:, 3])  # noqa: E731
    plan = Plan({"own": compute}, "own", unit_rows(40, 24, seed=3))
    folder = tmp_path_factory.mktemp("lists") / "v"
    stored = build(folder, [(ids, rows)], len(ids), 24, 0, plan, "ivf")
    return stored.rows, Bias("own", stored.bias("own", lambda _: rows[:, 0]))


@pytest.mark.parametrize("fails", [False, True])
def test_rows_without_room_are_searched_by_their_lists_on_the_gpu(
    listed: tuple[Rows, Bias], fails: bool, monkeypatch
) -> None:
    rows, bias = listed
    copies = []

    class Copy:  # a graphics card's index is searched without a selector, too
        def __init__(self, lists: Any) -> None:
            self.lists, self.searched = lists, 0
            copies.append(self)

        def search(self, query, count, params=None):
            assert params is None
            self.searched += 1
            if fails:
                raise RuntimeError("an illegal memory access was encountered")
            return self.lists.search(query, count)

    faiss = load_faiss()
    set_parameter = faiss.ParameterSpace.set_index_parameter
    monkeypatch.setattr(
        faiss.ParameterSpace,
        "set_index_parameter",
        lambda self, index, name, value: set_parameter(self, index.lists, name, value),
    )
    monkeypatch.setattr(faiss, "GpuParameterSpace", faiss.ParameterSpace, raising=False)
    moved = gpu_vectors.with_lists(rows, Copy)
    for query in unit_rows(20, 24, seed=4):
        for biases in ([bias], None):
            found, scores = flat.search([moved], query, 10, None, biases)
            expected, right = flat.search([rows], query, 10, None, biases)
            assert found.tolist() == expected.tolist() and scores.tolist() == right.tolist()
    assert copies[0].searched == 40
    allowed = [Selection(allowed=rows.ids[::3])]
    query = unit_rows(1, 24, seed=5)[0]
    found, _ = flat.search([moved], query, 10, allowed)
    assert found.tolist() == flat.search([rows], query, 10, allowed)[0].tolist()
    assert copies[0].searched == 40


def test_what_fits_nowhere_stays_on_the_cpu(listed: tuple[Rows, Bias], monkeypatch) -> None:
    def full(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(gpu_vectors, "MIN_ROWS", 10)
    monkeypatch.setattr(gpu_vectors, "count", lambda: 1)
    monkeypatch.setattr(gpu_vectors, "_empty", full)
    monkeypatch.setattr(gpu_vectors, "_lists_on_gpus", full)
    assert gpu_vectors.to_gpus(listed[0], listed[1]) is listed[0]
    exact = Rows(listed[0].ids, listed[0].rows)
    assert gpu_vectors.to_gpus(exact, listed[1]) is exact


@pytest.mark.cuda
def test_lists_on_a_gpu_find_what_they_find_on_the_cpu(listed: tuple[Rows, Bias]) -> None:
    if not gpu_vectors.count():
        pytest.skip("no GPU that FAISS can use")
    rows, bias = listed
    moved = gpu_vectors.with_lists(rows, lambda lists: gpu_vectors._lists_on_gpus(lists, 1))
    assert moved is not rows
    same = 0
    for query in unit_rows(50, 24, seed=4):
        found, _ = flat.search([moved], query, 10, None, [bias])
        same += len(set(found) & set(flat.search([rows], query, 10, None, [bias])[0]))
    assert same >= 0.98 * 500


def test_a_gpu_that_fails_leaves_the_search_to_the_cpu() -> None:
    class Lost:
        def search(self, *_: object) -> None:
            raise RuntimeError("an illegal memory access was encountered")

    whole = Rows(np.arange(50), unit_rows(50, 8))
    lost = gpu_vectors.GpuRows(whole.ids, whole.rows, Lost(), "", whole)
    query = unit_rows(1, 8, seed=1)[0]
    assert flat.search([lost], query, 5)[0].tolist() == flat.search([whole], query, 5)[0].tolist()


def test_an_index_searched_often_moves_to_the_gpus_and_finds_the_same(
    monkeypatch: pytest.MonkeyPatch, photos: Path
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(gpu_vectors, "MIN_ROWS", 10)
    monkeypatch.setattr(gpu_vectors, "MIN_SEARCHES", 3)
    monkeypatch.setattr(gpu_vectors, "count", lambda: asked.append(1) or 2)
    empty = lambda _gpu, dim, half: load_faiss().IndexFlatIP(dim)  # noqa: E731
    monkeypatch.setattr(gpu_vectors, "_empty", empty)
    with retrieval.open(photos) as opened:
        found = []
        for _ in range(4):
            found.append([hit.path.name for hit in opened.similar(photos / "chelsea.png", k=9)])
            assert bool(asked) == (len(found) >= 3), "a few searches never begin with a GPU"
    assert found[0] == found[1] == found[2] == found[3]


@pytest.mark.cuda
@pytest.mark.parametrize("half", [False, True])
def test_faiss_finds_on_gpus_what_it_finds_on_the_cpu(half: bool) -> None:
    if not gpu_vectors.count():
        pytest.skip("no GPU that FAISS can use")
    rows = unit_rows(300_000, 128)
    whole = Rows(np.arange(len(rows)), rows)
    spread = gpu_vectors.to_gpus(whole, None, half)
    assert spread is not whole
    same = 0
    for query in unit_rows(20, 128, seed=1):
        found, scores = flat.search([spread], query, 10)
        expected, right = flat.search([whole], query, 10)
        np.testing.assert_allclose(scores, right, atol=2e-3 if half else 1e-5)
        same += len(set(found) & set(expected))
    assert same >= (0.95 if half else 0.999) * 200
