"""Rankings: what each does to an order of photos, and the bank that they measure hubs by."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import retrieval
from retrieval.datasets.captioned import read_captioned
from retrieval.encoders.mini.encoder import MiniEncoder
from retrieval.fusion.attention import normalise
from retrieval.ranking import lexical, query_bank
from retrieval.ranking.hubness import hubs, inverted_softmax_bias, nnn_bias
from retrieval.ranking.methods import (
    NAMES,
    RANKINGS,
    Ranking,
    expand,
    ranking,
    templated,
    transform,
)
from tests.conftest import shared


def unit_rows(n: int, dim: int, seed: int) -> np.ndarray:
    return normalise(np.random.default_rng(seed).normal(size=(n, dim)))


def test_the_bias_of_a_photo_is_the_mean_of_its_nearest_bank_queries() -> None:
    photos = normalise(np.array([[1, 0], [0, 1.0]]))
    queries = normalise(np.array([[1, 0], [1, 0], [0, -1.0]]))
    np.testing.assert_allclose(nnn_bias(photos, queries, k=2, strength=0.5), [0.5, 0.0])


def test_a_bank_smaller_than_k_is_used_whole() -> None:
    photos, queries = unit_rows(5, 8, 0), unit_rows(3, 8, 1)
    np.testing.assert_allclose(
        nnn_bias(photos, queries, k=16, strength=1), (photos @ queries.T).mean(1), rtol=1e-5
    )


@given(st.integers(0, 1000))
def test_the_bias_of_a_photo_does_not_depend_on_other_photos(seed: int) -> None:
    photos, queries = unit_rows(12, 8, seed), unit_rows(30, 8, seed + 1)
    for bias in (nnn_bias, inverted_softmax_bias):
        alone = np.concatenate([bias(photos[i : i + 1], queries) for i in range(12)])
        np.testing.assert_allclose(bias(photos, queries), alone, rtol=1e-4, atol=1e-6)


def test_a_photo_that_is_near_to_everything_is_ranked_lower() -> None:
    """The hub has the higher cosine, but that is how near it is to any query."""
    hub, specific = [0.7, 0.7, 0.14], [0.7, 0, 0.72]
    photos = normalise(np.array([hub, specific]))
    queries = normalise(np.array([[1, 0.05, 0]]))
    others = normalise(np.array([[1, 1, 0], [0.8, 1, 0], [0.1, 1, 0]]))

    def best(name: str) -> int:
        rows, asked = transform(RANKINGS[name], photos, queries, others)
        return int((asked @ rows.T).argmax())

    assert (best("plain"), best("nnn"), best("qbnorm")) == (0, 1, 1)


def test_the_inverted_softmax_is_a_bias() -> None:
    """Dividing by a sum over the bank orders photos as the bias does (eq. 3 of QB-Norm)."""
    photos, queries, others = unit_rows(20, 6, 0), unit_rows(15, 6, 1), unit_rows(9, 6, 2)
    divided = np.exp(10 * (others @ photos.T)) / np.exp(10 * (queries @ photos.T)).sum(0)
    biased = others @ photos.T - inverted_softmax_bias(photos, queries, 10)
    np.testing.assert_array_equal(divided.argsort(1), biased.argsort(1))


def test_querybank_normalisation_leaves_queries_alone_whose_first_hit_is_no_hub() -> None:
    photos, queries, others = unit_rows(40, 6, 0), unit_rows(4, 6, 1), unit_rows(60, 6, 2)
    rows, asked = transform(RANKINGS["qbnorm"], photos, others, queries)
    first_is_hub = hubs(photos, queries)[(others @ photos.T).argmax(1)]
    assert 0 < first_is_hub.sum() < len(others)
    scores = asked @ rows.T
    plain = others @ photos.T
    np.testing.assert_allclose(scores[~first_is_hub], plain[~first_is_hub], rtol=1e-5, atol=1e-6)
    biased = plain - inverted_softmax_bias(photos, queries)
    np.testing.assert_allclose(scores[first_is_hub], biased[first_is_hub], rtol=1e-5, atol=1e-5)


def test_expansion_moves_a_query_towards_its_hits_and_keeps_its_length() -> None:
    query, hits = unit_rows(1, 8, 0)[0], unit_rows(3, 8, 1)
    hits = normalise(hits + query)
    moved = expand(query, hits)
    assert np.linalg.norm(moved) == pytest.approx(1)
    assert (hits @ moved).mean() > (hits @ query).mean()
    np.testing.assert_array_equal(expand(query, -hits), query)  # nothing near: nothing to follow


def test_templates_are_averaged_and_the_text_is_kept_as_typed() -> None:
    seen: list[str] = []

    def encode(texts: list[str]) -> np.ndarray:
        seen.extend(texts)
        return unit_rows(len(texts), 4, 0)

    two = Ranking("two", "", templates=("{}", "a photo of {}"))
    rows = templated(two, ["a {} dog", "x"], encode)
    assert seen == ["a {} dog", "x", "a photo of a {} dog", "a photo of x"]
    np.testing.assert_allclose(rows[0], normalise(unit_rows(4, 4, 0)[[0, 2]].mean(0)), rtol=1e-5)


def test_auto_uses_words_only_where_there_are_captions() -> None:
    assert ranking("auto").name == "nnn"
    assert ranking("auto", words=True).name == "hybrid"
    with pytest.raises(retrieval.QueryError, match="auto, plain, nnn"):
        ranking("best")
    assert all(ranking(name).summary for name in NAMES)


# The bank --------------------------------------------------------------------------------------


def test_the_shipped_bank_is_of_the_shipped_model() -> None:
    """If this fails, run `python -m retrieval.training.query_bank`."""
    encoder = MiniEncoder()
    rows = query_bank.load_bank(encoder.fingerprint, encoder.dim)
    assert rows is not None
    sentences = query_bank.generic_queries()
    assert len(set(sentences)) == len(sentences) == len(rows) == 1000
    np.testing.assert_allclose(rows[:20], encoder.encode_texts(sentences[:20]), atol=2e-3)


class OtherEncoder:
    """Counts how many texts it encodes."""

    fingerprint, dim, encoded = "other/model", 4, 0

    def encode_texts(self, texts: list[str]) -> np.ndarray:
        self.encoded += len(texts)
        return unit_rows(len(texts), 4, self.encoded)


def test_a_bank_by_another_model_is_encoded_once_and_then_stored() -> None:
    encoder = OtherEncoder()
    first = query_bank.bank_embeddings(encoder)  # type: ignore[arg-type]
    assert encoder.encoded == 1000
    np.testing.assert_array_equal(query_bank.bank_embeddings(encoder), first)  # type: ignore[arg-type]
    assert encoder.encoded == 1000
    (file,) = query_bank._cache_folder().glob("bank-othermodel-*.npy")
    file.write_bytes(file.read_bytes()[:-100])
    assert query_bank.load_bank("other/model", 4) is None  # truncated: computed again


def test_a_bank_that_cannot_be_stored_is_encoded_once_for_each_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setattr(query_bank, "_cache_folder", lambda: tmp_path / "file" / "cache")
    encoder = OtherEncoder()
    rows = query_bank.bank_embeddings(encoder)  # type: ignore[arg-type]
    assert rows.shape == (1000, 4) and encoder.encoded == 1000
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(("name", "split"), [("flickr8k", "val"), ("coco_cc", "all")])
def test_the_bank_shares_no_sentence_with_the_queries_that_are_measured(
    name: str, split: str
) -> None:
    captions = read_captioned(shared(name), split).captions
    assert not {_bare(c) for c in captions} & {_bare(s) for s in query_bank.generic_queries()}


def _bare(sentence: str) -> str:
    return sentence.lower().strip(" .")


# Words -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        ("a dog on the beach", '"dog" OR "beach"'),
        ("the", '"the"'),  # nothing else was asked
        ("two dogs", '"two" OR "dogs"'),
        ('"NEAR(a b)" OR names:* NOT ^x -', '"b" OR "names" OR "not" OR "x"'),
        ("!?", ""),
        ("café 北京", '"cafe" OR "北京"'),
        ("狗 C++", '"狗"* OR "c" OR "c++"'),
        ("北京大学 IMG_0042", '"北京" OR "京大" OR "大学" OR "img 0042"'),
    ],
)
def test_what_is_typed_becomes_words_to_look_for(text: str, expression: str) -> None:
    assert lexical.match_expression([text]) == expression


def test_a_long_query_asks_for_a_bounded_number_of_words() -> None:
    text = " ".join(f"word{i}" for i in range(100_000))
    assert len(lexical.match_expression([text]).split(" OR ")) == 64


def test_without_words_found_the_order_is_that_of_the_scores() -> None:
    scores = np.array([0.3, 0.5, 0.1], np.float32)
    fused = lexical.convex_combination(scores, np.zeros(3, np.float32), zero=0.05, typical=0.2)
    np.testing.assert_array_equal(fused.argsort(), scores.argsort())


def test_words_and_scores_are_brought_to_the_same_scale_before_they_are_joined() -> None:
    scores = np.array([0.5, 0.3, 0.1], np.float32)
    found = np.array([0, 20, 10], np.float32)
    np.testing.assert_allclose(
        lexical.convex_combination(scores, found, zero=0.1, typical=0.2, weight=0.5),
        [0.5, 0.75, 0.25],
        rtol=1e-5,
    )
    # Where no photo fits as well as is usual, words have more of a say.
    np.testing.assert_allclose(
        lexical.convex_combination(scores, found, zero=0.1, typical=0.8, weight=0.5),
        [0.25, 0.625, 0.25],
        rtol=1e-5,
    )
    assert lexical.reciprocal_rank_fusion(scores, found).argmax() == 1
