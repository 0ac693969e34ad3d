"""`retrieval search` and `similar`: what a query means and how its hits are printed."""

import csv
import io
import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import retrieval
from retrieval.encoders.base import reads_all
from retrieval.query import parse_date, parse_term, parse_terms
from tests.conftest import Run


@pytest.mark.parametrize(
    ("text", "best"),
    [
        ("a cat", "chelsea.png"),
        ("a cup of coffee", "coffee.png"),
        ("a rocket taking off", "rocket.jpg"),
        ("a man with a camera", "camera.png"),
        ("a red flower", "flower.jpg"),
    ],
)
def test_words_find_the_photo(run: Run, indexed: Path, text: str, best: str) -> None:
    assert run("search", text, "-f", "json", cwd=indexed).names[0] == best


def test_hits_are_ranked_by_cosine_and_counted_by_k(run: Run, indexed: Path) -> None:
    arguments = ("search", "a cat", "-k", 7, "-f", "json", "--ranking", "plain")
    hits = run(*arguments, cwd=indexed).json
    assert [hit["rank"] for hit in hits] == list(range(1, 8))
    scores = [hit["score"] for hit in hits]
    assert scores == sorted(scores, reverse=True)
    assert all(-1 <= score <= 1 for score in scores)
    assert len(run("search", "a cat", "-k", 500, "-f", "json", cwd=indexed).json) == 20


def test_the_scores_are_those_of_exact_search(indexed: Path) -> None:
    """The hits equal a brute-force product with the stored embeddings, made without FAISS."""
    from indexes.index import Index

    with retrieval.open(indexed) as opened:
        vector = opened.embed(retrieval.Query((retrieval.Term("text", "a cat"),)))
        hits = opened.search("a cat", k=20, ranking="plain")
    with Index.open(indexed / ".retrieval") as index:
        ids, rows = index.catalogue.embeddings.all_searchable(index.model.dim)
        assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
        expected = sorted(rows @ vector, reverse=True)
        assert len(ids) == 20
    assert np.allclose([hit.score for hit in hits], expected, atol=1e-6)


def test_one_folder_pattern_or_list_needs_no_brackets(photos: Path) -> None:
    """A text is one item, not a sequence of letters."""
    (photos / "cats").mkdir()
    (photos / "chelsea.png").rename(photos / "cats" / "chelsea.png")
    (photos / "list.csv").write_text("image,caption\nchina.jpg,a temple\n")
    options = retrieval.Options(exclude="rocket.jpg", captions=str(photos / "list.csv"))
    assert retrieval.index(photos, options=options).captioned == 1
    with retrieval.open(photos) as opened:
        term = retrieval.Term("text", "a rocket")
        for within in (str(photos / "cats"), photos / "cats", [photos / "cats"]):
            (hit,) = opened.ask(retrieval.Query(term, within=within))
            assert hit.path.name == "chelsea.png"
        names = {hit.path.name for hit in opened.ask(retrieval.Query([term]))}
        assert opened.status().excluded == ("rocket.jpg",)
    assert "rocket.jpg" not in names


def test_unwanted_words_push_photos_down(run: Run, indexed: Path) -> None:
    plain = run("search", "an animal", "-k", 20, "-f", "json", cwd=indexed).names
    without = run("search", "an animal", "--not", "a cat", "-k", 20, "-f", "json", cwd=indexed)
    assert plain.index("chelsea.png") < without.names.index("chelsea.png")


def test_an_unwanted_photo_pushes_its_like_down(run: Run, indexed: Path) -> None:
    plain = run("search", "an animal", "-k", 20, "-f", "json", cwd=indexed).names
    without = run(
        "search", "an animal", "--not-image", "chelsea.png", "-k", 20, "-f", "json", cwd=indexed
    )
    assert plain.index("chelsea.png") < without.names.index("chelsea.png")


def test_an_example_photo_from_outside_the_index(run: Run, indexed: Path, tmp_path: Path) -> None:
    example = tmp_path / "example.jpg"
    with Image.open(indexed / "chelsea.png") as image:
        image.resize((200, 133)).convert("RGB").save(example, quality=60)
    assert run("search", "--image", example, "-f", "json", cwd=indexed).names[0] == "chelsea.png"


def test_an_example_photo_on_standard_input(indexed: Path) -> None:
    data = (indexed / "coffee.png").read_bytes()
    command = [sys.executable, "-m", "cli", "search", "--image", "-", "-k", "1", "-f", "paths"]
    done = subprocess.run(
        [*command, "--index", indexed], input=data, capture_output=True, check=True
    )
    assert done.stdout.decode().strip().endswith("coffee.png")


