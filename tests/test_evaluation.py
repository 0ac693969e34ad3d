"""Recall@k and its companions: as defined, as CLIP_benchmark and trec_eval have them, and fast."""

import math
import statistics
from typing import Any

import ir_measures
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import AP, RR, Qrel, ScoredDoc, Success, nDCG

from retrieval.evaluation.bootstrap import compare, summarise
from retrieval.evaluation.metrics import METRICS, Ranks, inner_products, rank

KS = (1, 5, 10)


def ranked(scores: np.ndarray, query_owners: Any, gallery_owners: Any) -> Ranks:
    scores = np.asarray(scores, np.float32)
    return rank(lambda part: scores[part], np.asarray(query_owners), np.asarray(gallery_owners))


def by_definition(scores: np.ndarray, query_owners: Any, gallery_owners: Any) -> dict[str, float]:
    """Every measure from sorted lists, wrong items before right ones of the same score."""
    found: dict[str, list[float]] = {name: [] for name in METRICS}
    for row, owner in zip(scores, query_owners, strict=True):
        listed = sorted(zip(-row, [of == owner for of in gallery_owners], strict=True))
        right = [is_right for _, is_right in listed]
        places = [i for i, is_right in enumerate(right, 1) if is_right]
        for k in KS:
            found[f"R@{k}"].append(100.0 * any(right[:k]))
        found["MedR"].append(places[0])
        found["MRR"].append(100 / places[0])
        precisions = [sum(right[:i]) / i for i in places if i <= 10]
        found["mAP@10"].append(100 * sum(precisions) / len(places))
        gain = sum(1 / math.log2(i + 1) for i in places if i <= 10)
        best = sum(1 / math.log2(i + 1) for i in range(1, min(len(places), 10) + 1))
        found["nDCG@10"].append(100 * gain / best)
    return {
        name: statistics.median(values) if name == "MedR" else statistics.fmean(values)
        for name, values in found.items()
    }


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, list[int], list[int]]:
    """Scores with many ties, few or many right items, galleries smaller than k."""
    gallery = draw(st.lists(st.integers(0, 6), min_size=1, max_size=25))
    queries = draw(st.lists(st.sampled_from(gallery), min_size=1, max_size=8))
    levels = draw(st.sampled_from([1, 2, 4, 1000]))
    score = st.integers(0, levels - 1).map(lambda level: level / levels)
    rows = st.lists(score, min_size=len(gallery), max_size=len(gallery))
    scores = draw(st.lists(rows, min_size=len(queries), max_size=len(queries)))
    return np.array(scores, np.float32), queries, gallery


@settings(deadline=None)
@given(problems())
def test_every_measure_is_what_its_definition_says(problem) -> None:
    found = {name: value.value for name, value in summarise(ranked(*problem), draws=2).items()}
    assert found == pytest.approx(by_definition(*problem), abs=1e-9)


def captioned(
    photos: int, captions: int, seed: int = 0, noise: float = 2
) -> tuple[np.ndarray, np.ndarray, Any]:
    """Unit rows of captions and photos that belong together more or less, and the owners."""
    random = np.random.default_rng(seed)
    owners = np.repeat(np.arange(photos), captions)
    images = random.normal(size=(photos, 32)).astype(np.float32)
    texts = images[owners] + noise * random.normal(size=(len(owners), 32)).astype(np.float32)
    rows = (texts, images)
    texts, images = (r / np.linalg.norm(r, axis=1, keepdims=True) for r in rows)
    return texts, images, owners


def both_directions(texts: np.ndarray, images: np.ndarray, owners: Any) -> list[tuple[Any, ...]]:
    photos = np.arange(len(images))
    return [(texts, images, owners, photos), (images, texts, photos, owners)]


@pytest.mark.parametrize("direction", [0, 1], ids=["text to image", "image to text"])
def test_measures_agree_with_trec_eval(direction: int) -> None:
    queries, gallery, of, to = both_directions(*captioned(60, 5, noise=4))[direction]
    scores = queries @ gallery.T
    truth = [Qrel(str(q), str(g), 1) for q, o in enumerate(of) for g in np.flatnonzero(to == o)]
    run = [
        ScoredDoc(str(q), str(g), float(score))
        for q, row in enumerate(scores)
        for g, score in enumerate(row)
    ]
    theirs = {
        "MRR": RR,
        "mAP@10": AP @ 10,
        "nDCG@10": nDCG @ 10,
        **{f"R@{k}": Success @ k for k in KS},
    }
    expected = ir_measures.calc_aggregate(theirs.values(), truth, run)
    found = summarise(rank(inner_products(queries, gallery), of, to), draws=2)
    for name, measure in theirs.items():
        assert 5 < found[name].value < 95
        assert found[name].value == pytest.approx(100 * expected[measure], abs=1e-4), name


