"""Searches while another process changes the index: each answers from one version of it."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image

import retrieval
from indexes.index import Index
from retrieval.search import pipeline

STEPS = [
    "read_bias",
    "find_candidates",
    "build_hits",
    *(pytest.param(step, marks=pytest.mark.slow) for step in ("expand", "rerank", "calibrate")),
]


@pytest.fixture(scope="module")
def small(originals: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 20 photos, small: they are encoded many times here."""
    folder = tmp_path_factory.mktemp("small")
    for path in originals.iterdir():
        with Image.open(path) as image:
            image.thumbnail((64, 64))
            image.convert("RGB").save(folder / f"{path.stem}.jpg")
    return folder


@pytest.fixture
def folder(small: Path, tiny_mini: Path, tmp_path: Path) -> Path:
    """The small photos, some with captions, and an index of them by a model that is fast."""
    folder = Path(shutil.copytree(small, tmp_path / "photos"))
    for name in ("chelsea", "coffee", "rocket"):
        (folder / f"{name}.txt").write_text(f"a photo of {name}")
    retrieval.index(folder, model=str(tiny_mini))
    return folder


def add(folder: Path) -> None:
    for number in range(3):
        data = (folder / "horse.jpg").read_bytes()
        (folder / f"new{number}.jpg").write_bytes(data + bytes([number]))
    retrieval.index(folder)


def prune(folder: Path) -> None:
    for name in ("chelsea.jpg", "horse.jpg", "moon.jpg"):
        (folder / name).unlink()
    retrieval.index(folder, options=retrieval.Options(prune=True))


def remove(folder: Path) -> None:
    retrieval.remove([folder / "chelsea.jpg", folder / "horse.jpg"], folder)


def caption(folder: Path) -> None:
    (folder / "horse.txt").write_text("a photo of a horse")
    (folder / "chelsea.txt").unlink()
    retrieval.index(folder)


def rebuild(folder: Path) -> None:
    (folder / "horse.jpg").unlink()
    retrieval.index(folder, options=retrieval.Options(rebuild=True))


def delete(folder: Path) -> None:
    retrieval.delete_index(folder)


CHANGES = [add, prune, remove, caption, rebuild, delete]


def found(hits: list[retrieval.Hit]) -> list[tuple[str, float, float | None]]:
    return [(hit.photo.hash, hit.score, hit.relevance) for hit in hits]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("step", STEPS)
def test_a_commit_between_two_steps_of_a_search_is_not_seen(
    folder: Path, monkeypatch: pytest.MonkeyPatch, step: str, change: Callable[[Path], None]
) -> None:
    real = getattr(pipeline, step)

    def changed_before(state: object) -> object:
        monkeypatch.setattr(pipeline, step, real)
        change(folder)
        return real(state)

    with retrieval.open(folder) as opened:
        before = found(opened.search("a photo of chelsea", k=50))
        monkeypatch.setattr(pipeline, step, changed_before)
        assert found(opened.search("a photo of chelsea", k=50)) == before
        assert getattr(pipeline, step) is real, "the change came in between"


@pytest.mark.parametrize("change", [add, prune, remove, caption, rebuild])
def test_the_next_search_sees_what_was_committed(
    folder: Path, change: Callable[[Path], None]
) -> None:
    """An open index answers as one that is opened now, with new photos, biases and captions."""
    with retrieval.open(folder) as opened:
        opened.search("a photo of chelsea", k=50)
        change(folder)
        after = found(opened.search("a photo of chelsea", k=50))
    with retrieval.open(folder) as fresh:
        expected = found(fresh.search("a photo of chelsea", k=50))
    assert sorted(h for h, *_ in after) == sorted(h for h, *_ in expected)
    # A vector file that was written meanwhile adds up in another order.
    assert [s for _, s, _ in after] == pytest.approx([s for _, s, _ in expected], abs=1e-6)


