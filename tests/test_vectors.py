"""The vectors: FAISS against plain numpy, over any input."""

from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from indexes import vectors


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
    refuse=st.booleans(),
)
def test_search_equals_brute_force(
    seed: int, count: int, dim: int, k: int, split: float, share: float | None, refuse: bool
) -> None:
    """Over two parts, with and without a choice of ids: the same ids and scores as numpy."""
    rows = unit_rows(seed, count, dim)
    ids = np.sort(np.random.default_rng(seed).permutation(3 * count + 1)[:count]) + 1
    query = unit_rows(seed + 1, 1, dim)[0]
    cut = int(split * count)
    parts = [vectors.build(ids[:cut], rows[:cut]), vectors.build(ids[cut:], rows[cut:])]
    allowed = None if share is None else ids[: int(share * count)]
    mask = np.ones(count, bool) if allowed is None else np.isin(ids, allowed)
    if allowed is not None and refuse:
        mask = ~mask
        found, scores = vectors.search(parts, query, k, refused=allowed)
    else:
        found, scores = vectors.search(parts, query, k, allowed)
    expected = np.sort(rows[mask] @ query)[::-1][:k]
    assert np.allclose(scores, expected, atol=1e-5)
    assert np.allclose(rows[np.searchsorted(ids, found)] @ query, scores, atol=1e-5)
    assert len(set(found.tolist())) == len(found)


def test_equal_scores_come_in_order_of_id() -> None:
    rows = np.repeat(unit_rows(0, 1, 8), 5, axis=0)
    parts = [
        vectors.build(np.array([7, 3]), rows[:2]),
        vectors.build(np.array([9, 1, 5]), rows[2:]),
    ]
    assert vectors.search(parts, rows[0], 3)[0].tolist() == [1, 3, 5]


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_a_changed_file_is_refused_or_still_safe(data: st.DataObject) -> None:
    """Any byte of the headers changed, or any cut: None, or an index of the promised shape."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.faiss"
        vectors.save(vectors.build(np.arange(1, 11), unit_rows(0, 10, 6)), path)
        content = bytearray(path.read_bytes())
        header = [*range(90), *range(len(content) - 88, len(content) - 80)]
        content[data.draw(st.sampled_from(header))] = data.draw(st.integers(0, 255))
        if data.draw(st.booleans()):
            content = content[: data.draw(st.integers(0, len(content)))]
        path.write_bytes(content)
        index = vectors.load(path, 6)
        assert index is None or (index.ntotal, index.d) == (10, 6)
        if index is not None:
            ids, _ = vectors.search([index], unit_rows(1, 1, 6)[0], 3)
            assert len(ids) == 3
