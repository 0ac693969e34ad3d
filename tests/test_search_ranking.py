"""`search --ranking`: every ranking over the real index, exact, and its cache that can be lost."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import retrieval
from indexes.index import Index
from retrieval.ranking import lexical, query_bank
from retrieval.ranking.hubness import nnn_bias
from retrieval.ranking.methods import RANKINGS, templated, transform
from tests.conftest import Run

QUERIES = ("a cat", "a rocket", "people", "food on a table")


def hashes(folder: Path, text: str, **options: object) -> list[str]:
    with retrieval.open(folder) as opened:
        return [hit.photo.hash for hit in opened.search(text, **options)]  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [name for name, r in RANKINGS.items() if not r.lexical])
def test_the_order_is_that_of_the_rankings_definition(photos: Path, name: str) -> None:
    """The index gives what `transform` and a brute-force product give."""
    encoder = retrieval.load_encoder("mini")
    ranking = RANKINGS[name]
    with Index.open(photos / ".retrieval") as index:
        ids, rows = index.catalogue.embeddings.all_searchable(index.model.dim)
        known = {
            i: photo.hash for i, (photo, _) in index.catalogue.photos.get(ids.tolist()).items()
        }
    asked = templated(ranking, list(QUERIES), encoder.encode_texts)
    gallery, queries = transform(ranking, rows, asked, query_bank.bank_embeddings(encoder))
    for text, scores in zip(QUERIES, queries @ gallery.T, strict=True):
        expected = [known[int(ids[i])] for i in np.argsort(-scores, kind="stable")]
        assert hashes(photos, text, k=20, ranking=name) == expected
        assert hashes(photos, text, k=3, ranking=name) == expected[:3]


def test_scores_are_cosines_and_the_lowest_one_is_kept_to(run: Run, photos: Path) -> None:
    ask = ("search", "a cat", "-k", 20, "-f", "json")
    plain = run(*ask, "--ranking", "plain", cwd=photos).json
    nnn = run(*ask, "--ranking", "nnn", cwd=photos).json
    scores = {hit["hash"]: hit["score"] for hit in plain}
    assert {hit["hash"]: hit["score"] for hit in nnn} == scores
    assert [hit["hash"] for hit in nnn] != [hit["hash"] for hit in plain]
    lowest = sorted(scores.values())[10] - 1e-6
    cut = run(*ask, "--ranking", "nnn", "--min-score", lowest, cwd=photos).json
    assert [hit["hash"] for hit in cut] == [h["hash"] for h in nnn if h["score"] >= lowest]


def test_auto_is_nnn_for_words_and_plain_for_example_photos(photos: Path) -> None:
    assert hashes(photos, "a cat") == hashes(photos, "a cat", ranking="nnn")
    example = photos / "chelsea.png"
    with retrieval.open(photos) as opened:
        plain = opened.search(photos=[example], k=20, ranking="plain")
        assert opened.search(photos=[example], k=20) == plain
        assert opened.search(photos=[example], k=20, ranking="nnn") == plain
        scores = [hit.score for hit in plain]
    assert scores == sorted(scores, reverse=True)


def test_an_unknown_ranking_is_told_in_a_sentence(photos: Path) -> None:
    with pytest.raises(retrieval.QueryError, match="no ranking 'best'"):
        hashes(photos, "a cat", ranking="best")


# The biases' file ------------------------------------------------------------------------------


def bias_files(photos: Path) -> list[Path]:
    return sorted((photos / ".retrieval").glob("vectors-*/bias-*"))


@pytest.mark.parametrize("damage", ["lost", "emptied", "cut", "of other photos", "not numbers"])
def test_a_lost_or_damaged_file_of_biases_changes_nothing(photos: Path, damage: str) -> None:
    (file,) = bias_files(photos)
    before = hashes(photos, "a cat")
    known = np.load(file)
    assert known.shape == (20,)
    if damage == "lost":
        file.unlink()
    elif damage == "emptied":
        file.write_bytes(b"")
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-5])
    elif damage == "of other photos":
        np.save(file, known[:-1])
    else:
        np.save(file, known * np.float32(np.nan))
    assert hashes(photos, "a cat") == before
    np.testing.assert_allclose(np.load(file), known, atol=1e-6)  # and it is whole again


def test_photos_that_are_added_or_forgotten_are_ranked_as_in_an_index_made_at_once(
    few: Path, originals: Path
) -> None:
    retrieval.index(few, model="mini")
    for name in ("astronaut.png", "camera.png", "motorcycle_left.png"):
        if (originals / name).exists():
            shutil.copy2(originals / name, few)
    retrieval.index(few)
    assert len(bias_files(few)) == 1
    grown = hashes(few, "a cat", k=20)
    retrieval.index(few, options=retrieval.Options(rebuild=True))
    assert len(bias_files(few)) == 1
    assert hashes(few, "a cat", k=20) == grown
    (few / "coffee.png").unlink()
    retrieval.index(few, options=retrieval.Options(prune=True))
    assert len(hashes(few, "a cat", k=20)) == len(grown) - 1
    assert [h for h in grown if h in hashes(few, "a cat", k=20)] == hashes(few, "a cat", k=20)


def test_an_index_by_a_model_that_never_ran_here_is_searched_plainly(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bank's embeddings take long to make, so a search makes them only if asked by name."""
    plain = hashes(photos, "a cat", ranking="plain")
    nnn = hashes(photos, "a cat", ranking="nnn")
    (file,) = bias_files(photos)
    file.unlink()
    monkeypatch.setattr(query_bank, "SHIPPED", photos)
    assert hashes(photos, "a cat") == plain
    assert not bias_files(photos)
    monkeypatch.setattr(query_bank, "generic_queries", lambda: ("a cat", "a dog", "food"))
    assert hashes(photos, "a cat", ranking="nnn") != nnn  # encoded by the encoder at hand
    assert len(bias_files(photos)) == 1