def test_similar_photos_are_of_one_version(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The photo itself is left out although a rebuild gives it another id meanwhile."""
    real = pipeline.encode

    def rebuilt_after(state: object) -> object:
        encoded = real(state)
        rebuild(folder)
        return encoded

    monkeypatch.setattr(pipeline, "encode", rebuilt_after)
    with retrieval.open(folder) as opened:
        names = {hit.path.name for hit in opened.similar(folder / "rocket.jpg", k=50)}
    assert len(names) == 18 and not names & {"rocket.jpg", "horse.jpg"}


def test_cache_files_of_later_photos_do_not_add_to_an_earlier_version(folder: Path) -> None:
    """Vectors and biases that a writer has written for photos which this reader does not see."""
    with Index.open(folder / ".retrieval") as index:

        def count() -> int:
            add(folder)
            for vectors in (folder / ".retrieval").glob("vectors-*"):
                shutil.rmtree(vectors)
            with retrieval.open(folder) as later:
                assert len(later.search("a cat", k=50)) == 23  # writes both files
            index._snapshots.drop()
            return index.photo_count()

        assert index.read(count) == 20


def test_a_writer_waits_for_who_holds_the_catalogue(folder: Path) -> None:
    """As `retrieval check` does for a moment, to let SQLite check the full text."""
    catalogue = folder / ".retrieval" / "catalogue.db"
    with closing(sqlite3.connect(catalogue, check_same_thread=False)) as other:
        for change in (
            lambda: retrieval.fuse(folder),
            lambda: retrieval.remove([folder / "rocket.jpg"], folder),
            lambda: retrieval.index(folder),
            lambda: retrieval.index(folder, options=retrieval.Options(rebuild=True)),
            lambda: retrieval.check(folder, repair=True),
        ):
            other.execute("BEGIN IMMEDIATE")
            release = threading.Timer(0.3, other.rollback)
            release.start()
            change()
            release.join()


# Real processes ----------------------------------------------------------------------------------

READER = """
import json, random, sys, time
from collections import Counter
import retrieval

folder, seconds, seed = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
chance, end, opened = random.Random(seed), time.time() + seconds, None
searches, errors = 0, Counter()
while time.time() < end or searches < 5:
    searches += 1
    try:
        if opened is None or searches % 5 == 0:
            if opened is not None:
                opened.close()
            opened = None
            opened = retrieval.open(folder)
        words = chance.choice(["a cat", "word3", "a rocket", "blue sky word7", "coffee"])
        ranking = chance.choice(["auto", "auto", "hybrid", "nnn", "qbnorm", "expansion"])
        hits = opened.search(words, k=chance.choice([5, 50, 500]), ranking=ranking)
        assert len({hit.photo.hash for hit in hits}) == len(hits), "a photo was found twice"
        if chance.random() < 0.02:
            report = retrieval.check(folder)
            assert report.is_whole, report.problems
        if hits and chance.random() < 0.2:
            try:
                opened.similar(chance.choice(hits).path)
            except retrieval.PhotoError:
                pass  # its file is gone, and it is no longer in the index
    except Exception as error:
        errors[f"{type(error).__name__}: {error}"] += 1
print(json.dumps([searches, errors]))
"""

WRITER = """
import random, sys, time
from pathlib import Path
import retrieval

folder, source, seconds = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
chance, end, number, runs = random.Random(0), time.time() + seconds, 0, 0
originals = sorted(source.iterdir())


def photos():
    return sorted(file for file in folder.glob("*.jpg"))


while time.time() < end or runs < 2:
    runs += 1
    for _ in range(chance.randrange(4, 12)):
        number += 1
        original = chance.choice(originals)
        file = folder / f"{number}-{original.name}"
        file.write_bytes(original.read_bytes() + str(number).encode())
        if chance.random() < 0.5:
            file.with_suffix(".txt").write_text(f"word{number % 10} {original.stem}")
    for file in chance.sample(photos(), min(len(photos()) // 3, 12)):
        file.unlink()
        file.with_suffix(".txt").unlink(missing_ok=True)
    options = retrieval.Options(
        batch_size=2, prune=chance.random() < 0.7, rebuild=runs % 4 == 0
    )
    retrieval.index(folder, options=options)
    if runs % 3 == 0:
        retrieval.remove(chance.sample(photos(), 2), folder)
    if runs % 5 == 0:
        retrieval.fuse(folder)
    report = retrieval.check(folder, repair=runs % 6 == 0)
    assert report.is_whole and not report.repaired, report
print(runs)
"""


@pytest.mark.parametrize(
    ("readers", "seconds"), [(2, 6), pytest.param(4, 60, marks=pytest.mark.slow)]
)
def test_no_search_fails_beside_a_writer(
    folder: Path, small: Path, readers: int, seconds: int
) -> None:
    """One process indexes in small batches, prunes, removes, fuses, rebuilds; others search.

    All of them check the index now and then.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(code: str, *arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", code, str(folder), *map(str, arguments)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)

    writer = start(WRITER, small, seconds)
    processes = [start(READER, seconds, seed) for seed in range(readers)]
    total, errors = 0, Counter[str]()
    for process in processes:
        searches, of_process = json.loads(process.communicate(timeout=seconds + 120)[0])
        total += searches
        errors.update(of_process)
    runs = int(writer.communicate(timeout=seconds + 120)[0])
    assert not errors, f"{errors.total()} of {total} searches failed: {errors}"
    assert total >= 5 * readers and runs >= 2
