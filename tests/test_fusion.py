"""Attention fusion: what it computes, how it is learned, and what it does for a search."""

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import retrieval
from indexes.lazy_imports import load_torch
from retrieval.errors import ModelError
from retrieval.evaluation.composed_queries import composed_queries, related
from retrieval.fusion import store
from retrieval.fusion.attention import PHOTO, TEXT, Attention, Fusion, attend, normalise
from retrieval.ranking import matching
from tests.conftest import Run, needs_extra, shared

torch = load_torch()
DIM = 12


def unit(seed: int, n: int, dim: int = DIM) -> np.ndarray:
    return normalise(np.random.default_rng(seed).normal(size=(n, dim)))


def network(seed: int, dim: int = DIM, h: int = 5, r: int = 3) -> Attention:
    """A network with random weights."""
    random = np.random.default_rng(seed)
    shapes = {"centre": (), "spread": (), "cosine": (h,), "beyond": (h,), "kind": (2, h)}
    shapes |= {"score": (h,), "look": (2, dim, r), "bias": (r,), "back": (r, dim)}
    found = {k: np.asarray(random.normal(size=s), np.float32) for k, s in shapes.items()}
    found["spread"] = np.float32(0.2) + abs(found["spread"])
    return Attention(**{k: np.asarray(v, np.float32) for k, v in found.items()})


# What it computes ------------------------------------------------------------------------------


def test_untrained_it_is_the_normalised_mean() -> None:
    images, captions = unit(0, 6), unit(1, 6)
    fused, shares = Fusion().photos(images, captions)
    np.testing.assert_allclose(fused, normalise(images + captions), atol=1e-6)
    np.testing.assert_array_equal(shares, np.full(6, 0.5, np.float32))
    zero = replace(network(3), score=np.zeros(5, np.float32), back=np.zeros((3, DIM), np.float32))
    np.testing.assert_allclose(Fusion(photo=zero).photos(images, captions)[0], fused, atol=1e-6)


@given(st.integers(0, 10**6), st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1))
@settings(max_examples=50, deadline=None)
def test_weights_sum_to_one_and_what_is_missing_has_none(
    seed: int, there: list[tuple[bool, bool]]
) -> None:
    """A photo without a caption keeps exactly its own embedding, whatever was learned."""
    n = len(there)
    present = [np.array([float(t[m] or not any(t)) for t in there], np.float32) for m in (0, 1)]
    rows = [unit(seed, n), unit(seed + 1, n)]
    found = attend(network(seed), rows, (PHOTO, TEXT), present)
    np.testing.assert_allclose(found.weights[0] + found.weights[1], 1, atol=1e-5)
    for m in (0, 1):
        assert (found.weights[m][present[m] == 0] == 0).all()
        alone = (present[m] == 1) & (present[1 - m] == 0)
        np.testing.assert_array_equal(found.sums[alone], rows[m][alone])


def test_any_number_of_modalities_and_the_users_weights_multiply() -> None:
    rows = [unit(i, 4) for i in range(5)]
    kinds = (PHOTO, TEXT, TEXT, PHOTO, TEXT)
    here = [np.ones(4, np.float32)] * 5
    once = attend(network(1), rows, kinds, here).weights
    twice = attend(network(1), rows, kinds, here, (1, 1, 3, 1, 1)).weights
    np.testing.assert_allclose(twice[2] / twice[1], 3 * once[2] / once[1], rtol=1e-4)
    assert not np.allclose(once[0], once[1])
    # One kind alone: the weighted mean, whatever was learned.
    texts = attend(network(1), rows[:2], (TEXT, TEXT), here[:2], (1, 3))
    np.testing.assert_allclose(texts.sums, 0.25 * rows[0] + 0.75 * rows[1], atol=1e-6)