def test_an_indexed_photo_needs_no_torch(indexed: Path) -> None:
    code = (
        "import sys, retrieval\n"
        "with retrieval.open(sys.argv[1]) as photos:\n"
        "    assert photos.search(photos=[sys.argv[1] + '/moon.png'])[0].path.name == 'moon.png'\n"
        "    assert photos.search('a cat')[0].path.name == 'chelsea.png'\n"
        "assert 'torch' not in sys.modules and 'open_clip' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, str(indexed)], check=True)


def test_text_and_photo_together_mean_both(run: Run, indexed: Path) -> None:
    found = run(
        "search", "a motorcycle", "--image", "chelsea.png", "-k", 2, "-f", "json", cwd=indexed
    ).names
    assert set(found) == {"chelsea.png", "motorcycle_left.png"}


def test_a_weight_moves_the_query_towards_its_term(run: Run, indexed: Path) -> None:
    def order(weight: float) -> list[str]:
        return run(
            "search",
            "--text",
            f"a cat={weight}",
            "--text",
            "a motorcycle",
            "-f",
            "json",
            cwd=indexed,
        ).names

    assert order(5)[0] == "chelsea.png"
    assert order(0.2)[0] == "motorcycle_left.png"


def test_similar_leaves_the_photo_and_its_copies_out(run: Run, photos: Path) -> None:
    shutil.copy(photos / "brick.png", photos / "copy.png")
    run("index", photos)
    found = run("similar", "brick.png", "-k", 30, "-f", "json", cwd=photos).names
    assert "brick.png" not in found
    assert "copy.png" not in found
    assert len(found) == 19


def test_similar_knows_a_copy_from_outside_by_its_content(
    run: Run, indexed: Path, tmp_path: Path
) -> None:
    copy = shutil.copy(indexed / "brick.png", tmp_path / "copy.png")
    found = run("similar", copy, "-k", 30, "-f", "json", cwd=indexed).names
    assert len(found) == 19 and "brick.png" not in found


def test_a_photo_that_changed_since_is_encoded_and_not_looked_up(run: Run, photos: Path) -> None:
    with Image.open(photos / "coffee.png") as image:
        image.resize((300, 200)).save(photos / "chelsea.png")
    assert run("similar", "chelsea.png", "-f", "json", cwd=photos).names[0] == "coffee.png"


def test_a_floor_for_the_score_can_leave_nothing(run: Run, indexed: Path) -> None:
    assert run("search", "a cat", "--min-score", 0.99, cwd=indexed).out == "No photo matches.\n"
    some = run("search", "a cat", "--min-score", 0.1, "-k", 20, "-f", "json", cwd=indexed).json
    assert some and all(hit["score"] >= 0.1 for hit in some)


def test_a_search_can_stay_in_a_subfolder(run: Run, photos: Path) -> None:
    for folder in ("a", "ab", "a/b"):
        (photos / folder).mkdir()
    (photos / "chelsea.png").rename(photos / "ab" / "cat.png")
    (photos / "moon.png").rename(photos / "a" / "moon.png")
    (photos / "coins.png").rename(photos / "a" / "b" / "coins.png")
    run("index", photos)
    found = run("search", "a cat", "--in", "a", "-f", "json", cwd=photos).names
    assert set(found) == {"moon.png", "coins.png"}
    both = run("search", "a cat", "--in", "ab", "--in", "a/b", "-f", "json", cwd=photos).names
    assert both == ["cat.png", "coins.png"]
    outside = run("search", "a cat", "--in", photos.parent, cwd=photos)
    assert outside.code == 1
    assert "not a part of this index" in outside.messages
    nowhere = run("search", "a cat", "--in", "no-such-folder", cwd=photos)
    assert nowhere.code == 1


def test_dates_come_from_the_photo_else_from_its_file(run: Run, few: Path) -> None:
    import os
    import time

    with Image.open(few / "chelsea.png") as image:
        image.save(few / "chelsea.png")  # without its date
    with Image.open(few / "china.jpg") as image:
        exif = image.getexif()
        exif.get_ifd(0x8769)[36867] = "2019:07:14 18:30:00"
        image.save(few / "china.jpg", exif=exif)
    for name in ("chelsea.png", "coffee.png", "rocket.jpg"):
        moment = time.mktime((2022, 3, 1, 12, 0, 0, 0, 0, -1))
        os.utime(few / name, (moment, moment))
    run("index", few, "--model", "mini")

    def between(*options: str) -> set[str]:
        return set(run("search", "photo", "-f", "json", *options, cwd=few).names)

    assert between("--before", "2020") == {"china.jpg"}
    assert between("--after", "2022-03-01", "--before", "2022-03-02") == {
        "chelsea.png", "coffee.png", "rocket.jpg",
    }  # fmt: skip
    assert between("--after", "2019-07-14", "--before", "2019-07-15") == {"china.jpg"}
    assert between("--after", "2023") == set()
    failed = run("search", "photo", "--after", "yesterday", cwd=few)
    assert failed.code == 1
    assert "2024-05-17" in failed.messages


def test_every_format_gives_the_same_hits(run: Run, indexed: Path) -> None:
    def ask(*options: str) -> str:
        return run("search", "a cat", "-k", 3, *options, cwd=indexed).out

    paths = ask("--format", "paths").splitlines()
    assert len(paths) == 3 and all(Path(path).is_file() for path in paths)
    assert [hit["path"] for hit in json.loads(ask("--format", "json"))] == paths
    assert [json.loads(line)["path"] for line in ask("--format", "jsonl").splitlines()] == paths
    assert [row["path"] for row in csv.DictReader(io.StringIO(ask("--format", "csv")))] == paths
    assert ask("-0").split("\0") == [*paths, ""]
    table = ask("--format", "table").splitlines()
    assert table[0].split() == ["Rank", "Score", "Relevance", "Photo", "Taken"]
    assert [line.split()[3] for line in table[1:]] == [Path(path).name for path in paths]


def test_a_missing_index_is_offered_or_made(run: Run, few: Path) -> None:
    failed = run("search", "a cat", cwd=few)
    assert failed.code == 1
    assert "retrieval index" in failed.messages and "--index-first" in failed.messages
    created = run("search", "a cat", "--index-first", "-f", "paths", "-k", 1, cwd=few)
    assert created.code == 0
    assert created.out.strip() == str(few / "chelsea.png")
    assert "4 added" in created.messages


def test_on_a_terminal_search_asks_before_it_indexes(few: Path) -> None:
    """A real pseudo-terminal: `y` makes the index and the search goes on."""
    import os
    import pty

    for answer, code in (("n", 1), ("y", 0)):
        parent, child = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "cli", "search", "a cat", "-k", "1", "-f", "paths"],
            cwd=few, stdin=child, stderr=child, stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm"},
        )  # fmt: skip
        os.close(child)
        seen = b""
        while b"[" not in seen:
            seen += os.read(parent, 1000)
        assert b"Index the photos in" in seen
        os.write(parent, f"{answer}\n".encode())
        out = _drain(parent, process)
        assert process.returncode == code
        if answer == "y":
            assert out.decode().strip().endswith("chelsea.png")


