"""Relevance: the probability that a hit matches, and what `search` does with it."""

import csv
import io
import json
import shutil
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import retrieval
from indexes.index import Index
from indexes.photos import Filter
from indexes.vectors import flat
from indexes.vectors.rows import Rows
from retrieval.datasets.captioned import read_captioned
from retrieval.datasets.embedding_cache import open_embedding_cache
from retrieval.encoders.mini.encoder import MiniEncoder
from retrieval.evaluation.relevance import embed_relevance_data, measure_calibration
from retrieval.evaluation.relevance_metrics import auc, draw_diagram, reliability
from retrieval.evaluation.relevance_trials import (
    RelevanceData,
    TrialHits,
    draw_trials,
    load_concepts,
    match_probability,
    mentions,
    run_trials,
)
from retrieval.ranking.relevance import (
    LEVELS,
    WEAK,
    WORDS_MATCH,
    Calibration,
    calibrated_text,
    count_words,
    load_calibration,
    save_calibration,
    user_calibration_file,
)
from retrieval.training.relevance import fit
from tests.conftest import Run, needs_extra

CALIBRATION = Calibration("0" * 16, -2.0, 14.0, -0.4, -0.9, 0.0)
cosines = st.floats(-1, 1, width=32)
counts = st.integers(1, 10**7)


# The formula ---------------------------------------------------------------------------------


@given(cosines, cosines, cosines, counts, counts, st.integers(1, 500))
def test_a_higher_cosine_is_never_less_relevant(
    one: float, two: float, mean: float, held: int, searched: int, words: int
) -> None:
    low, high = CALIBRATION.probability([min(one, two), max(one, two)], mean, held, searched, words)
    assert 0 <= low <= high <= 1


@given(cosines, cosines, counts, st.integers(1, 500))
def test_the_same_cosine_means_less_among_more_photos_and_above_a_higher_mean(
    score: float, mean: float, held: int, words: int
) -> None:
    p = CALIBRATION.probability
    assert p(score, mean, held, 10 * held, words) <= p(score, mean, held, held, words)
    assert p(score, mean + 0.1, held, held, words) <= p(score, mean, held, held, words)


def test_the_formula_is_the_documented_one() -> None:
    m = (80 * 0.05 + 20 * 0.0) / 100
    t = -2 + 14 * (0.4 - m) - 0.4 * np.log(30) - 0.9 * np.log(2)
    assert CALIBRATION.probability(0.4, 0.05, 80, 30, 2) == pytest.approx(1 / (1 + np.exp(-t)))


def test_words_are_counted_without_articles() -> None:
    assert count_words("A dog") == count_words("dog!") == count_words("") == 1
    assert count_words("the dog and a ball on grass") == 5


def test_the_fit_finds_the_model_that_made_the_outcomes() -> None:
    chance = np.random.default_rng(0)
    m = 60_000
    plain = TrialHits(
        query=np.arange(m) // 100,
        score=chance.normal(0.2, 0.1, m),
        mean=chance.normal(0, 0.02, m),
        size=chance.choice((20, 75, 250, 800, 3000), m),
        words=chance.integers(1, 12, m),
        rank=np.zeros(m, np.int64),
        match=np.zeros(m),
        described=np.zeros(m, np.bool_),
        answerable=np.ones(m, np.bool_),
        kind=np.full(m, "thing"),
    )
    p = CALIBRATION.probability(plain.score, plain.mean, plain.size, plain.size, plain.words)
    hits = TrialHits(**{**vars(plain), "match": (chance.random(m) < p).astype(float)})
    found = fit(hits, "f", {})
    assert found.score == pytest.approx(14, abs=0.6)
    assert found.size == pytest.approx(-0.4, abs=0.05)
    assert found.words == pytest.approx(-0.9, abs=0.08)
    assert measure_calibration(found, hits)["all hits"].ece < 0.01


# Measures ------------------------------------------------------------------------------------