def test_torch_and_numpy_compute_the_same_and_gradients_reach_every_weight() -> None:
    rows, here = [unit(4, 7), unit(5, 7)], [np.ones(7, np.float32)] * 2
    by_numpy = attend(network(2), rows, (PHOTO, TEXT), here)
    learned = {f.name: torch.tensor(getattr(network(2), f.name)) for f in fields(Attention)}
    for value in learned.values():
        value.requires_grad_()
    tensors = [torch.from_numpy(row) for row in rows]
    by_torch = attend(Attention(**learned), tensors, (PHOTO, TEXT), [torch.ones(7)] * 2)
    np.testing.assert_allclose(by_torch.sums.detach().numpy(), by_numpy.sums, atol=1e-5)
    (by_torch.sums * torch.from_numpy(unit(6, 7))).sum().backward()
    assert all(value.grad.abs().sum() > 0 for value in learned.values())


@pytest.mark.parametrize("trained", [None, network(9)])
def test_the_parts_of_a_query_are_the_whole_of_it(trained: Attention | None) -> None:
    rows = unit(7, 4)
    wanted = [True, False, True, False]
    query = Fusion(query=trained).terms(rows, (TEXT, TEXT, PHOTO, PHOTO), (1, 1, 2, 0.5), wanted)
    assert np.linalg.norm(query.vector) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(query.parts.sum(0) + query.joint, query.vector, atol=1e-5)
    for i in (1, 3):  # what is not wanted counts against what it is of
        assert query.parts[i] @ rows[i] < 0


# On disk ---------------------------------------------------------------------------------------


def test_a_fusion_is_read_as_it_was_written(tmp_path: Path) -> None:
    about = {"fingerprint": "abc", "alpha": {"clean": 0.5}}
    saved = store.save_fusion(Fusion("new", network(1), network(2), about), tmp_path / "f.st")
    again = store.read_fusion(tmp_path / "f.st")
    assert again.name == saved.name != "new"
    assert again.about == about
    images, captions = unit(0, 3), unit(1, 3)
    np.testing.assert_array_equal(
        again.photos(images, captions)[0], saved.photos(images, captions)[0]
    )
    other = store.save_fusion(Fusion("new", network(5), network(2), about), tmp_path / "g.st")
    assert other.name != saved.name


def test_a_file_that_is_no_fusion_is_refused_in_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "f.safetensors"
    bad_shape = replace(network(1), bias=np.zeros(4, np.float32))
    bad_value = replace(network(1), score=np.full(5, np.nan, np.float32))
    for broken in (bad_shape, bad_value, replace(network(1), spread=np.float32(0))):
        with pytest.raises(ModelError, match="holds no fusion"):
            store.save_fusion(Fusion("new", broken, network(2), {}), file)
    for data in (b"", b"no safetensors", b"\xff" * 100):
        file.write_bytes(data)
        with pytest.raises(ModelError, match="train-fusion"):
            store.read_fusion(file)


def test_a_fusion_of_other_weights_is_not_used(tmp_path: Path) -> None:
    own = store.user_fusion_file("feedbeef")
    store.save_fusion(Fusion("new", network(1), network(2), {"fingerprint": "other"}), own)
    assert store.load_fusion("feedbeef", DIM).name == "mean"
    store.save_fusion(Fusion("new", network(1), network(2), {"fingerprint": "feedbeef"}), own)
    assert store.load_fusion("feedbeef", DIM).name.startswith("attention-")
    assert store.load_fusion("feedbeef", DIM + 1).name == "mean"
    own.unlink()


# Composed queries ------------------------------------------------------------------------------

SAID = [
    ["a brown dog runs on the beach", "the dog is at the sea"],
    ["a brown dog runs in the snow", "a dog in winter"],
    ["two men play chess", "men at a table"],
    ["two women play chess", "women at a table"],
]


def test_composed_queries_ask_for_what_the_example_is_not() -> None:
    near = related(SAID, 1)[:, 0].tolist()
    assert near == [1, 0, 3, 2]
    asked = composed_queries(SAID, seed=0, draws=20)
    assert len(asked.texts) > 20
    for example, target, text in zip(asked.examples, asked.targets, asked.texts, strict=True):
        assert example != target
        words = " ".join(SAID[example]).split()
        assert text and not set(text.split()) & set(words)
        assert set(text.split()) <= set(" ".join(SAID[target]).split())
    assert "snow" in {w for t in asked.texts for w in t.split()}
    again = composed_queries(SAID, seed=0, draws=20)
    assert again.texts == asked.texts


