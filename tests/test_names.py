"""Names in either Unicode form are one name, wherever they are typed; stored paths stay as the file
system has them."""

import os
import shutil
import unicodedata
from pathlib import Path

import pytest

import retrieval
from indexes.index_roots import Root
from indexes.paths import as_path
from tests.conftest import Run, shared
from tests.test_captions import captions

FORMS = ["NFC", "NFD"]


def form(kind: str, name: str) -> str:
    return unicodedata.normalize(kind, name)  # type: ignore[arg-type]


@pytest.fixture(params=FORMS)
def stored(request: pytest.FixtureRequest, few: Path) -> str:
    """The form in which a folder of photos has its names: Café/Tür/Kätzchen.png, Kätzchen.jpg and
    two plain ones. Tür is always composed, so that a path may have both forms."""
    kind = str(request.param)
    folder = few / form(kind, "Café") / form("NFC", "Tür")
    folder.mkdir(parents=True)
    (few / "chelsea.png").rename(folder / form(kind, "Kätzchen.png"))
    (few / "china.jpg").rename(few / form(kind, "Kätzchen.jpg"))
    return kind


@pytest.mark.parametrize("typed", FORMS)
def test_names_are_typed_in_either_form(run: Run, few: Path, stored: str, typed: str) -> None:
    run("index", few, "--model", "mini")
    kitten, inner = form(typed, "Kätzchen.jpg"), form(typed, "Café/Tür/Kätzchen.png")
    names = {form(stored, "Kätzchen.jpg")}
    for within in (kitten, few / kitten):
        found = run("search", "a cat", "-f", "json", "--in", within, cwd=few)
        assert set(found.names) == names
    for within in (form(typed, "Café"), form(typed, "Café/Tür"), few / form(typed, "Café")):
        found = run("search", "a cat", "-f", "json", "--in", within, cwd=few)
        assert set(found.names) == {form(stored, "Kätzchen.png")}
    elsewhere = few / "sub"
    elsewhere.mkdir()
    for photo in (inner, few / inner):
        for where in (few, elsewhere):
            found = run("similar", photo, "-f", "json", "--index", few, cwd=where)
            assert len(found.names) == 3 and form(stored, "Kätzchen.png") not in found.names
            best = run("search", "--image", photo, "-f", "json", "--index", few, cwd=where)
            assert best.names[0] == form(stored, "Kätzchen.png")
    assert "1 " in run("remove", few / inner, "--index", few).out
    assert form(stored, "Café") in {p.name for p in few.iterdir()}  # the file system's own name


@pytest.mark.parametrize("typed", FORMS)
def test_patterns_and_folders_are_typed_in_either_form(
    run: Run, few: Path, stored: str, typed: str
) -> None:
    assert run("index", few, "--model", "mini", "--exclude", form(typed, "Café")).code == 0
    assert "1 removed" not in run("index", few).out
    found = run("search", "a cat", "-f", "json", cwd=few).names
    assert sorted(found) == sorted(["coffee.png", "rocket.jpg", form(stored, "Kätzchen.jpg")])
    run("index", few, "--exclude", form(typed, "*/Kätz*.png"))
    assert len(run("search", "a cat", "-f", "json", cwd=few).names) == 3
    run("index", few, "--exclude", "")
    assert len(run("search", "a cat", "-f", "json", cwd=few).names) == 4
    assert run("index", few / form(typed, "Café"), "--index", few.parent / "other").code == 0


def test_both_forms_on_one_disk_are_one_name(run: Run, few: Path) -> None:
    for kind in FORMS:
        (few / form(kind, "Café")).mkdir()
    if len(list(few.glob("Caf*"))) < 2:
        pytest.skip("this file system takes both forms for one name")
    (few / "china.jpg").rename(few / form("NFC", "Café") / "china.jpg")
    (few / "coffee.png").rename(few / form("NFD", "Café") / "coffee.png")
    run("index", few, "--model", "mini")
    for kind in FORMS:
        found = run("search", "a cat", "-f", "json", "--in", form(kind, "Café"), cwd=few)
        assert set(found.names) == {"china.jpg", "coffee.png"}


def test_a_name_of_mixed_forms_is_found(run: Run, few: Path) -> None:
    mixed = form("NFD", "é") + form("NFC", "ü") + ".jpg"
    (few / "china.jpg").rename(few / mixed)
    run("index", few, "--model", "mini")
    for kind in FORMS:
        found = run("search", "a cat", "-f", "json", "--in", form(kind, "éü.jpg"), cwd=few)
        assert found.names == [mixed]
    assert run("search", "a cat", "--in", "êü.jpg", cwd=few).code == 1


def test_captions_reach_photos_in_either_form(run: Run, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(shared("cases") / "nfc-nfd", tmp_path / "photos"))
    retrieval.index(folder, model="mini")
    words = {path: texts for path, texts in captions(folder).items() if texts}
    assert {p.relative_to(folder).as_posix() for p in folder.rglob("*.jpg")} == set(words)
    for kind in FORMS:
        run("search", "x", "--in", form(kind, "Café Müller"), "-f", "json", cwd=folder)
        found = run("similar", form(kind, "が行.jpg"), "-f", "json", cwd=folder)
        assert found.code == 0 and len(found.names) == 3
        named = folder.parent / form(kind, "Liste é.csv")
        named.write_text(f"image,caption\n{form(kind, 'fusée')},lift-off\n")
        retrieval.index(folder, options=retrieval.Options(captions=[named]))
        assert "lift-off" in captions(folder)["fusée.jpg"]


def test_a_url_stays_a_url_as_a_path() -> None:
    root = as_path("s3://bucket/photos")
    photo = root / "trip:" / "a.jpg"
    assert str(photo) == os.fspath(photo) == "s3://bucket/photos/trip:/a.jpg"
    assert photo == as_path(Path("s3://bucket/photos/trip:/a.jpg")), "as the command line has it"
    assert Root(1, root).inside(photo) == "trip:/a.jpg"
    assert Root(1, root).inside(as_path("s3://bucket/photos")) == ""
    assert Root(1, root).inside(as_path("s3://other/photos/a.jpg")) is None
    assert photo.absolute() == photo.resolve() == photo and photo.is_absolute()
    assert not photo.exists() and photo.name == "a.jpg" and str(photo.parent.parent) == str(root)
    assert type(as_path("C:/photos")) is type(as_path("photos/s3:/a")) is type(Path())