def _drain(parent: int, process: subprocess.Popen[bytes]) -> bytes:
    """Keep reading the terminal, so that the process never waits for it; returns its output."""
    import os
    import threading

    def read() -> None:
        try:
            while os.read(parent, 1000):
                pass
        except OSError:  # the other end closed
            pass

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    out, _ = process.communicate(timeout=120)
    return out


def test_an_index_by_other_weights_is_refused(run: Run, photos: Path) -> None:
    import sqlite3

    with sqlite3.connect(photos / ".retrieval" / "catalogue.db") as db:
        db.execute("UPDATE meta SET value = '0123456789abcdef' WHERE key = 'fingerprint'")
    db.close()
    failed = run("search", "a cat", cwd=photos)
    assert failed.code == 1
    assert "other weights" in failed.messages and "retrieval index --rebuild" in failed.messages
    assert failed.raw == b""


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["search"], 1, "asks for nothing"),
        (["search", "  "], 1, "is empty"),
        (["search", "--not", "a cat"], 1, "asks for nothing"),
        (["search", "a cat", "-k", "0"], 2, "greater than or equal to 1"),
        (["search", "--text", "a cat=0"], 1, "must be above 0"),
        (["search", "--image", "nowhere.jpg"], 1, "there is no such file"),
        (["search", "--image", "."], 1, "it is a folder"),
        (["search", "a cat", "--min-score", "nan"], 1, "is not a number"),
        (["search", "--no-such-option"], 2, "No such option"),
        (["search", "a cat", "--index", "nowhere"], 1, "There is no index in nowhere"),
        (["similar", "nowhere.jpg"], 1, "there is no such file"),
        (["remove"], 1, "Name the photos"),
        (["search", "--text", "a cat=-1"], 1, "must be above 0"),
        (["search", "--text", "a cat=99999999999999999999"], 1, "at most 1e+06"),
        (["index", "--index", "nowhere"], 1, "There is no index in nowhere"),
        (["search", "a cat", "--index", "nowhere", "--index-first"], 1, "no index in nowhere"),
    ],
)
def test_a_wrong_query_gets_one_sentence(
    run: Run, indexed: Path, arguments: list[str], code: int, expected: str
) -> None:
    result = run(*arguments, cwd=indexed)
    assert result.code == code
    assert expected in result.messages
    assert result.raw == b""