# Learning --------------------------------------------------------------------------------------


def test_a_trained_fusion_distrusts_captions_that_do_not_fit() -> None:
    """Photos and texts that mean the same are near each other; a third of the texts is swapped."""
    from retrieval.evaluation.fusion_cases import make_case, recall_at
    from retrieval.evaluation.fusion_data import (
        CaptionedEmbeddings,
        ComposedEmbeddings,
        FusionData,
    )
    from retrieval.training.fusion import FusionRecipe, fit_fusion

    def data(seed: int, n: int) -> FusionData:
        random = np.random.default_rng(seed)
        meaning = random.normal(size=(n, 24))
        images = normalise(meaning + random.normal(size=meaning.shape))
        captions = normalise(np.repeat(meaning, 3, 0) + 0.7 * random.normal(size=(3 * n, 24)))
        examples, targets = random.permutation(n)[:100], random.permutation(n)[:100]
        composed = ComposedEmbeddings(
            examples, targets, normalise(meaning[targets] - 0.3 * meaning[examples])
        )
        owners = np.repeat(np.arange(n), 3)
        captioned = CaptionedEmbeddings.from_owners(images, captions, owners)
        return FusionData(captioned, images, composed)

    held_out = data(1, 200)
    recipe = FusionRecipe(epochs=8, batch=100)
    trained, epochs = fit_fusion("abc", data(0, 400), held_out, recipe, seed=3)
    case = make_case("swapped_30", held_out.captioned, 5)

    def found(gallery: np.ndarray) -> float:
        return recall_at(1, case.queries, gallery, case.owners)

    best_fixed = max(found(case.fixed(a / 10)) for a in range(11))
    assert found(case.attention(trained)) > best_fixed + 2
    assert epochs[0].epoch == -1
    assert trained.about["fingerprint"] == "abc"
    again, _ = fit_fusion("abc", data(0, 400), held_out, recipe, seed=3)
    assert trained.photo is not None and again.photo is not None
    np.testing.assert_array_equal(trained.photo.back, again.photo.back)


def test_noise_makes_training_photos_as_hard_to_find_as_held_out_ones() -> None:
    from retrieval.evaluation.fusion_data import CaptionedEmbeddings
    from retrieval.training.noise import match_noise

    def captioned(seed: int, error: float) -> CaptionedEmbeddings:
        random = np.random.default_rng(seed)
        meaning = random.normal(size=(300, 16))
        images = normalise(meaning + error * random.normal(size=meaning.shape))
        captions = normalise(np.repeat(meaning, 2, 0) + random.normal(size=(600, 16)))
        return CaptionedEmbeddings.from_owners(images, captions, np.repeat(np.arange(300), 2))

    random = np.random.default_rng(0)
    assert match_noise(captioned(1, 0.2), captioned(2, 1.0), random) > 0.3
    assert match_noise(captioned(1, 1.0), captioned(2, 0.2), random) == 0


# In an index -----------------------------------------------------------------------------------


@pytest.fixture
def captioned(few: Path) -> Path:
    """Four real photos, two of them with captions."""
    (few / "chelsea.txt").write_text("Minka at the window")
    (few / "coffee.txt").write_text("breakfast in Lisbon\nan espresso")
    return few


def scores(folder: Path, text: str = "Minka") -> dict[str, float]:
    with retrieval.open(folder) as photos:
        return {hit.path.name: hit.score for hit in photos.search(text, ranking="plain")}


