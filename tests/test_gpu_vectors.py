"""Vectors on GPUs: what is found there, and what happens where they lack room or fail.

`pytest -m cuda` runs what needs a GPU; elsewhere FAISS on the processor stands in for one.
"""

from __future__ import annotations

import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import retrieval
from indexes.lazy_imports import load_faiss
from indexes.vectors import flat
from indexes.vectors import gpu as gpu_vectors
from indexes.vectors.approximate import padded_dim
from indexes.vectors.batches import Batches
from indexes.vectors.build import Plan, build
from indexes.vectors.rows import Bias, Rows, Selection
from indexes.vectors.store import Stored, open_stored


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
    ).searching(whole)
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
def listed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Stored, Bias]:
    """Stored rows with inverted lists."""
    rows, ids = unit_rows(12_000, 24), np.arange(12_000) + 5
    compute = lambda some: np.abs(some[:, 3])  # noqa: E731
    plan = Plan({"own": compute}, "own", unit_rows(40, 24, seed=3))
    folder = tmp_path_factory.mktemp("lists") / "v"
    stored = build(folder, [(ids, rows)], len(ids), 24, 0, plan, "ivf")
    return stored, Bias("own", stored.bias("own", lambda _: rows[:, 0]))


@pytest.mark.parametrize("fails", [False, True])
def test_rows_without_room_are_searched_by_their_lists_on_the_gpu(
    listed: tuple[Stored, Bias], fails: bool, monkeypatch
) -> None:
    stored, bias = listed
    rows = stored.rows
    lists = gpu_vectors.inverted_lists(rows)
    assert lists is not None and gpu_vectors.inverted_lists(Rows(rows.ids, rows.rows)) is None

    class Copy:
        searched, nprobe = 0, 0

        def search(self, queries, count):
            self.searched += 1
            if fails:
                raise RuntimeError("an illegal memory access was encountered")
            parameters = load_faiss().SearchParametersIVF(nprobe=self.nprobe)
            return lists.index.search(queries, count, params=parameters)

    class Space:
        def set_index_parameter(self, index, name, value):
            assert name == "nprobe"
            index.nprobe = value

    monkeypatch.setattr(load_faiss(), "GpuParameterSpace", Space, raising=False)
    copy = Copy()
    moved = gpu_vectors.copied_lists(rows, lists, copy).searching(rows)
    for query in unit_rows(20, 24, seed=4):
        for biases in ([bias], None):
            found, scores = flat.search([moved], query, 10, None, biases)
            expected, right = flat.search([rows], query, 10, None, biases)
            assert found.tolist() == expected.tolist() and scores.tolist() == right.tolist()
    assert copy.searched == 40
    allowed = [Selection(allowed=rows.ids[::3])]
    query = unit_rows(1, 24, seed=5)[0]
    found, _ = flat.search([moved], query, 10, allowed)
    assert found.tolist() == flat.search([rows], query, 10, allowed)[0].tolist()
    assert copy.searched == 40


def test_what_fits_nowhere_stays_on_the_cpu(listed: tuple[Stored, Bias], monkeypatch) -> None:
    monkeypatch.setattr(gpu_vectors, "_usage", {})

    def full(*_: object) -> None:
        raise RuntimeError("out of memory")

    asked: list[int] = []
    monkeypatch.setattr(gpu_vectors, "MIN_ROWS", 10)
    monkeypatch.setattr(gpu_vectors, "MIN_SEARCHES", 3)
    monkeypatch.setattr(gpu_vectors, "count", lambda: asked.append(1) or 1)
    monkeypatch.setattr(gpu_vectors, "_empty", full)
    monkeypatch.setattr(gpu_vectors, "_lists_on_gpus", full)
    stored, bias = listed
    for _ in range(9):
        assert gpu_vectors.after_many_searches(stored, bias) is stored.rows
    assert len(asked) == 1, "it is not tried again at each search"
    assert gpu_vectors.to_gpus(Rows(stored.rows.ids, stored.rows.rows), bias) is None


@pytest.mark.cuda
def test_lists_on_a_gpu_find_what_they_find_on_the_cpu(listed: tuple[Stored, Bias]) -> None:
    if not gpu_vectors.count():
        pytest.skip("no GPU that FAISS can use")
    stored, bias = listed
    rows = stored.rows
    lists = gpu_vectors.inverted_lists(rows)
    on_gpu = gpu_vectors._lists_on_gpus(lists, 1)
    moved = gpu_vectors.copied_lists(rows, lists, on_gpu).searching(rows)
    same = 0
    for query in unit_rows(50, 24, seed=4):
        found, _ = flat.search([moved], query, 10, None, [bias])
        same += len(set(found) & set(flat.search([rows], query, 10, None, [bias])[0]))
    assert same >= 0.98 * 500