def clip_benchmark(texts: np.ndarray, images: np.ndarray, owners: Any) -> dict[str, float]:
    """The protocol of LAION's CLIP_benchmark: dense scores, one-hot positives, top k of each."""
    scores = torch.from_numpy(texts) @ torch.from_numpy(images).t()  # [texts, images]
    positive = torch.zeros_like(scores, dtype=torch.bool)
    positive[torch.arange(len(scores)), torch.from_numpy(owners)] = True

    def recall(score: torch.Tensor, right: torch.Tensor, k: int) -> float:
        top = torch.topk(score, k, dim=1).indices
        hits = torch.nn.functional.one_hot(top, score.shape[1]).mul(right.unsqueeze(1)).sum((1, 2))
        return (hits > 0).float().mean().item()

    return {
        **{f"image_retrieval_recall@{k}": recall(scores, positive, k) for k in KS},
        **{f"text_retrieval_recall@{k}": recall(scores.t(), positive.t(), k) for k in KS},
    }


def test_recalls_are_those_of_clip_benchmark_to_the_last_digit() -> None:
    texts, images, owners = captioned(200, 5, seed=1)
    expected = clip_benchmark(texts, images, owners)
    names = ("image_retrieval_recall", "text_retrieval_recall")
    for name, case in zip(names, both_directions(texts, images, owners), strict=True):
        queries, gallery, of, to = case
        found = summarise(rank(inner_products(queries, gallery), of, to), draws=2)
        for k in KS:
            hits = round(expected[f"{name}@{k}"] * len(queries))
            assert 0 < hits < len(queries)
            assert found[f"R@{k}"].value == 100 * hits / len(queries)


def test_ties_count_against_the_model() -> None:
    nothing_learned = ranked(np.zeros((4, 4)), range(4), range(4))
    assert nothing_learned.ranks[:, 0].tolist() == [4, 4, 4, 4]
    assert summarise(nothing_learned)["R@1"].value == 0


def test_copies_of_a_photo_tie_wherever_they_are_in_the_gallery() -> None:
    texts, images, _ = captioned(33, 1)
    gallery = np.concatenate([images, images[::-1]])
    found = rank(inner_products(texts, gallery), np.arange(33), np.arange(66))
    alone = rank(inner_products(texts, images), np.arange(33), np.arange(33))
    assert (found.ranks[:, 0] == 2 * alone.ranks[:, 0]).all()


def test_blocks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    texts, images, owners = captioned(50, 3)
    scores = images @ texts.T
    whole = ranked(scores, np.arange(50), owners)
    monkeypatch.setattr("retrieval.evaluation.metrics._BLOCK", 7 * len(texts))
    blocks: list[slice] = []
    scored = np.asarray(scores, np.float32)
    cut = rank(lambda part: (blocks.append(part), scored[part])[1], np.arange(50), owners)
    assert len(blocks) == 8, "seven queries at a time"
    assert (cut.ranks == whole.ranks).all()


def test_what_cannot_be_ranked_is_refused() -> None:
    with pytest.raises(ValueError, match="no right item"):
        ranked(np.zeros((1, 2)), [5], [0, 1])
    with pytest.raises(ValueError, match="not a number"):
        ranked(np.array([[0.5, np.nan]]), [0], [0, 1])
    one, other = ranked(np.eye(2), [0, 1], [0, 1]), ranked(np.eye(2), [0, 0], [0, 1])
    with pytest.raises(ValueError, match="same queries"):
        compare(one, other)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Photos are drawn with an R@1 of 60; all captions of a photo share its fate."""
    random = np.random.default_rng(0)
    held = widths = 0
    for seed in range(200):
        right = random.random(150) < 0.6
        ranks = Ranks(np.where(np.repeat(right, 5), 1, 2)[:, None], np.repeat(np.arange(150), 5))
        found = summarise(ranks, draws=200, seed=seed)["R@1"]
        held += found.low <= 60 <= found.high
        widths += found.high - found.low
    assert 180 <= held <= 198
    # Captions taken for independent would give 2 × 1.96 × sqrt(0.24 / 750) = 7 points.
    assert widths / 200 == pytest.approx(100 * 2 * 1.96 * math.sqrt(0.24 / 150), rel=0.1)


def test_a_paired_comparison_sees_what_two_intervals_hide() -> None:
    texts, images, owners = captioned(400, 5, seed=2)
    better = texts + 0.02 * images[owners]
    to = np.arange(400)
    first, second = (rank(inner_products(t, images), owners, to) for t in (texts, better))
    one, two = (summarise(r)["R@1"] for r in (first, second))
    assert one.high > two.low
    step = compare(first, second)["R@1"]
    assert step.value == pytest.approx(two.value - one.value)
    assert 0 < step.low < step.value < step.high
    assert step.p < 0.05
    same = compare(first, first)["R@1"]
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)


def test_the_median_rank_has_an_interval_too() -> None:
    random = np.random.default_rng(0)
    ranks = Ranks(np.sort(random.integers(1, 100, (999, 1)), axis=0), np.arange(999))
    found = summarise(ranks)["MedR"]
    assert found.value == np.median(ranks.ranks)
    expected = [
        np.median(random.choice(ranks.ranks[:, 0], 999)) for _ in range(1000)
    ]  # one query a photo: the plain bootstrap
    assert [found.low, found.high] == pytest.approx(np.quantile(expected, [0.025, 0.975]), abs=2)