def test_calibration_error_by_hand() -> None:
    p = np.array([0.05, 0.05, 0.95, 0.95])
    y = np.array([0.0, 1.0, 1.0, 1.0])
    measured = reliability(p, y, np.arange(4))
    assert measured.ece == pytest.approx(0.5 * 0.45 + 0.5 * 0.05)
    assert measured.brier == pytest.approx(np.mean((p - y) ** 2))
    assert measured.low <= measured.ece <= measured.high
    assert sum(measured.count) == 4


def test_honest_probabilities_have_a_small_error_and_boastful_ones_a_large() -> None:
    chance = np.random.default_rng(1)
    p = chance.random(20_000)
    y = (chance.random(20_000) < p).astype(float)
    assert reliability(p, y, np.arange(20_000) // 20).ece < 0.02
    assert reliability(np.sqrt(p), y, np.arange(20_000) // 20).ece > 0.1


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40))
def test_auc_equals_counting_every_pair(pairs: list[tuple[int, bool]]) -> None:
    value = np.array([float(v) for v, _ in pairs])
    positive = np.array([float(y) for _, y in pairs])
    ones, zeros = value[positive == 1], value[positive == 0]
    found = auc(value, positive)
    if not len(ones) or not len(zeros):
        assert np.isnan(found)
        return
    wins = (ones[:, None] > zeros).mean() + 0.5 * (ones[:, None] == zeros).mean()
    assert found == pytest.approx(wins)


@needs_extra("plot", "matplotlib")
def test_the_diagram_is_a_picture(tmp_path: Path) -> None:
    from PIL import Image

    measured = reliability(np.linspace(0, 1, 100), np.linspace(0, 1, 100) > 0.5, np.arange(100))
    draw_diagram(tmp_path / "diagram.png", {"one": measured, "two": measured})
    with Image.open(tmp_path / "diagram.png") as image:
        assert image.width > image.height > 300


# Who is judged how ---------------------------------------------------------------------------


def test_the_judge_of_captions_agrees_with_the_pairs_judged_by_eye() -> None:
    text = (files("retrieval.evaluation") / "judged_pairs.csv").read_text("utf-8")
    rows = list(csv.DictReader(io.StringIO(text)))
    p = match_probability([float(row["similarity"]) for row in rows])
    y = np.array([float(row["matches"]) for row in rows])
    assert len(rows) > 150
    assert reliability(p, y, np.arange(len(rows))).ece < 0.08
    assert auc(p, y) > 0.85


def test_things_are_mentioned_by_any_of_their_words() -> None:
    wanted = load_concepts()
    names = list(wanted)
    table = mentions([["Two puppies."], ["A man by a stop sign"], ["a doghouse"]], wanted)
    assert table[0, names.index("dog")] and not table[2, names.index("dog")]
    assert table[1, names.index("stop sign")] and not table[0, names.index("stop sign")]


def test_half_of_the_queries_have_their_photo_and_the_rest_do_not() -> None:
    captions = tuple(
        (f"a dog and a {thing}", f"{thing} number {i}")
        for i in range(20)
        for thing in ("boat", "cat", "car")
    )
    chance = np.random.default_rng(0)
    photos = chance.normal(size=(60, 8)).astype(np.float32)
    data = RelevanceData(photos, np.zeros(60, np.float32), captions)
    trials = draw_trials(data, np.arange(60), np.arange(0), (20, 500), 60, seed=0)
    table, names = mentions(captions, load_concepts()), list(load_concepts())
    assert {len(t.gallery) for t in trials} == {20}, "there are too few photos for 500"
    for trial in trials:
        assert len(set(trial.gallery)) == 20
        if trial.kind == "caption":
            assert (trial.target in trial.gallery) == trial.answerable
            assert trial.text in captions[trial.target]
        else:
            assert all(names[i] in trial.text for i in trial.concepts)
            assert table[trial.gallery][:, list(trial.concepts)].all(1).any() == trial.answerable
    shares = [t.answerable for t in trials if t.kind == "caption"]
    assert np.mean(shares) == 0.5