def test_a_gpu_that_fails_leaves_the_search_to_the_cpu() -> None:
    def lost(*_: object) -> None:
        raise RuntimeError("an illegal memory access was encountered")

    whole = Rows(np.arange(50), unit_rows(50, 8))
    copies = gpu_vectors.Copies(Batches(lost), "", of_lists=False)
    query = unit_rows(1, 8, seed=1)[0]
    found, _ = flat.search([copies.searching(whole)], query, 5)
    assert found.tolist() == flat.search([whole], query, 5)[0].tolist()


def test_queries_of_many_threads_are_searched_together_and_each_gets_its_own() -> None:
    rows, sizes, busy = unit_rows(500, 16), [], threading.Lock()
    first, go_on = threading.Event(), threading.Event()

    def search(queries, count, breadth):
        assert busy.acquire(blocking=False), "FAISS may search a GPU by one thread at a time"
        sizes.append((len(queries), count, breadth))
        if not first.is_set():
            first.set()
            assert go_on.wait(30)
        found = np.argsort(-(queries @ rows.T), axis=1)[:, :count]
        busy.release()
        if any(query[0] == 7 for query in queries):
            raise RuntimeError("the GPU is full")
        return np.pad(found, ((0, 0), (0, 2)), constant_values=-1)

    batches = Batches(search)
    with ThreadPoolExecutor(33) as pool:
        blocking = pool.submit(batches.find, rows[0], 1)
        assert first.wait(30)
        asked = [pool.submit(batches.find, rows[i], 1 + i % 9, i) for i in range(32)]
        while len(batches._waiting) < 32:
            time.sleep(0.001)
        go_on.set()
        for i, one in enumerate(asked):
            found = one.result()
            assert len(found) == 1 + i % 9 and found[0] == i
        assert blocking.result().tolist() == [0]
    assert sizes == [(1, 1, 0), (32, 9, 31)]
    wrong = rows[1].copy()
    wrong[0] = 7
    with pytest.raises(RuntimeError, match="full"):
        batches.find(wrong, 3)
    assert batches.find(rows[4], 3)[0] == 4, "the next ones are searched as before"


def test_readers_of_a_process_share_the_copies_and_the_last_one_frees_them(
    listed: tuple[Stored, Bias], monkeypatch
) -> None:
    copied: list[int] = []

    def empty(gpu: int, dim: int, half: bool) -> Any:
        copied.append(gpu)
        return load_faiss().IndexFlatIP(dim)

    monkeypatch.setattr(gpu_vectors, "MIN_ROWS", 10)
    monkeypatch.setattr(gpu_vectors, "MIN_SEARCHES", 3)
    monkeypatch.setattr(gpu_vectors, "count", lambda: 1)
    monkeypatch.setattr(gpu_vectors, "_empty", empty)
    monkeypatch.setattr(gpu_vectors, "_usage", {})
    stored, bias = listed
    other = open_stored(stored.folder, 24, 1 << 40)
    assert gpu_vectors.after_many_searches(stored, bias) is stored.rows
    assert gpu_vectors.after_many_searches(other, bias) is other.rows
    moved = gpu_vectors.after_many_searches(stored, bias)
    also = gpu_vectors.after_many_searches(other, bias)
    assert isinstance(moved, gpu_vectors.GpuRows) and isinstance(also, gpu_vectors.GpuRows)
    assert copied == [0] and also.copies is moved.copies and also.on_cpu is other.rows
    query = unit_rows(1, 24, seed=9)[0]
    for rows in (moved, also):
        found, _ = flat.search([rows], query, 10, None, [bias])
        exact, _ = flat.search([Rows(stored.rows.ids, stored.rows.rows)], query, 10, None, [bias])
        assert found.tolist() == exact.tolist()
    freed = weakref.ref(moved.copies)
    del moved, also, rows
    gc.collect()
    assert freed() is None
    assert isinstance(gpu_vectors.after_many_searches(other, bias), gpu_vectors.GpuRows)


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
    copies = gpu_vectors.to_gpus(whole, None, half)
    assert copies is not None
    spread = copies.searching(whole)
    same = 0
    for query in unit_rows(20, 128, seed=1):
        found, scores = flat.search([spread], query, 10)
        expected, right = flat.search([whole], query, 10)
        np.testing.assert_allclose(scores, right, atol=2e-3 if half else 1e-5)
        same += len(set(found) & set(expected))
    assert same >= (0.95 if half else 0.999) * 200
