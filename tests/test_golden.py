"""Answers that may not change unawares: queries of every kind over the demo's photos.

`tests/golden/answers.json` was recorded once (`python tests/golden/record.py`). Other processors
round otherwise, so scores may be off by a hundredth, and neighbours may change places.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import retrieval
from tests.conftest import Run
from tests.golden import record

ANSWERS = json.loads(record.ANSWERS.read_text())
CASES = [(kind, name) for kind, answers in ANSWERS.items() for name in answers]


@pytest.fixture(scope="module")
def folders(originals: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The photos with and without captions, indexed."""
    found = {}
    for kind in ANSWERS:
        folder = found[kind] = tmp_path_factory.mktemp("golden") / "photos"
        shutil.copytree(originals, folder)
        if kind == "with captions":
            record.write_captions(folder)
        retrieval.index(folder, model="mini")
    return found


def test_every_query_was_recorded() -> None:
    assert set(CASES) == {
        (kind, name) for kind in ANSWERS for name in record.queries(kind == "with captions")
    }


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_the_answer_is_the_recorded_one(
    run: Run, folders: dict[str, Path], kind: str, name: str
) -> None:
    arguments = record.queries(kind == "with captions")[name]
    done = run("search", *arguments, "-k", 6, "-f", "json", cwd=folders[kind])
    assert done.code == 0, done.messages
    hits, before = record.kept(done.json), ANSWERS[kind][name]
    assert len(hits) == len(before)
    ranks = {hit["name"]: rank for rank, hit in enumerate(before)}
    for rank, hit in enumerate(hits[:-1]):  # the last may have changed places with the seventh
        assert abs(ranks.get(hit["name"], len(before)) - rank) <= 1, (hit["name"], ranks)
        if hit["name"] in ranks:
            assert flat(hit) == pytest.approx(flat(before[ranks[hit["name"]]]), abs=0.01)


def flat(hit: dict[str, Any]) -> dict[str, float]:
    """The numbers of a hit by their names; probabilities, which are steep, in thirds."""
    why = hit["why"] or {}
    numbers = {
        "score": hit["score"],
        "relevance": hit["relevance"] and hit["relevance"] / 3,
        "match": hit["match"] and hit["match"] / 3,
        **{f"term {i}": part for i, part in enumerate(why.get("terms", ()))},
        **{key: why.get(key) for key in ("photo_weight", "caption_weight", "together")},
    }
    return {key: value for key, value in numbers.items() if value is not None}