def test_asking_keeps_the_first_hits_and_how_surely_they_match() -> None:
    encoder = MiniEncoder()
    captions = (("a black cat",), ("a dog on a beach",), ("a plate of pasta",)) * 8
    photos = encoder.encode_texts([c for (c,) in captions])
    data = RelevanceData(photos, np.zeros(24, np.float32), captions)
    trials = draw_trials(data, np.arange(24), np.arange(0), (12,), 12, seed=0)
    hits = run_trials(data, trials, encoder.encode_texts, encoder.encode_sentences)
    best = hits.where((hits.rank == 0) & (hits.kind == "caption") & hits.answerable)
    assert len(best.score) and np.all(best.match > 0.9), "its twins match a caption as well"
    assert np.all(hits.match[hits.described] == 1)


# What a model was fitted for -----------------------------------------------------------------


def test_the_shipped_fit_belongs_to_the_shipped_weights() -> None:
    found = load_calibration(MiniEncoder().fingerprint)
    assert found is not None
    assert found.score > 0 > found.size


def test_other_weights_have_no_fit_until_the_user_makes_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platformdirs.user_data_path", lambda _: tmp_path)
    assert load_calibration("0" * 16) is None
    save_calibration(CALIBRATION, user_calibration_file("0" * 16))
    assert load_calibration("0" * 16) == CALIBRATION
    assert load_calibration("1" * 16) is None


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"format": 99}', "[" * 100_000, "\xff",
     json.dumps({"format": 2, "fingerprint": "0" * 16, "bias": 1e999, "score": 1, "size": 1,
                 "words": 1, "usual": 0, "about": {}})],
)  # fmt: skip
def test_a_damaged_fit_counts_as_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr("platformdirs.user_data_path", lambda _: tmp_path)
    user_calibration_file("0" * 16).parent.mkdir()
    user_calibration_file("0" * 16).write_text(text, "latin-1")
    assert load_calibration("0" * 16) is None


# In a search ---------------------------------------------------------------------------------


def test_a_good_query_is_surer_than_one_that_nothing_matches(run: Run, indexed: Path) -> None:
    def best(text: str) -> float:
        return max(hit["relevance"] for hit in run("search", text, "-f", "json", cwd=indexed).json)

    good = min(map(best, ("a cat", "a man with a camera", "a motorcycle", "a red flower")))
    absurd = max(
        map(best, ("skiers on a snowy slope", "a bowl of soup", "two children on a swing"))
    )
    assert good > absurd


def test_every_format_carries_the_relevance(run: Run, indexed: Path, tmp_path: Path) -> None:
    def ask(*options: object) -> str:
        return run("search", "a cat", "-k", 20, *options, cwd=indexed).out

    values = [hit["relevance"] for hit in json.loads(ask("-f", "json"))]
    assert values == sorted(values, reverse=True) and all(0 <= value <= 1 for value in values)
    rows = csv.DictReader(io.StringIO(ask("-f", "csv")))
    assert [float(row["relevance"]) for row in rows] == values
    percent = f"{100 * values[0]:.0f}%"
    header, first, *_ = ask("-f", "table").splitlines()
    assert header.split() == ["Rank", "Score", "Relevance", "Photo", "Taken"]
    assert first.split()[2] == percent
    ask("--gallery", tmp_path / "page.html")
    assert f">{percent}</span>" in (tmp_path / "page.html").read_text()


def test_a_level_leaves_out_what_is_below_it_and_says_so(run: Run, indexed: Path) -> None:
    every = run("search", "a cat", "-k", 20, "-f", "json", cwd=indexed)
    assert "left out" not in every.messages and len(every.json) == 20
    for level in ("normal", "strict"):
        cut = run("search", "a cat", "-k", 20, "-f", "json", "--relevance", level, cwd=indexed)
        kept = [hit for hit in every.json if hit["relevance"] >= LEVELS[level]]
        assert cut.json == kept and 0 < len(kept) < 20
        assert f"{20 - len(kept)} of 20 hits left out" in cut.messages
        assert "--relevance all shows them" in cut.messages