def test_an_example_that_is_no_photo_gets_one_sentence(run: Run, indexed: Path, tmp_path) -> None:
    letter = tmp_path / "letter.jpg"
    letter.write_text("Dear reader")
    result = run("search", "--image", letter, cwd=indexed)
    assert result.code == 1
    assert "letter.jpg cannot be used as a photo: not a photo that can be read" in result.messages


def test_terms_are_read_with_their_weights(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_term("text", "at night=0.5") == retrieval.Term("text", "at night", True, 0.5)
    assert parse_term("text", "e = mc").value == "e = mc"
    assert parse_term("text", "a=b=2") == retrieval.Term("text", "a=b", True, 2.0)
    (tmp_path / "photo=2").write_text("")
    assert parse_term("photo", "photo=2") == retrieval.Term("photo", "photo=2")
    assert [t.wanted for t in parse_terms(["a"], ["b"], ["c"], ["d"])] == [True, True, False, False]


def test_dates_are_read_at_any_length() -> None:
    assert parse_date("2024", "--after") == "2024-01-01T00:00:00"
    assert parse_date("2024-05-17 10:30", "--after") == "2024-05-17T10:30:00"
    with pytest.raises(retrieval.QueryError):
        parse_date("2024-13", "--after")


def test_help_and_search_import_nothing_heavy(indexed: Path) -> None:
    code = (
        "import sys, cli\n"
        "heavy = set(sys.argv.pop(1).split(','))\n"
        "try: cli.main()\n"
        "except SystemExit as stop: assert not stop.code\n"
        "heavy &= set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    searches = "torch,faiss,open_clip,openvino,sqlite_utils,psutil,numpy.ma,"
    searches += "ray,pymilvus,fsspec,pyarrow"  # of an index on many machines
    for heavy, words in (
        (f"{searches},numpy,PIL", ["--help"]),
        (searches, ["search", "a cat", "--index", str(indexed / ".retrieval")]),
    ):
        done = subprocess.run([sys.executable, "-c", code, heavy, *words], capture_output=True)
        assert done.returncode == 0, done.stderr.decode()


def test_the_bias_is_read_once_for_each_search(
    indexed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from indexes.index import Index

    asked: list[str] = []
    biases = Index.biases

    def counted(index: Index, name: str, compute):
        asked.append(name)
        return biases(index, name, compute)

    monkeypatch.setattr(Index, "biases", counted)
    with retrieval.open(indexed) as opened:
        assert opened.search("a cat")[0].relevance is not None
        assert len(asked) == 1  # for the ranking, and for relevance, too
        opened.search(photos=[indexed / "chelsea.png"])
        assert len(asked) == 1


def test_options_that_make_no_sense_are_refused_before_anything_is_loaded() -> None:
    with pytest.raises(retrieval.QueryError, match="at least one photo"):
        retrieval.SearchOptions(k=0)
    with pytest.raises(retrieval.QueryError, match="strict, normal, all"):
        retrieval.SearchOptions(relevance="some")  # type: ignore[arg-type]


def test_a_search_takes_its_options_as_one_value(indexed: Path) -> None:
    query = retrieval.Query((retrieval.Term("text", "a cat"),))
    options = retrieval.SearchOptions(k=20, ranking="plain", relevance="strict")
    with retrieval.open(indexed) as opened:
        hits = opened.ask(query, options)
        assert hits == opened.search("a cat", k=20, ranking="plain", relevance="strict")
        every = opened.ask(query, retrieval.SearchOptions(k=20, ranking="plain"))
    assert hits == retrieval.filter_by_relevance(every, "strict") != every


def test_every_ranking_can_be_chosen() -> None:
    from typing import get_args, get_type_hints

    from retrieval.commands.search import search
    from retrieval.ranking.methods import NAMES

    assert get_args(get_type_hints(search)["ranking"]) == NAMES


def test_every_option_is_explained(run: Run) -> None:
    import typer

    import cli

    group = typer.main.get_command(cli.app)
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        assert command.help, name
        for parameter in command.params:
            if parameter.name != "help":
                assert getattr(parameter, "help", None), f"{name} {parameter.name}"


def test_words_that_are_not_utf8_are_still_words(run: Run, indexed: Path) -> None:
    assert run("search", "a cat \udcff", "-k", 1, "-f", "json", cwd=indexed).names == [
        "chelsea.png"
    ]


def test_one_text_or_path_alone_is_one_item(photos: Path) -> None:
    (photos / "sub").mkdir()
    shutil.move(photos / "moon.png", photos / "sub" / "moon.png")
    retrieval.index(photos)
    with retrieval.open(photos) as opened:
        assert opened.search("an animal", unwanted="a cat") == opened.search(
            "an animal", unwanted=["a cat"]
        )
        moon = photos / "sub" / "moon.png"
        for alone in (moon, str(moon)):
            assert opened.search(photos=alone) == opened.search(photos=[moon])
            assert opened.search("x", unwanted_photos=alone) == opened.search(
                "x", unwanted_photos=[moon]
            )
        for folder in ("sub", photos / "sub"):
            assert [hit.path.name for hit in opened.search("x", within=folder)] == ["moon.png"]
    assert parse_terms("a cat", photos="a.jpg") == parse_terms(["a cat"], photos=["a.jpg"])
    assert retrieval.remove(str(moon), photos) == 1


def test_remove_takes_a_path_from_the_home_folder(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(photos))
    assert retrieval.remove(["~/moon.png"], "~") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ranking": "best"}, "no ranking 'best'. Choose one of auto, plain"),
        ({"rerank": "better"}, "no re-ranking 'better'. Choose one of none, match"),
        ({"relevance": "most"}, "no relevance 'most'. Choose one of strict, normal, all"),
        ({"k": 0}, "k is 0"),
    ],
)
def test_search_options_name_the_choices(options: dict[str, Any], message: str) -> None:
    with pytest.raises(retrieval.QueryError, match=message):
        retrieval.SearchOptions(**options)


def test_ask_takes_a_query_and_search_options(indexed: Path) -> None:
    query = retrieval.Query(parse_terms("a cat"))
    with retrieval.open(indexed) as opened:
        with pytest.raises(TypeError, match=r"SearchOptions\(k=3\), not 3"):
            opened.ask(query, 3)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="ask takes a Query, not 'a cat'"):
            opened.ask("a cat")  # type: ignore[arg-type]


