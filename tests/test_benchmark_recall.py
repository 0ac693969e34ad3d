"""`retrieval benchmark recall`: figures of the real encoder and index, on real photos."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import retrieval
from benchmarks.recall import rank_with_index
from indexes.locate import is_index
from indexes.vectors.rows import Rows
from tests.conftest import Run, needs_extra

CAPTIONS = {
    "chelsea.png": ["a cat", "a close-up of a tabby cat's face"],
    "coffee.png": ["a cup of coffee on a table", "coffee"],
    "rocket.jpg": ["a rocket at night", "a launch pad"],
    "china.jpg": ["a temple in China", "an old building with red walls"],
}


@pytest.fixture
def captioned(few: Path) -> Path:
    """Four real photos with two captions each, half of them in the split val."""
    lines = [
        json.dumps({"image": name, "captions": captions, "split": ("train", "val")[i % 2]})
        for i, (name, captions) in enumerate(CAPTIONS.items())
    ]
    (few / "captions.jsonl").write_text("\n".join(lines))
    return few


def test_recall_is_what_searching_finds(run: Run, captioned: Path) -> None:
    values = run("benchmark", "recall", captioned, "--model", "mini", "--json").json
    retrieval.index(captioned, model="mini")
    first = []
    with retrieval.open(captioned) as photos:
        for name, captions in CAPTIONS.items():
            first += [photos.search(c, k=1, ranking="plain")[0].path.name == name for c in captions]
    assert values["text_to_image"]["R@1"] == pytest.approx(100 * np.mean(first))
    assert values["text_to_image"]["R@5"] == 100
    assert values["text_to_image"]["intervals"]["R@5"] == [100, 100]
    assert set(values["image_to_text"]) == {
        *("R@1", "R@5", "R@10", "MedR", "MRR", "mAP@10", "nDCG@10", "intervals")
    }
    with retrieval.open(captioned) as photos:
        made = photos.status(look=False).model
    assert {name: values[name] for name in list(values)[:7]} == {
        "dataset": "few",
        "split": "all",
        "images": 4,
        "captions": 8,
        "model": "mini",
        "fingerprint": made.fingerprint,
        "ranking": "plain",
    }
    flat = {"setting": "", "recall@10": 100}
    ways = {"text_to_image": flat, "image_to_text": flat}
    assert values["index"] == {"kind": "exact", "recall@10": 100, **ways}


def test_a_second_run_encodes_nothing_and_finds_the_same(
    run: Run, captioned: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "kept"))
    command = ("benchmark", "recall", captioned, "--model", "mini", "--json")
    first = run(*command, "--split", "val").json
    assert first["encoded"] == {"images": 2, "captions": 4}
    both = run(*command).json
    assert both["encoded"] == {"images": 2, "captions": 4}
    again = run(*command).json
    assert again["encoded"] == {"images": 0, "captions": 0}
    assert again["text_to_image"] == both["text_to_image"]
    (captioned / "coffee.png").rename(captioned / "cup.png")
    text = (captioned / "captions.jsonl").read_text().replace("coffee.png", "cup.png")
    (captioned / "captions.jsonl").write_text(text)
    assert run(*command).json["encoded"] == {"images": 0, "captions": 0}
    anew = run(*command, "--rebuild").json
    assert anew["encoded"] == {"images": 4, "captions": 8}
    assert anew["image_to_text"] == both["image_to_text"]
    assert not is_index(captioned / ".retrieval")  # nothing is left beside the user's photos


def test_several_runs_are_a_list_and_compared_with_the_first(run: Run, captioned: Path) -> None:
    command = ("benchmark", "recall", captioned, "--model", "mini", "--model", "mini")
    one, two = run(*command, "--json").json
    assert "above_first" not in one["text_to_image"]
    assert two["text_to_image"]["above_first"]["R@1"] == {
        "difference": 0,
        "interval": [0, 0],
        "p": 1,
    }
    table = run(*command).out
    assert table.count("few, split all: 4 photos, 8 captions") == 2
    assert "above mini, plain, exact, text to image: R@1 +0.00 [+0.00, +0.00]" in table


def test_one_direction_alone(run: Run, captioned: Path) -> None:
    command = ("benchmark", "recall", captioned, "--model", "mini", "--json")
    values = run(*command, "--direction", "image-to-text").json
    assert "text_to_image" not in values
    assert values["image_to_text"]["R@10"] == 100


@needs_extra("plot", "matplotlib")
def test_a_chart_is_drawn(run: Run, captioned: Path, tmp_path: Path) -> None:
    file = tmp_path / "chart.png"
    ran = run("benchmark", "recall", captioned, "--model", "mini", "--plot", file)
    assert f"Chart: {file}" in ran.messages
    with Image.open(file) as chart:
        assert chart.size[0] > 1000
        assert len(set(chart.convert("RGB").get_flattened_data())) > 20


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--index-type", "tree"], "There is no index type 'tree'. Choose from: exact, hnsw"),
        (["--ranking", "best"], "There is no ranking 'best'. Choose from: plain"),
        (["--split", "tset"], "few has no split 'tset': its splits are train, val and all"),
        (["--plot", "chart.gif"], "A chart is a PNG file, not chart.gif"),
        (["--images", "nowhere"], "There is no folder nowhere"),
        (["--model", "none"], "none"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_sentence(
    run: Run, captioned: Path, options: list[str], sentence: str
) -> None:
    ran = run("benchmark", "recall", captioned, "--model", "mini", *options)
    assert ran.code == 1
    assert sentence in ran.messages
    assert ran.raw == b""


def test_a_photo_that_cannot_be_read_is_told_or_left_out(run: Run, captioned: Path) -> None:
    (captioned / "coffee.png").write_text("no photo")
    command = ("benchmark", "recall", captioned, "--model", "mini", "--json")
    ran = run(*command)
    assert ran.code == 1
    assert (
        "1 of the 4 photos of few cannot be read, the first coffee.png: not a photo" in ran.messages
    )
    ran = run(*command, "--skip-bad")
    assert (ran.json["images"], ran.json["captions"]) == (3, 6)
    assert "Left out 1 photos that cannot be read, the first coffee.png" in ran.messages


def test_each_benchmark_runs_alone(captioned: Path) -> None:
    def alone(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "benchmarks.recall", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True)

    assert json.loads(alone(captioned, "--model", "mini", "--json").stdout)["images"] == 4
    wrong = alone(captioned / "nowhere")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert wrong.stderr.startswith("Error: There is no data set")


def test_a_search_that_misses_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(100, 8)).astype(np.float32)
    own = np.arange(20), np.arange(100)
    assert rank_with_index("exact", rows[:20], rows, *own)[1].recall == 100
    nearest = Rows.nearest

    def worse(self, query, k):
        positions, scores = nearest(self, query, k)
        kept = np.argsort(-scores)[k // 2 :]
        return positions[kept], scores[kept]

    monkeypatch.setattr(Rows, "nearest", worse)
    assert rank_with_index("exact", rows[:20], rows, *own)[1].recall == 50


def test_recall_through_an_approximate_index_is_what_it_finds() -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(4000, 16)).astype(np.float32)
    queries = rows[:200] + np.float32(0.5) * random.normal(size=(200, 16)).astype(np.float32)
    own = np.arange(200), np.arange(4000)
    exact, _ = rank_with_index("exact", queries, rows, *own)
    for kind, setting in (("hnsw", "efSearch "), ("ivf", "nprobe "), ("ivf-pq", "nprobe ")):
        ranks, index = rank_with_index(kind, queries, rows, *own)
        assert index.setting.startswith(setting) and 90 < index.recall <= 100
        found = ranks.ranks <= 100  # the hits that are asked; their order is the exact one
        assert found.mean() > 0.5
        assert (ranks.ranks[found] <= exact.ranks[found]).all()
        assert (ranks.ranks[~found] == 4000).all()


def test_one_query_alone_can_be_ranked() -> None:
    rows = np.eye(3, dtype=np.float32)
    ranks, index = rank_with_index("ivf", rows[:1], rows, np.array([0]), np.arange(3))
    assert ranks.ranks[0, 0] == 1 and index.recall == 100


def test_each_type_of_index_is_a_run(run: Run, captioned: Path) -> None:
    command = ("benchmark", "recall", captioned, "--model", "mini", "--ranking", "nnn")
    types = ("--index-type", "exact", "--index-type", "hnsw", "--index-type", "ivf")
    values = run(*command, *types, "--json").json
    assert [one["index"]["kind"] for one in values] == ["exact", "hnsw", "ivf"]
    assert values[2]["index"]["text_to_image"] == {"setting": "nprobe 8", "recall@10": 100}
    for one in values:
        assert one["text_to_image"]["R@1"] == values[0]["text_to_image"]["R@1"]
    assert "index hnsw (efSearch 32), text to image: finds" in run(*command, *types).out


def test_rankings_are_compared_and_the_default_ones_order_is_that_of_a_search(
    run: Run, captioned: Path
) -> None:
    names = ("plain", "auto", "nnn", "qbnorm", "templates", "expansion")
    options = [part for name in names for part in ("--ranking", name)]
    values = run("benchmark", "recall", captioned, "--model", "mini", "--json", *options).json
    assert [one["ranking"] for one in values] == list(names)
    retrieval.index(captioned, model="mini")
    first = []
    with retrieval.open(captioned) as photos:
        for name, captions in CAPTIONS.items():
            first += [photos.search(c, k=1, ranking="nnn")[0].path.name == name for c in captions]
    assert values[1]["text_to_image"]["R@1"] == pytest.approx(100 * np.mean(first))
    assert values[1]["text_to_image"] == values[2]["text_to_image"]
    for one in values:  # photos as queries are ranked plainly
        assert one["image_to_text"]["R@1"] == values[0]["image_to_text"]["R@1"]


def test_things_are_right_where_two_captions_name_them() -> None:
    from benchmarks.objects import average_precision, relevant_photos

    captions = [["a cat", "two Cats"], ["a cat", "a dog"], ["a catalogue", "catalogues"]]
    assert relevant_photos("cat", captions).tolist() == [True, False, False]
    scores = np.array([0.1, 0.9, 0.5], np.float32)
    found = np.array([True, True, False])
    assert average_precision(scores, found) == pytest.approx(100 * (1 + 2 / 3) / 2)