def test_when_nothing_matches_well_search_says_so(run: Run, indexed: Path) -> None:
    absurd = "a spaceship landing on mars with aliens watching from a purple tent in the rain"
    every = run("search", absurd, "-f", "json", cwd=indexed)
    assert every.code == 0 and len(every.json) == 10
    assert max(hit["relevance"] for hit in every.json) < WEAK
    assert "No photo matches well" in every.messages and "Try other words" in every.messages
    cut = run("search", absurd, "-f", "json", "--relevance", "strict", cwd=indexed)
    assert cut.code == 0 and cut.json == [] and "10 of 10 hits left out" in cut.messages
    assert "No photo matches well" not in run("search", "a cat", cwd=indexed).messages


@pytest.mark.parametrize(
    "more", [["--not", "a dog"], ["--image", "moon.png"], ["--text", "at night"]]
)
def test_a_composed_query_has_no_percentage(run: Run, indexed: Path, more: list[str]) -> None:
    found = run("search", "a cat", *more, "-f", "json", "--relevance", "strict", cwd=indexed)
    assert len(found.json) == 10, "nothing is left out where nothing is known"
    assert all(hit["relevance"] is None for hit in found.json)
    assert "Relevance is known only for queries of one text" in found.messages
    assert "%" not in run("search", "a cat", *more, cwd=indexed).out


def test_one_wanted_text_is_calibrated_and_nothing_else() -> None:
    term = retrieval.Term
    assert calibrated_text(retrieval.Query((term("text", "a cat", weight=2),))) == "a cat"
    assert calibrated_text(retrieval.Query((term("photo", "a.jpg"),))) is None
    both = (term("text", "a cat"), term("text", "a dog", False))
    assert calibrated_text(retrieval.Query(both)) is None


def test_weights_without_a_fit_show_no_percentage(run: Run, few: Path, random_clip: str) -> None:
    run("index", few, "--model", random_clip)
    found = run("search", "a cat", "-f", "json", "--relevance", "normal", cwd=few)
    assert [hit["relevance"] for hit in found.json] == [None] * 4
    assert "not fitted for the model of this index" in found.messages


@pytest.mark.parametrize("ranking", ["templates", "expansion"])
def test_a_ranking_that_changes_the_query_has_no_percentage(
    run: Run, indexed: Path, ranking: str
) -> None:
    ask = ("search", "a cat", "-f", "json", "--ranking", ranking, "--relevance")
    found = run(*ask, "normal", cwd=indexed)
    assert [hit["relevance"] for hit in found.json] == [None] * 10
    assert "Relevance is not known with --ranking templates or expansion" in found.messages
    assert "Relevance" not in run(*ask, "all", cwd=indexed).messages


def test_a_filter_changes_what_was_searched_but_not_what_is_usual(photos: Path) -> None:
    (photos / "part").mkdir()
    for name in ("chelsea.png", "moon.png"):
        (photos / name).rename(photos / "part" / name)
    retrieval.index(photos)
    with retrieval.open(photos) as opened:
        vector = opened.embed(retrieval.Query((retrieval.Term("text", "a cat"),)))
        (whole, *_), (part, *_) = opened.search("a cat"), opened.search("a cat", within=["part"])
        assert opened.search("a cat", relevance="strict")[0] == whole
    assert whole.relevance is not None and part.relevance is not None
    assert whole.score == part.score and whole.relevance < part.relevance
    with Index.open(photos / ".retrieval") as index:
        everything = index.gallery_statistics(vector)
        root = index.roots()[0].id
        filtered = index.gallery_statistics(vector, Filter(((root, "part"),)))
        _, rows = index.catalogue.embeddings.all_searchable(index.model.dim)
    assert (everything.photos, everything.searched, filtered.searched) == (20, 20, 2)
    assert everything.mean == filtered.mean
    assert everything.mean == pytest.approx(float((rows @ vector).mean()), abs=1e-5)