def test_without_explanations_nothing_is_printed_for_them(run: Run, indexed: Path) -> None:
    ask = ("search", "a cat", "--ranking", "expansion")
    assert run(*ask, "--explain", cwd=indexed).out == run(*ask, cwd=indexed).out
    lines = run("search", "a cat", "--explain", cwd=indexed).out.splitlines()
    assert len(lines) > 20 and sum("(no caption)" in line for line in lines) == 10


@pytest.mark.parametrize("words", [5, 200])
def test_a_text_beyond_the_models_limit_is_mentioned(run: Run, indexed: Path, words: int) -> None:
    result = run("search", "a cat " + "and a dog " * words, "-f", "json", cwd=indexed)
    assert result.code == 0 and len(result.json) == 10
    cut = "'a cat and a dog and a dog and a dog and …' is longer than the model reads"
    assert (cut in result.messages) == (words == 200), result.messages
    with retrieval.open(indexed) as photos, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        photos.search("a cat " * words)
    assert [w.category for w in caught] == [retrieval.QueryWarning] * (words == 200)


@pytest.mark.parametrize(("words", "whole"), [(5, True), (75, True), (76, False), (300, False)])
def test_open_clip_knows_which_texts_it_reads_to_the_end(
    random_clip: str, words: int, whole: bool
) -> None:
    encoder = retrieval.load_encoder(random_clip)
    assert reads_all(encoder, "dog " * words) == whole


def test_an_encoder_that_does_not_say_reads_all() -> None:
    assert reads_all(object(), "dog " * 1000)  # type: ignore[arg-type]
