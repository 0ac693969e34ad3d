"""A run over a folder in which nothing can have changed does nothing; every change is noticed."""

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import retrieval
from indexes.files import Files
from retrieval.indexing.options import Report


def forget_last_run(folder: Path) -> None:
    with sqlite3.connect(folder / ".retrieval" / "catalogue.db") as connection:
        connection.execute("DELETE FROM meta WHERE key = 'last_run'")
    connection.close()


def content(folder: Path) -> list[list[tuple[object, ...]]]:
    """What the catalogue knows, without numbers that depend on the order of runs."""
    queries = (
        "SELECT path, bytes, mtime_ns, reason, present, photo_id IS NULL FROM files ORDER BY path",
        "SELECT path, position, origin, text FROM captions ORDER BY path, position",
        "SELECT hash, taken, taken_source, latitude, present FROM photos ORDER BY hash",
        "SELECT w.captions, w.names FROM words w JOIN photos p ON p.id = w.rowid ORDER BY p.hash",
        "SELECT p.hash FROM fused f JOIN photos p ON p.id = f.photo_id ORDER BY p.hash",
    )
    connection = sqlite3.connect(folder / ".retrieval" / "catalogue.db")
    try:
        return [connection.execute(query).fetchall() for query in queries]
    finally:
        connection.close()


def told(report: Report) -> dict[str, object]:
    return {name: value for name, value in vars(report).items() if name != "seconds"}


@pytest.fixture
def captioned(few: Path, tmp_path: Path) -> Path:
    """Photos with sidecars, lists inside and outside, a bad file and one that is left out."""
    (few / "chelsea.txt").write_text("a ginger cat")
    (few / "captions.jsonl").write_text(
        json.dumps({"image": "coffee.png", "caption": "a cup of coffee"}) + "\n"
    )
    (few / "bad.jpg").write_bytes(b"no photo")
    (few / "film.mp4").write_bytes(b"no photo")
    (tmp_path / "named.csv").write_text("image,caption\nrocket.jpg,a rocket at its start\n")
    (tmp_path / "linked.csv").write_text("image,caption\nchina.jpg,a temple\n")
    (few / "metadata.csv").write_text("image,caption\nmissing.jpg,nothing\n")
    options = retrieval.Options(captions=[tmp_path / "named.csv"])
    retrieval.index(few, model="mini", options=options)
    return few


def test_a_run_without_changes_reports_what_a_whole_run_would(captioned: Path) -> None:
    quick = retrieval.index(captioned)
    before = content(captioned)
    forget_last_run(captioned)
    whole = retrieval.index(captioned)
    assert told(quick) == told(whole)
    assert (quick.unchanged, quick.skipped, quick.captioned) == (4, 1, 3)
    assert any("film" in note or "mp4" in note for note in quick.notes)
    assert any("metadata.csv" in note for note in quick.notes)
    assert content(captioned) == before


def test_a_run_without_changes_reads_no_rows_of_files(captioned: Path, monkeypatch) -> None:
    asked: list[int] = []
    real = Files.below

    def counting(self, root_id, path=""):
        asked.append(root_id)
        return real(self, root_id, path)

    monkeypatch.setattr(Files, "below", counting)
    retrieval.index(captioned)
    retrieval.index(index=captioned)
    assert asked == []
    Image.new("RGB", (90, 60), "teal").save(captioned / "new.png")
    assert retrieval.index(captioned).added == 1
    assert len(asked) == 1


def test_vectors_that_are_written_again_do_not_hide_that_nothing_changed(
    captioned: Path, monkeypatch
) -> None:
    from indexes.files import Files

    for folder in (captioned / ".retrieval").glob("vectors-*"):
        shutil.rmtree(folder)
    retrieval.index(captioned)
    monkeypatch.setattr(Files, "below", None)
    assert retrieval.index(captioned).unchanged == 4