def test_some_photos_stand_for_many(photos: Path) -> None:
    with Index.open(photos / ".retrieval") as index:
        ids, rows = index.catalogue.embeddings.all_searchable(index.model.dim)
    parts = [Rows(ids[:13], rows[:13]), Rows(ids[13:], rows[13:])]
    dim = rows.shape[1]
    assert flat.mean_row(parts, dim, 20) == pytest.approx(rows.mean(0), abs=1e-6)
    every_fourth = rows[[0, 4, 8, 12, 13, 17]]
    assert flat.mean_row(parts, dim, 5) == pytest.approx(every_fourth.mean(0), abs=1e-6)
    assert not flat.mean_row([], dim, 5).any()


def test_trials_leave_out_photos_that_cannot_be_read(
    few: Path, tmp_path: Path, tiny_mini: Path
) -> None:
    (few / "rocket.jpg").write_bytes((few / "rocket.jpg").read_bytes()[:300])
    lines = [{"image": p.name, "captions": [p.stem, "a photo"]} for p in sorted(few.iterdir())]
    (few / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    captioned, encoder = read_captioned(few, "all"), retrieval.load_encoder(str(tiny_mini))
    messages: list[str] = []
    with open_embedding_cache(encoder, lambda *_: None) as cache:
        with pytest.raises(retrieval.DataSetError, match="rocket"):
            embed_relevance_data(captioned, encoder, cache)
        data = embed_relevance_data(captioned, encoder, cache, True, messages.append)
    assert len(data.photos) == len(data.captions) == 3
    assert len(messages) == 1 and "rocket.jpg" in messages[0]


# Photos with captions ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def captioned(originals: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All photos with a caption, which says little of what is in them."""
    folder = tmp_path_factory.mktemp("captioned") / "photos"
    shutil.copytree(originals, folder)
    for number, photo in enumerate(sorted(folder.iterdir())):
        photo.with_suffix(".txt").write_text(f"scan {number} of the Zubrowka archive")
    (folder / "chelsea.txt").write_text("Whiskers the ginger cat\n")
    (folder / "coffee.png").rename(folder / "Quixote.png")
    (folder / "coffee.txt").rename(folder / "Quixote.txt")
    retrieval.index(folder, model="mini")
    return folder


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("submarine volcano tornado", True),
        ("a ginger cat", False),  # as it looks, and by its caption
        ("Whiskers", False),  # by its caption alone
        ("a rocket", False),  # as it looks alone
        ("Quixote", False),  # by its name alone
    ],
)
def test_that_no_photo_matches_is_said_where_photos_have_captions(
    run: Run, captioned: Path, text: str, told: bool
) -> None:
    messages = run("search", text, "-f", "json", cwd=captioned).messages
    assert ("No photo matches well" in messages) == told, messages


def test_a_caption_with_all_words_makes_a_photo_relevant(captioned: Path) -> None:
    with retrieval.open(captioned) as opened:
        hits = opened.search("whiskers", k=20)
        assert hits[0].path.name == "chelsea.png"
        assert hits[0].relevance is not None and hits[0].relevance >= WORDS_MATCH
        assert all(hit.relevance is not None and hit.relevance < 0.5 for hit in hits[1:])
        (part, *_) = opened.search("whiskers zeppelin", k=20)
        assert part.relevance is not None and part.relevance < WORDS_MATCH
        named = {hit.path.name: hit.relevance for hit in opened.search("quixote", k=20)}
        assert named["Quixote.png"] is None, "names may be after anything"
        assert [hit.path.name for hit in opened.search("whiskers", k=20, relevance="strict")] == [
            "chelsea.png"
        ]