def test_captions_of_the_index_join_the_bank(photos: Path) -> None:
    assert not [file for file in bias_files(photos) if "-own." in file.name]
    lines = [{"image": "chelsea.png", "captions": ["a cat", "a tabby"]},
             {"image": "coffee.png", "captions": ["a cup of coffee"]}]  # fmt: skip
    (photos / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    retrieval.index(photos)
    (file,) = [file for file in bias_files(photos) if "-own." in file.name]
    with Index.open(photos / ".retrieval") as index:
        ids, rows = index.catalogue.embeddings.all_searchable(index.model.dim)
        stored = index.catalogue.embeddings.captions(index.model.dim, 10)
        assert stored.shape == (2, index.model.dim)
        assert len(index.catalogue.embeddings.captions(index.model.dim, 1)) == 1
    expected = nnn_bias(
        rows, np.concatenate([query_bank.bank_embeddings(retrieval.load_encoder("mini")), stored])
    )
    assert np.load(file.with_name("ids.npy")).tolist() == ids.tolist()
    np.testing.assert_allclose(np.load(file), expected, atol=1e-6)


def test_where_photos_have_captions_a_search_reads_two_biases(few: Path) -> None:
    """That of the ranking knows the captions; relevance was fitted with the other one."""
    for photo in [*few.glob("*.png"), *few.glob("*.jpg")]:
        photo.with_suffix(".txt").write_text(f"a photo of {photo.stem}")
    retrieval.index(few, model="mini")
    for file in bias_files(few):
        file.unlink()
    assert len(hashes(few, "a cat")) == 4
    assert {("-own." in file.name) for file in bias_files(few)} == {False, True}


def test_the_vectors_give_the_cosines_of_the_catalogue_whatever_changed(few: Path) -> None:
    retrieval.index(few, model="mini")
    (few / "chelsea.txt").write_text("Our cat Tiger")  # its vector is replaced
    shutil.copy(few / "rocket.jpg", few / "copy.jpg")
    (few / "coffee.png").unlink()
    retrieval.index(few)
    with Index.open(few / ".retrieval") as index:
        query = retrieval.load_encoder("mini").encode_texts(["a cat"])[0]
        ids, rows = index.catalogue.embeddings.all_searchable(index.model.dim)
        assert index.cosines(query, ids.tolist()) == pytest.approx(rows @ query, abs=1e-6)
        unknown = index.cosines(query, [int(ids[-1]) + 1])
        assert unknown.tolist() == [-np.inf]


def test_a_count_of_matches_stops_at_its_bound(few: Path) -> None:
    for photo in few.glob("*.*g"):
        photo.with_suffix(".txt").write_text("a picture")
    retrieval.index(few, model="mini")
    with Index.open(few / ".retrieval") as index:
        full_text, picture = index.catalogue.full_text, lexical.match_expression(["picture"])
        assert full_text.count(picture, 2) == 2
        assert full_text.count(picture, 99) == len(list(few.glob("*.txt")))
        assert full_text.count("", 9) == 0