def edit(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


CHANGES: dict[str, Callable[[Path], object]] = {
    "a new photo": lambda f: Image.new("RGB", (80, 60), "red").save(f / "new.jpg"),
    "a photo that is gone": lambda f: (f / "rocket.jpg").unlink(),
    "a photo of another content": lambda f: shutil.copy(f / "china.jpg", f / "rocket.jpg"),
    "a photo with another name": lambda f: (f / "china.jpg").rename(f / "temple.jpg"),
    "a photo that was touched": lambda f: os.utime(f / "china.jpg", ns=(1, 1)),
    "a bad file that is whole now": lambda f: shutil.copy(f / "china.jpg", f / "bad.jpg"),
    "a new text beside a photo": edit("china.txt", "a roof in China"),
    "another text beside a photo": edit("chelsea.txt", "a sleepy cat"),
    "another text of the same size and time": lambda f: same_size_and_time(f / "chelsea.txt"),
    "a text that is gone": lambda f: (f / "chelsea.txt").unlink(),
    "a sidecar of Takeout": edit("china.jpg.json", '{"description": "from Google"}'),
    "a longer list": edit("captions.jsonl", '{"image": "china.jpg", "caption": "a palace"}\n'),
    "a list that is gone": lambda f: (f / "captions.jsonl").unlink(),
    "a list that is a link": lambda f: (f / "captions.csv").symlink_to("metadata.csv"),
    "a list that the user named": lambda f: edit(
        "../named.csv", "image,caption\nrocket.jpg,fire\n"
    )(f),
    "a named list that is gone": lambda f: (f.parent / "named.csv").unlink(),
    "a folder in the folder": lambda f: shutil.copytree(f, f / "inner", ignore=_no_index),
    "a photo that is forgotten": lambda f: retrieval.remove(f / "china.jpg", f),
}


def _no_index(_: str, names: list[str]) -> list[str]:
    return [name for name in names if name == ".retrieval"]


def same_size_and_time(file: Path) -> None:
    state = file.stat()
    file.write_text("A GINGER CAT")
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_is_noticed(captioned: Path, name: str) -> None:
    retrieval.index(captioned)
    CHANGES[name](captioned)
    quick = retrieval.index(captioned)
    after = content(captioned)
    forget_last_run(captioned)
    whole = retrieval.index(captioned)
    assert content(captioned) == after, "the run after the change left something undone"
    assert (quick.captioned, quick.skipped) == (whole.captioned, whole.skipped)
    assert told(retrieval.index(captioned)) == told(whole)


def test_a_list_above_a_folder_of_images_is_noticed(few: Path, tmp_path: Path) -> None:
    images = tmp_path / "set" / "images"
    shutil.copytree(few, images)
    retrieval.index(images, model="mini")
    assert retrieval.index(images).captioned == 0
    (images.parent / "captions.csv").write_text("image,caption\nchina.jpg,a temple\n")
    assert retrieval.index(images).captioned == 1


def test_options_are_obeyed_though_nothing_changed(captioned: Path) -> None:
    (captioned / "china.jpg").unlink()
    assert retrieval.index(captioned).removed == 1
    assert retrieval.index(captioned, options=retrieval.Options(prune=True)).pruned == 1
    assert retrieval.index(captioned, options=retrieval.Options(reread=True)).reread == 3
    excluded = retrieval.index(captioned, options=retrieval.Options(exclude=["rocket*"]))
    assert (excluded.removed, excluded.unchanged) == (1, 2)
    included = retrieval.index(captioned, options=retrieval.Options(exclude=[]))
    assert included.added == 1


def test_a_trained_fusion_is_used_though_no_file_changed(captioned: Path, monkeypatch) -> None:
    from retrieval.fusion.attention import MEAN
    from retrieval.indexing import fuse, last_run

    with retrieval.open(captioned) as photos:
        before = photos.status(look=False).model.fusion
    assert before != MEAN
    real = fuse.load_fusion
    for module in (fuse, last_run):
        monkeypatch.setattr(module, "load_fusion", lambda _, dim: real("another model", dim))
    retrieval.index(captioned)
    with retrieval.open(captioned) as photos:
        assert photos.status(look=False).model.fusion == MEAN


@pytest.mark.parametrize("text", ["", "[]", "{", '{"digest": 1}', "[" * 100_000])
def test_what_an_index_from_elsewhere_says_of_its_last_run_is_not_believed(
    captioned: Path, text: str
) -> None:
    forget_last_run(captioned)
    with sqlite3.connect(captioned / ".retrieval" / "catalogue.db") as connection:
        connection.execute("INSERT INTO meta VALUES ('last_run', ?)", [text])
    connection.close()
    assert retrieval.index(captioned).unchanged == 4


def test_any_change_of_the_catalogue_makes_it_forget_the_last_run(captioned: Path) -> None:
    from indexes.index import Index
    from indexes.lock import lock

    place = captioned / ".retrieval"
    with lock(place), Index.open(place, writable=True) as index:
        assert index.catalogue.database.last_run()
        with pytest.raises(ZeroDivisionError), index.catalogue.transaction():
            index.catalogue.meta.put("setting:x", str(1 // 0))
        assert index.catalogue.database.last_run(), "nothing was changed"
        index.catalogue.set_setting("x", "1")
        assert index.catalogue.database.last_run() == ""
        index.catalogue.database.put_last_run("something")
        index.catalogue.set_setting("x", "2")
        assert index.catalogue.database.last_run() == ""