def test_a_changed_caption_is_fused_without_encoding_the_photo(
    captioned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = retrieval.index(captioned, model="mini")
    assert (report.encoded, report.fused) == (4, 2)
    before = scores(captioned)

    def never(*_: object) -> None:
        raise AssertionError("a photo was encoded again")

    monkeypatch.setattr("retrieval.encoders.mini.encoder.MiniEncoder.encode_images", never)
    report = retrieval.index(captioned)
    assert (report.unchanged, report.fused) == (4, 0)
    assert scores(captioned) == before
    (captioned / "chelsea.txt").write_text("a cat")
    assert retrieval.index(captioned).fused == 1
    after = scores(captioned)
    assert after["chelsea.png"] < before["chelsea.png"]
    del before["chelsea.png"], after["chelsea.png"]
    assert after == before


def test_a_photo_without_a_caption_is_found_as_if_there_were_none(captioned: Path) -> None:
    retrieval.index(captioned, model="mini")
    with_captions = scores(captioned)
    for file in captioned.glob("*.txt"):
        file.unlink()
    retrieval.index(captioned)
    without = scores(captioned)
    assert with_captions["rocket.jpg"] == without["rocket.jpg"]
    assert with_captions["chelsea.png"] != without["chelsea.png"]
    with retrieval.open(captioned) as photos:
        hits = photos.search("Minka")
    how = [hit.explanation for hit in hits]
    assert len(how) == 4 and all(e is not None and e.photo_weight is None for e in how)


def test_fuse_brings_an_index_to_another_fusion(run: Run, captioned: Path) -> None:
    retrieval.index(captioned, model="mini")
    before = scores(captioned)
    with retrieval.open(captioned) as photos:
        model = photos.status(look=False).model
    own = store.user_fusion_file(model.fingerprint)
    about = {"fingerprint": model.fingerprint}
    saved = store.save_fusion(
        Fusion("new", network(1, model.dim), network(2, model.dim), about), own
    )
    try:
        done = run("fuse", cwd=captioned)
        assert done.code == 0 and saved.name in done.out and "2 photo(s)" in done.out
        after = scores(captioned)
        assert after["rocket.jpg"] == before["rocket.jpg"]
        assert after["chelsea.png"] != before["chelsea.png"]
        with retrieval.open(captioned) as photos:
            assert photos.status(look=False).model.fusion == saved.name
        assert "Fused 0 photo(s)" in run("fuse", cwd=captioned).out
    finally:
        own.unlink()
        store.load_fusion.cache_clear()
    retrieval.index(captioned)  # and the next run brings it back
    assert scores(captioned) == before


def test_explain_shows_how_a_score_was_computed(run: Run, captioned: Path) -> None:
    retrieval.index(captioned, model="mini")
    ask = ("search", "a cup", "--image", "rocket.jpg", "--not", "a cat")
    for hit in run(*ask, "-f", "json", cwd=captioned).json:
        why = hit["why"]
        assert len(why["terms"]) == 3
        assert sum(why["terms"]) + why["together"] == pytest.approx(hit["score"], abs=1e-4)
        weights = why["photo_weight"], why["caption_weight"]
        if Path(hit["path"]).name in ("chelsea.png", "coffee.png"):
            assert sum(weights) == pytest.approx(1, abs=1e-4)
        else:
            assert weights == (None, None)
    out = run(*ask, "--explain", cwd=captioned).out
    assert "no caption" in out and "not a cat" in out and "caption 0." in out


def test_photos_that_look_alike_are_alike_whatever_is_said_of_them(
    run: Run, captioned: Path
) -> None:
    retrieval.index(captioned, model="mini")
    like = ("similar", "chelsea.png", "-f", "json")
    before = {hit["path"]: hit["score"] for hit in run(*like, cwd=captioned).json}
    (captioned / "coffee.txt").write_text("a cat, a cat")
    retrieval.index(captioned)
    assert {hit["path"]: hit["score"] for hit in run(*like, cwd=captioned).json} == before
    again = run("search", "--image", "chelsea.png", "-f", "json", cwd=captioned).json
    assert again[0]["score"] == pytest.approx(1, abs=1e-3)


# The benchmark ---------------------------------------------------------------------------------


def test_the_benchmark_and_the_training_of_a_small_set(
    run: Run, originals: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    lines = []
    for i, photo in enumerate(sorted(originals.iterdir())):
        (folder / photo.name).write_bytes(photo.read_bytes())
        kind = ("dog", "house", "tree")[i % 3]
        captions = [f"a {kind} number {i}", f"the {kind} called {photo.stem}", f"a {kind}"]
        lines.append(json.dumps({"image": photo.name, "captions": captions}))
    (folder / "captions.jsonl").write_text("\n".join(lines))
    results = run("benchmark", "fusion", folder, "--model", "mini", "--json").json
    assert results["images"] == 20
    assert set(results["alpha"]) == {"clean", "swapped_30", "missing_50", "slerp", "found_on"}
    methods = ["photo_only", "caption_only", "mean", "fixed_alpha", "attention"]
    for case in ("clean", "swapped_30", "missing_50"):
        assert list(results[case]) == methods
        for found in results[case].values():
            low, high = found["intervals"]["R@5"]
            assert low <= found["R@5"] <= high
    assert list(results["composed"]) == ["text_only", "photo_only", "mean", "slerp", "attention"]
    assert results["composed"]["photo_only"]["R@1"] == 0  # the example itself is first
    assert list(results["matching"]) == ["photo_only", "clean", "swapped_30", "missing_50"]
    for found in results["matching"].values():
        low, high = found["auc"]["match"]["interval"]
        assert low < found["auc"]["match"]["value"] < high
        # All photos are re-ranked here, and nothing but that changes recall.
        change = found["reranked"]["R@5"]["value"] - found["without"]["R@5"]["value"]
        assert found["difference"]["R@5"]["value"] == pytest.approx(change, abs=0.01)
    out = tmp_path / "own.safetensors"
    trained = run("train-fusion", folder, "--model", "mini", "--out", out, "--quiet")
    assert trained.code == 1 and "photos to train on" in trained.messages  # 18 are too few


@pytest.mark.parametrize("model", ["tiny", pytest.param("mini", marks=pytest.mark.slow)])
def test_a_fusion_is_trained_from_the_command_line(
    run: Run, tmp_path: Path, tiny_mini: Path, model: str
) -> None:
    out = tmp_path / "own.safetensors"
    name = str(tiny_mini) if model == "tiny" else model
    ask = ("train-fusion", shared("coco_cc"), "--model", name, "--out", out)
    trained = run(*ask)
    assert trained.code == 0 and f"The fusion in {out}" in trained.out
    assert "training on 39 photos, measuring on 111 others" in trained.messages
    saved = store.read_fusion(out)
    with retrieval.open(_indexed(tmp_path, name)) as photos:
        assert saved.about["fingerprint"] == photos.status(look=False).model.fingerprint
    assert saved.about["photos"] == 39
    match = matching.read_matching(matching.matching_file(out), saved)
    assert (match.about["fusion"], match.about["photos"]) == (saved.name, 39)
    if model == "mini":
        again = run(*ask, "--quiet")
        assert again.code == 0 and again.messages == ""
        assert store.read_fusion(out).name == saved.name  # the same seed gives the same fusion


def _indexed(folder: Path, model: str) -> Path:
    (folder / "empty").mkdir()
    retrieval.index(folder / "empty", model=model)
    return folder / "empty"


@needs_extra("plot", "matplotlib")
def test_the_training_of_a_fusion_is_drawn(tmp_path: Path) -> None:
    from retrieval.training.curve import draw_fusion_curve
    from retrieval.training.fusion import FusionEpoch

    epochs = [
        FusionEpoch(role, epoch, 1.0, 20 + epoch)
        for role in ("photo", "query")
        for epoch in (-1, 0)
    ]
    assert draw_fusion_curve(epochs, tmp_path / "curve.png")
    with Image.open(tmp_path / "curve.png") as curve:
        assert curve.format == "PNG" and curve.width > 1000
