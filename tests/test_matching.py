"""Matching: what it computes, how it is learned, and what it does to a search."""

import shutil
from collections.abc import Iterator
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import retrieval
from benchmarks.matching import auc
from indexes.index import Index
from indexes.lazy_imports import load_torch
from retrieval.errors import ModelError, QueryError
from retrieval.fusion import store
from retrieval.fusion.attention import Fusion, normalise
from retrieval.ranking import matching, query_bank
from retrieval.ranking.hubness import nnn_bias
from retrieval.ranking.matching import Matching, MatchingNetwork, score_residual
from tests.conftest import Run

torch = load_torch()
DIM = 12


def unit(seed: int, n: int, dim: int = DIM) -> np.ndarray:
    return normalise(np.random.default_rng(seed).normal(size=(n, dim)))


def network(
    seed: int, dim: int = DIM, h: int = 5, r: int = 3, much: float = 0.1
) -> MatchingNetwork:
    """A network with random weights, which adds about as `much`."""
    random = np.random.default_rng(seed)
    shapes = {"scale": (), "offset": (), "look": (dim, h), "bias": (h,), "out": (h,)}
    shapes |= {"left": (dim, r), "right": (dim, r)}
    found = {k: np.asarray(random.normal(size=s), np.float32) for k, s in shapes.items()}
    found["scale"] = np.float32(20)
    for name in ("look", "left", "right"):
        found[name] = found[name] / dim**0.5
    found["out"], found["right"] = much * found["out"], much * found["right"]
    return MatchingNetwork(**{k: np.asarray(v, np.float32) for k, v in found.items()})


# What it computes ------------------------------------------------------------------------------


@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_untrained_it_is_the_calibrated_score(seed: int) -> None:
    nothing = Matching(network(seed, much=0), Fusion())
    photos, texts = unit(seed, 6), unit(seed + 1, 6)
    np.testing.assert_array_equal(nothing.residual(photos, texts), np.zeros(6))
    scores = np.sort((photos * texts).sum(1))
    assert (np.diff(nothing.probability(scores)) >= 0).all()
    expected = 1 / (1 + np.exp(-(20 * scores + nothing.network.offset)))
    np.testing.assert_allclose(nothing.probability(scores), expected, atol=1e-5)


def test_torch_and_numpy_compute_the_same_and_gradients_reach_every_weight() -> None:
    fused, photos, texts = unit(1, 7), unit(2, 7), unit(3, 7)
    by_numpy = score_residual(network(4), fused, photos, texts)
    learned = {f.name: torch.tensor(getattr(network(4), f.name)) for f in fields(MatchingNetwork)}
    for value in learned.values():
        value.requires_grad_()
    by_torch = score_residual(
        MatchingNetwork(**learned), *map(torch.from_numpy, (fused, photos, texts))
    )
    np.testing.assert_allclose(by_torch.detach().numpy(), by_numpy, atol=1e-5)
    by_torch.sum().backward()
    added = {name: value.grad for name, value in learned.items() if value.ndim}
    assert all(grad is not None and grad.abs().sum() > 0 for grad in added.values())


def test_one_text_for_all_photos_is_the_same_text_for_each() -> None:
    matched = Matching(network(5), Fusion())
    photos, text = unit(6, 5000), unit(7, 1)[0]
    every = matched.residual(photos, np.repeat(text[None], 5000, 0))
    np.testing.assert_array_equal(matched.residual(photos, text), every)


# On disk ---------------------------------------------------------------------------------------


def test_a_matching_is_read_as_it_was_written(tmp_path: Path) -> None:
    original = Matching(network(1), Fusion(), {"fingerprint": "abc"})
    saved = matching.save_matching(original, tmp_path / "m.safetensors")
    again = matching.read_matching(tmp_path / "m.safetensors", Fusion())
    assert again.about == {"fingerprint": "abc"}
    photos, texts = unit(0, 3), unit(1, 3)
    np.testing.assert_array_equal(again.residual(photos, texts), saved.residual(photos, texts))
    np.testing.assert_allclose(
        saved.residual(photos, texts), original.residual(photos, texts), atol=1e-2
    )


