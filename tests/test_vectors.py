"""The vectors: against brute force and FAISS, over any input."""

from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from indexes import vectors
from indexes.lazy_imports import load_faiss


def unit_rows(seed: int, count: int, dim: int) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 1000),
    count=st.integers(0, 60),
    dim=st.integers(1, 40),
    k=st.integers(1, 80),
    split=st.floats(0, 1),
    share=st.one_of(st.none(), st.floats(0, 1)),
    exclude=st.booleans(),
)
def test_search_equals_brute_force(
    seed: int, count: int, dim: int, k: int, split: float, share: float | None, exclude: bool
) -> None:
    """Over two parts, with and without a choice of ids: the same ids and scores as numpy."""
    rows = unit_rows(seed, count, dim)
    ids = np.sort(np.random.default_rng(seed).permutation(3 * count + 1)[:count]) + 1
    query = unit_rows(seed + 1, 1, dim)[0]
    cut = int(split * count)
    parts = [vectors.Part(ids[:cut], rows[:cut]), vectors.Part(ids[cut:], rows[cut:])]
    allowed = None if share is None else ids[: int(share * count)]
    mask = np.ones(count, bool) if allowed is None else np.isin(ids, allowed)
    if allowed is not None and exclude:
        mask = ~mask
        found, scores = vectors.search(parts, query, k, excluded=allowed)
    else:
        found, scores = vectors.search(parts, query, k, allowed)
    expected = np.sort(rows[mask] @ query)[::-1][:k]
    assert np.allclose(scores, expected, atol=1e-5)
    assert np.allclose(rows[np.searchsorted(ids, found)] @ query, scores, atol=1e-5)
    assert len(set(found.tolist())) == len(found)


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
    ids = random.permutation(len(rows)) + 1
    cut = int(split * len(rows))
    parts = [Jittery(ids[:cut], rows[:cut]), Jittery(ids[cut:], rows[cut:])]
    found, scores = vectors.search(parts, rows[equal[0]], k)
    first = min(k, copies)
    if dim > 1:  # in one dimension all rows are equal, or opposite
        assert found[:first].tolist() == sorted(ids[equal].tolist())[:first]
    assert (scores[:first] == scores[0]).all() and len(found) == min(k, len(rows))
    assert (np.diff(scores) <= 0).all() and ((np.diff(found) > 0) | (np.diff(scores) < 0)).all()


class Jittery(vectors.Part):
    """Rounds every other row down: what BLAS does on some processors, on any processor."""

    def scores(self, query: np.ndarray) -> np.ndarray:
        scores = super().scores(query)
        scores[::2] = np.nextafter(scores[::2], np.float32(-2))
        return scores


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_a_changed_file_is_ignored_or_still_safe(data: st.DataObject) -> None:
    """Any byte of the headers changed, or any cut: None, or an index of the promised shape."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.faiss"
        vectors.save(vectors.Part(np.arange(1, 11), unit_rows(0, 10, 6)), path)
        content = bytearray(path.read_bytes())
        header = [*range(90), *range(len(content) - 88, len(content) - 80)]
        content[data.draw(st.sampled_from(header))] = data.draw(st.integers(0, 255))
        if data.draw(st.booleans()):
            content = content[: data.draw(st.integers(0, len(content)))]
        path.write_bytes(content)
        index = vectors.load(path, 6)
        assert index is None or index.rows.shape == (10, 6)
        if index is not None:
            ids, _ = vectors.search([index], unit_rows(1, 1, 6)[0], 3)
            assert len(ids) == 3


def test_faiss_reads_the_same_index_and_finds_the_same(tmp_path: Path) -> None:
    rows, queries = unit_rows(0, 9000, 20), unit_rows(1, 30, 20)
    ids = np.arange(9000) * 2 + 1
    path = tmp_path / "vectors.faiss"
    vectors.save(vectors.Part(ids, rows), path)
    index = load_faiss().read_index(str(path))
    part = vectors.load(path, 20)
    assert part is not None and not part.rows.flags.aligned
    scores, expected = index.search(queries, 10)
    for query, some, score in zip(queries, expected, scores, strict=True):
        found, how = vectors.search([part], query, 10)
        assert found.tolist() == some.tolist() and np.allclose(how, score, atol=1e-6)
    assert vectors.nearest_ids([part], queries) == set(expected[:, 0].tolist())


def test_rows_that_hold_nan_are_never_found() -> None:
    rows = unit_rows(0, 5, 8)
    query = rows[3].copy()
    rows[[1, 3]] = np.nan
    found, scores = vectors.search([vectors.Part(np.arange(5), rows)], query, 5)
    assert sorted(found.tolist()) == [0, 2, 4] and np.isfinite(scores).all()
