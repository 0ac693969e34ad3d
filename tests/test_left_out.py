"""What an index run leaves out by itself is counted and said, and can be brought in."""

import shutil
from pathlib import Path

import pytest

import retrieval
from indexes.index import Index
from retrieval.photos.walk import LeftOut, walk
from tests.conftest import Run

SYSTEM = ["@eaDir", "#recycle", "#snapshot", "@Recently-Snapshot", "$RECYCLE.BIN", "@Recycle"]
HIDDEN = [".Trashes", ".@__thumb", ".zfs"]


def present(folder: Path) -> set[str]:
    with Index.open(folder / ".retrieval") as index:
        return {p for p, f in index.catalogue.files.below(1).items() if f.present}


@pytest.fixture
def nas(few: Path) -> Path:
    """A folder as a NAS box has it: a photo in each of its own folders, here and further down."""
    for name in SYSTEM + HIDDEN:
        for folder in (few / name, few / "trip" / name):
            folder.mkdir(parents=True)
            shutil.copy(few / "china.jpg", folder / "old.jpg")
    return few


def test_folders_of_systems_are_left_out_and_said(run: Run, nas: Path) -> None:
    out = run("index", nas, "--model", "mini").out
    assert present(nas) == {"chelsea.png", "china.jpg", "coffee.png", "rocket.jpg"}
    assert "12 folder(s) of the system (#recycle, #snapshot, $RECYCLE.BIN, @Recently-Snap" in out
    assert "6 hidden folder(s) (.@__thumb, .Trashes, .zfs) were left out" in " ".join(out.split())
    assert "`retrieval index --include NAME`" in out


@pytest.mark.parametrize("name", SYSTEM + HIDDEN)
def test_include_brings_one_back(nas: Path, name: str) -> None:
    def found(*include: str) -> set[str]:
        files = walk(nas, "", (), True, LeftOut(), include)
        return {file.path for file in files if "old.jpg" in file.path}

    assert found(name) == {f"{name}/old.jpg", f"trip/{name}/old.jpg"}
    assert found(f"trip/{name}") == {f"trip/{name}/old.jpg"}
    assert found(f"trip/{name}/old.jpg") == {f"trip/{name}/old.jpg"}
    assert found("other") == set()
    assert len(found("*")) == 2 * len(SYSTEM + HIDDEN)


def test_what_is_included_is_remembered_and_cleared(run: Run, nas: Path) -> None:
    assert run("index", nas, "--model", "mini", "--include", "#recycle/").code == 0
    assert "#recycle/old.jpg" in present(nas) and len(present(nas)) == 6
    assert "Include  #recycle" in run("info", cwd=nas).out
    assert "0 new, 0 changed, 0 missing" in run("info", cwd=nas).out
    retrieval.index(nas, options=retrieval.Options(rebuild=True))
    assert len(present(nas)) == 6
    assert run("index", nas, "--include", "").code == 0
    assert len(present(nas)) == 4
    assert "--include" in run("index", nas, "--include", nas / "#recycle").messages


def test_excluded_is_stronger_than_included_and_no_index_is_walked(nas: Path) -> None:
    left_out = LeftOut()
    (nas / ".retrieval").mkdir()
    shutil.copy(nas / "china.jpg", nas / ".retrieval" / "x.jpg")
    found = {f.path for f in walk(nas, "", ("@eaDir",), True, left_out, (".*", "@*"))}
    assert not any("@eaDir" in path or ".retrieval" in path for path in found)
    assert "@Recycle/old.jpg" in found and ".zfs/old.jpg" in found


def test_files_that_do_not_end_like_photos_are_counted(run: Run, few: Path) -> None:
    for name in ("a.MOV", "b.mov", "c.pdf", "noend", "x.txt", "y.xmp", "Thumbs.db", ".DS_Store"):
        (few / name).write_bytes(b"x")
    shutil.copy(few / "china.jpg", few / ".hidden.jpg")
    (few / "._china.jpg").write_bytes(b"\0\x05\x16\x07")
    out = " ".join(run("index", few, "--model", "mini").out.split())
    assert (
        "4 file(s) were left out because their names do not end like a photo's (2 .mov, 1 .pdf, "
        "1 without)" in out
    )
    assert "1 hidden photo(s) were left out" in out


def test_nothing_is_said_where_nothing_is_left_out(few: Path) -> None:
    (few / "captions.csv").write_text("image,caption\nchina.jpg,a temple\n")
    assert retrieval.index(few, model="mini").notes == []
    assert retrieval.index(few).notes == []  # with the index in it