def test_a_file_that_is_no_matching_is_refused_in_a_sentence(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    file = tmp_path / "m.safetensors"
    whole = network(1)
    for broken in (
        replace(whole, bias=np.zeros(4, np.float32)),
        replace(whole, look=np.zeros((DIM + 1, 5), np.float32)),
        replace(whole, right=np.zeros((DIM, 0), np.float32), left=np.zeros((DIM, 0), np.float32)),
        replace(whole, out=np.full(5, np.nan, np.float32)),
        replace(whole, scale=np.float32(0)),
        replace(whole, offset=np.zeros(2, np.float32)),
    ):
        with pytest.raises(ModelError, match="holds no matching"):
            matching.save_matching(Matching(broken, Fusion()), file)
    arrays = {
        f.name: np.asarray(getattr(whole, f.name), np.float16) for f in fields(MatchingNetwork)
    }
    huge = {name: np.asarray(a, np.float32) for name, a in arrays.items()}
    about = {"format": "1", "about": "{}"}
    for stored, metadata in (
        (arrays, {}),
        (arrays, {**about, "format": "2"}),
        (arrays, {**about, "about": "[" * 100_000}),
        (arrays, {**about, "about": "3"}),
        (huge, about),  # numbers that could overflow
        ({"look": arrays["look"]}, about),
        ({**arrays, "more": np.zeros(4_000_000, np.float16)}, about),
    ):
        save_file(stored, file, metadata)
        with pytest.raises(ModelError, match="holds no matching"):
            matching.read_matching(file, Fusion())
    save_file(arrays, file, about)
    matching.read_matching(file, Fusion())
    for data in (b"", b"no safetensors", b"\xff" * 100):
        file.write_bytes(data)
        with pytest.raises(ModelError, match="train-fusion"):
            matching.read_matching(file, Fusion())


# Learning --------------------------------------------------------------------------------------


def test_auc_counts_pairs_and_its_error_is_that_of_photos() -> None:
    owners = np.repeat(np.arange(40), 5)
    random = np.random.default_rng(0)
    photo = random.normal(size=(40, 1))
    true = (np.repeat(photo, 5, 0)[:, 0] + 1).astype(np.float32)
    wrong = random.normal(size=(200, 3)).astype(np.float32)
    wrong[0, 0] = true[0]
    value, parts = auc(true, wrong, owners)
    every = true[:, None] - wrong.ravel()
    assert value == pytest.approx((every > 0).mean() + (every == 0).mean() / 2)
    assert parts.sum() == pytest.approx(0, abs=1e-9)
    # Five texts of a photo that score alike are one piece of evidence, not five.
    alone = auc(true, wrong, np.arange(200))[1]
    assert (parts**2).sum() > 3 * (alone**2).sum()
    assert auc(true + 100, wrong, owners)[0] == 1


def test_a_trained_matching_tells_near_misses_better_than_the_cosine() -> None:
    """Half of the dimensions say nothing of what a text means, which no cosine knows."""
    from benchmarks.matching import measure
    from retrieval.evaluation.fusion_data import CaptionedEmbeddings
    from retrieval.training.matching import MatchingData, MatchingRecipe, fit_matching

    def captioned(seed: int, n: int) -> CaptionedEmbeddings:
        random = np.random.default_rng(seed)
        meaning = random.normal(size=(n, 12))

        def seen(rows: np.ndarray, error: float) -> np.ndarray:
            rows = rows + error * random.normal(size=rows.shape)
            return normalise(np.hstack([rows, 1.2 * random.normal(size=rows.shape)]))

        owners = np.repeat(np.arange(n), 3)
        return CaptionedEmbeddings.from_owners(
            seen(meaning, 0.3), seen(meaning[owners], 0.3), owners
        )

    held_out, bank = captioned(1, 150), unit(2, 50, 24)
    recipe = MatchingRecipe(epochs=15, batch=200, rate=1e-2, decay=0.1)
    training = captioned(0, 600)
    trained, recall = fit_matching(
        MatchingData("abc", Fusion(), bank, training, held_out), recipe, seed=3
    )
    assert trained.about["share"] > 0
    assert max(recall.values()) > recall[0.0] + 2
    found = measure(trained, bank, held_out, (0,))["photo_only"]
    assert found.above.low > 0.02  # 95% sure that its AUC is higher than that of the cosine
    assert found.auc["match"].value > found.auc["ranking"].value + 0.02
    assert found.gain["R@1"].value > 0
    small = MatchingData("abc", Fusion(), bank, held_out, held_out)
    once, again = (fit_matching(small, replace(recipe, epochs=2), seed=3)[0] for _ in range(2))
    assert once.network.left.any()
    np.testing.assert_array_equal(once.network.left, again.network.left)


# In a search -----------------------------------------------------------------------------------


@pytest.fixture
def trained(photos: Path) -> Iterator[Path]:
    """Indexed photos, and the user's own matching, of random weights, for their model."""
    file = add(photos, 0.1)
    yield photos
    file.unlink()


def add(photos: Path, much: float, fusion_name: str | None = None) -> Path:
    """Write the user's own matching, which adds about so much; returns its file."""
    fingerprint, dim = model_of(photos)
    used = store.load_fusion(fingerprint, dim)
    about = {"fingerprint": fingerprint, "fusion": fusion_name or used.name}
    file = matching.matching_file(store.user_fusion_file(fingerprint))
    matching.save_matching(Matching(network(8, dim, much=much), used, about), file)
    return file


def model_of(photos: Path) -> tuple[str, int]:
    """Fingerprint and dimension of the model of an index."""
    with retrieval.open(photos) as opened:
        model = opened.status(look=False).model
    return model.fingerprint, model.dim


def expected(photos: Path, text: str) -> tuple[dict[str, float], dict[str, float]]:
    """By each photo's name: what `nnn` orders it by, and what matching adds to that.

    Computed from the stored embeddings by the definitions, without the steps of a search.
    """
    encoder = retrieval.load_encoder("mini")
    query = encoder.encode_texts([text])[0]
    with Index.open(photos / ".retrieval") as index:
        ids, rows = index.catalogue.embeddings.all_searchable(index.model.dim)
        known = index.catalogue.photos.get(ids.tolist())
    names = [Path(known[i][1][0][1]).name for i in ids.tolist()]
    nnn = rows @ query - nnn_bias(rows, query_bank.bank_embeddings(encoder))
    matched = matching.load_matching(encoder.fingerprint, encoder.dim)
    assert matched is not None
    added = matched.residual(rows, query)
    return (
        dict(zip(names, nnn.tolist(), strict=True)),
        dict(zip(names, added.tolist(), strict=True)),
    )


def ordered(names: list[str], scores: dict[str, float]) -> bool:
    """Whether the scores fall, but for what rounding makes of equal ones on this processor."""
    return all(scores[a] >= scores[b] - 1e-5 for a, b in pairwise(names))


def test_a_search_is_re_ranked_by_matching(run: Run, trained: Path) -> None:
    ask = ("search", "a cat", "-k", "20", "-f", "json")
    plain = run(*ask, cwd=trained)
    assert all(hit["match"] is None for hit in plain.json)
    found = run(*ask, "--rerank", "match", cwd=trained)
    nnn, added = expected(trained, "a cat")
    both = {name: nnn[name] + added[name] for name in nnn}
    assert sorted(found.names) == sorted(plain.names) == sorted(nnn)
    assert ordered(plain.names, nnn) and not ordered(plain.names, both)
    assert ordered(found.names, both)
    matched = matching.load_matching(*model_of(trained))
    assert matched is not None
    probability = matched.probability(np.array([both[name] for name in found.names], np.float32))
    matches = [hit["match"] for hit in found.json]
    np.testing.assert_allclose(matches, probability, atol=1e-3)
    assert [hit["rank"] for hit in found.json] == list(range(1, 21))
    # Neither the cosine nor the relevance of a photo changes.
    for name in ("score", "relevance"):
        before = {hit["path"]: hit[name] for hit in plain.json}
        after = {hit["path"]: hit[name] for hit in found.json}
        assert after == pytest.approx(before, abs=1e-4)
    # Fewer hits are the first of all that were re-ranked.
    first = run(*ask[:3], "3", "-f", "json", "--rerank", "match", cwd=trained)
    assert first.names == found.names[:3]
    assert [h["match"] for h in first.json] == pytest.approx(matches[:3], abs=1e-3)
    out = run("search", "a cat", "--rerank", "match", "--explain", cwd=trained).out
    assert f"match {100 * matches[0]:.0f}%" in out


@pytest.mark.parametrize("ranking", ["plain", "nnn", "qbnorm", "templates", "expansion", "hybrid"])
def test_what_adds_nothing_changes_no_order(trained: Path, ranking: str) -> None:
    add(trained, 0)
    with retrieval.open(trained) as opened:
        before = opened.search("a cat", unwanted=["people"], ranking=ranking)
        after = opened.search("a cat", unwanted=["people"], ranking=ranking, rerank="match")
    assert [hit.path for hit in after] == [hit.path for hit in before]
    assert [hit.score for hit in after] == [hit.score for hit in before]
    assert all(hit.match is not None for hit in after)


def test_re_ranking_goes_with_filters_captions_and_words(run: Run, trained: Path) -> None:
    add(trained, 0.01)
    (trained / "chelsea.txt").write_text("Minka at the window")
    (trained / "sub").mkdir()
    shutil.move(trained / "rocket.jpg", trained / "sub" / "rocket.jpg")
    shutil.move(trained / "coffee.png", trained / "sub" / "coffee.png")
    retrieval.index(trained)
    again = ("--rerank", "match", "-f", "json")
    # A name that only full-text search knows stays first: what is added here is small.
    assert run("search", "Minka", *again, cwd=trained).names[0] == "chelsea.png"
    inside = run("search", "a cup", "--in", "sub", *again, cwd=trained)
    assert sorted(inside.names) == ["coffee.png", "rocket.jpg"]
    assert run("search", "a cup", "--min-score", "2", *again, cwd=trained).json == []
    every = run("search", "a photographer", *again, cwd=trained).json
    strict = run("search", "a photographer", "--relevance", "strict", *again, cwd=trained).json
    expected = [h["path"] for h in every if h["relevance"] is None or h["relevance"] >= 0.3]
    assert [hit["path"] for hit in strict] == expected
    assert 0 < len(strict) < len(every)
    assert any(hit["relevance"] is not None for hit in strict)


def test_where_it_cannot_be_done_a_sentence_says_so(
    run: Run, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = ("search", "a cat", "--rerank", "match")
    both = run(*ask, "--image", "coffee.png", cwd=trained)
    assert both.code == 1 and "Only queries in words" in both.messages
    with (
        retrieval.open(trained) as opened,
        pytest.raises(QueryError, match="Choose one of none, match"),
    ):
        opened.search("a cat", rerank="better")  # type: ignore[arg-type]
    # One that was trained with another fusion is not used, nor is there another one here.
    add(trained, 0.1, "attention-of-another-day")
    monkeypatch.setattr(store, "_PACKAGED", trained)
    missing = run(*ask, cwd=trained)
    assert missing.code == 1
    assert "retrieval train-fusion DATASET --model mini" in missing.messages
