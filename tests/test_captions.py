"""Captions in lists, sidecars and photo files, and full-text search joined with the vectors."""

import json
import os
import shutil
import sqlite3
from pathlib import Path

import pytest
from PIL import Image

import retrieval
from indexes.index import Index
from retrieval.captions.metadata import texts_of
from retrieval.captions.sidecars import clean, read_captions
from retrieval.photos.xmp import MAX_XMP, read_xmp
from retrieval.ranking import lexical
from tests.conftest import Run
from tests.old_formats import as_format


@pytest.fixture
def few_indexed(few: Path) -> Path:
    retrieval.index(few, model="mini")
    return few


def captions(folder: Path) -> dict[str, list[str]]:
    """By path, as the catalogue has them."""
    found: dict[str, list[str]] = {}
    with Index.open(folder / ".retrieval") as index:
        for caption in index.catalogue.captions.of_root(index.roots()[0].id):
            found.setdefault(caption.path, []).append(caption.text)
    return found


def by_words(folder: Path, text: str) -> list[str]:
    """The names of the photos that full-text search finds, best first."""
    with Index.open(folder / ".retrieval") as index:
        found = index.catalogue.full_text.search(lexical.match_expression([text]), 100)
        photos = index.catalogue.photos.get([i for i, _ in found])
        return [photos[i][1][0][1] for i, _ in found]


# Where captions are found ----------------------------------------------------------------------


def test_captions_are_read_from_lists_and_from_texts_beside_photos(few: Path) -> None:
    (few / "captions.jsonl").write_text(
        json.dumps({"image": "china.jpg", "captions": ["a red temple", "roofs"], "split": "x"})
    )
    (few / "coffee.txt").write_text("an espresso\n\nin a white cup\n")
    (few / "rocket.jpg.txt").write_text("lift-off", encoding="utf-8-sig")
    report = retrieval.index(few, model="mini")
    assert captions(few) == {
        "china.jpg": ["a red temple", "roofs"],
        "coffee.png": ["an espresso", "in a white cup"],
        "rocket.jpg": ["lift-off"],
    }
    assert (report.captioned, report.notes) == (3, [])
    with Index.open(few / ".retrieval") as index:
        origins = {c.path: c.origin for c in index.catalogue.captions.of_root(index.roots()[0].id)}
    assert origins == {
        "china.jpg": "captions.jsonl",
        "coffee.png": "coffee.txt",
        "rocket.jpg": "rocket.jpg.txt",
    }


def test_the_captions_of_a_data_set_are_found_above_its_images(few: Path) -> None:
    images = few / "images"
    images.mkdir()
    for photo in list(few.glob("*.*g")):
        photo.rename(images / photo.name)
    (few / "captions.csv").write_text('image,caption\nchina.jpg,"red, old"\nchina.jpg,roofs\n')
    retrieval.index(images, model="mini")
    assert captions(images) == {"china.jpg": ["red, old", "roofs"]}
    other = few / "holidays"
    images.rename(other)  # only a folder with the usual name has captions above it
    retrieval.index(other)
    assert captions(other) == {}


def test_a_subfolder_that_is_indexed_again_gets_captions_from_above_it(few_indexed: Path) -> None:
    (few_indexed / "trip").mkdir()
    (few_indexed / "china.jpg").rename(few_indexed / "trip" / "china.jpg")
    rows = [
        {"image": "trip/china.jpg", "caption": "a temple"},
        {"image": "coffee.png", "text": "x"},
    ]
    (few_indexed / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    retrieval.index(few_indexed / "trip", index=few_indexed)
    assert captions(few_indexed) == {"trip/china.jpg": ["a temple"]}
    retrieval.index(few_indexed)
    assert captions(few_indexed) == {"coffee.png": ["x"], "trip/china.jpg": ["a temple"]}


def test_hostile_texts_are_bounded_and_bring_nothing_from_outside(
    few: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("a secret")
    (few / "china.txt").symlink_to(secret)
    (few / "coffee.txt").write_bytes(b"\xff\xfe not text")
    (few / "rocket.txt").write_text("x" * 70_000)
    (few / "chelsea.txt").write_text("a \x1b[31mred\x00 cat\u202e\nsecond\n" * 100)
    os.mkfifo(few / "rocket.jpg.txt")
    rows = [{"image": "../secret.txt", "caption": "x"}, {"image": "china.jpg", "caption": 3}]
    (few / "captions.jsonl").write_text("\n".join([*map(json.dumps, rows), "{"]))
    report = retrieval.index(few, model="mini")
    assert captions(few) == {"chelsea.png": ["a [31mred cat", "second"]}
    assert any("3 file(s) beside photos" in note for note in report.notes)
    assert any("captions.jsonl" in note for note in report.notes)


def test_clean_captions_are_one_printable_line() -> None:
    assert clean(" a\tdog \r\n\x07 runs ") == "a dog runs"
    assert clean("é 北京 🐕") == "é 北京 🐕"
    assert len(clean("x" * 10**6)) == 10_000


def test_reading_captions_of_no_photos_finds_none(few: Path) -> None:
    (few / "captions.jsonl").write_text('{"image": "china.jpg", "caption": "a temple"}')
    (few / "coffee.txt").write_text("an espresso")
    found = read_captions(few, ["china.jpg", "coffee.png"]).captions
    assert [caption.text for caption in found] == ["a temple", "an espresso"]
    assert read_captions(few, []).captions == []


# Kept up to date ------------------------------------------------------------------------------


def test_changed_captions_are_searched_without_encoding_a_photo(few_indexed: Path) -> None:
    assert by_words(few_indexed, "temple") == []
    (few_indexed / "china.txt").write_text("an old temple")
    report = retrieval.index(few_indexed)
    assert (report.encoded, report.unchanged, report.captioned) == (0, 4, 1)
    assert by_words(few_indexed, "temples") == ["china.jpg"]  # English endings do not matter
    (few_indexed / "china.txt").write_text("an old palace")
    assert retrieval.index(few_indexed).encoded == 0
    assert (by_words(few_indexed, "temple"), by_words(few_indexed, "palace")) == ([], ["china.jpg"])
    (few_indexed / "china.txt").unlink()
    retrieval.index(few_indexed)
    assert (captions(few_indexed), by_words(few_indexed, "palace")) == ({}, [])


def test_photos_are_found_by_file_and_folder_names_as_they_are_now(few_indexed: Path) -> None:
    assert by_words(few_indexed, "chelsea") == ["chelsea.png"]
    (few_indexed / "My_Cats-2019").mkdir()
    (few_indexed / "chelsea.png").rename(few_indexed / "My_Cats-2019" / "x.png")
    retrieval.index(few_indexed)
    assert by_words(few_indexed, "chelsea") == []
    assert by_words(few_indexed, "cats") == ["My_Cats-2019/x.png"]
    retrieval.remove([few_indexed / "My_Cats-2019"], few_indexed)
    assert by_words(few_indexed, "cats") == []


def test_a_folder_that_is_away_keeps_its_captions(few: Path, tmp_path: Path) -> None:
    (few / "china.txt").write_text("a temple")
    where = tmp_path / "index"
    retrieval.index(few, index=where, model="mini")
    few.rename(tmp_path / "away")
    retrieval.index(index=where)
    with Index.open(where) as index:
        assert len(index.catalogue.captions.of_root(index.roots()[0].id)) == 1
        assert len(index.catalogue.full_text.search('"temple"', 9)) == 1


def test_a_gone_photo_is_not_found_by_words_and_comes_back_with_them(few_indexed: Path) -> None:
    (few_indexed / "china.txt").write_text("a temple")
    retrieval.index(few_indexed)
    (few_indexed / "china.jpg").rename(few_indexed.parent / "china.jpg")
    retrieval.index(few_indexed)
    assert by_words(few_indexed, "temple") == []
    (few_indexed.parent / "china.jpg").rename(few_indexed / "china.jpg")
    assert retrieval.index(few_indexed).encoded == 0
    assert by_words(few_indexed, "temple") == ["china.jpg"]


# Searching -------------------------------------------------------------------------------------


def test_a_search_finds_photos_by_their_captions_too(run: Run, few_indexed: Path) -> None:
    ask = ("search", "zanzibar", "-f", "json")
    last = run(*ask, cwd=few_indexed).names[-1]
    (few_indexed / last).with_suffix(".txt").write_text("Zanzibar, our holidays")
    retrieval.index(few_indexed)
    found = run(*ask, cwd=few_indexed)
    assert found.names.index(last) <= 1
    nnn = run(*ask, "--ranking", "nnn", cwd=few_indexed).names
    assert nnn.index(last) <= 1  # it is fused with its caption
    other = next(name for name in found.names if name != last)
    assert run(*ask, "--in", other, cwd=few_indexed).names == [other]
    plain = run(*ask, "--ranking", "plain", cwd=few_indexed).json
    scores = {hit["path"]: hit["score"] for hit in plain}
    assert {hit["path"]: hit["score"] for hit in found.json} == scores  # scores stay cosines


def test_a_photo_that_is_not_among_the_nearest_is_found_by_its_words(
    few_indexed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with retrieval.open(few_indexed) as photos:
        last = photos.search("zanzibar", ranking="nnn")[-1].path
    last.rename(last.with_stem("zanzibar"))
    retrieval.index(few_indexed)
    monkeypatch.setattr("retrieval.ranking.hybrid.CANDIDATES", 2)
    with retrieval.open(few_indexed) as photos:

        def first_two(ranking: str) -> list[str]:
            hits = photos.search("zanzibar", k=2, ranking=ranking)
            return [hit.path.stem for hit in hits]

        assert "zanzibar" not in first_two("nnn")
        assert "zanzibar" in first_two("hybrid")
        assert photos.search("zanzibar", min_score=0.99) == []


@pytest.mark.parametrize("text", ['"', "a OR", "x* NEAR(", "captions:cat", "^", "'; DROP", "\0"])
def test_nothing_that_is_typed_is_taken_as_search_syntax(few_indexed: Path, text: str) -> None:
    with retrieval.open(few_indexed) as photos:
        assert len(photos.search(text, ranking="hybrid")) == 4


# Formats ---------------------------------------------------------------------------------------


def test_an_index_of_format_1_is_searched_as_it_is_and_migrated_by_the_next_run(
    few_indexed: Path,
) -> None:
    as_format(1, few_indexed)
    (few_indexed / "china.txt").write_text("a temple")
    with retrieval.open(few_indexed) as photos:
        assert len(photos.search("a temple")) == 4
        with pytest.raises(retrieval.QueryError, match="run `retrieval index` once"):
            photos.search("a temple", ranking="hybrid")
    report = retrieval.index(few_indexed)
    assert (report.encoded, report.unchanged) == (0, 4)
    assert by_words(few_indexed, "temple") == ["china.jpg"]
    with retrieval.open(few_indexed) as photos:
        assert photos.search("a temple", ranking="hybrid")[0].path.name == "china.jpg"


def test_a_format_1_index_can_be_removed_from(few_indexed: Path) -> None:
    as_format(1, few_indexed)
    assert retrieval.remove([few_indexed / "china.jpg"], few_indexed) == 1


def test_a_catalogue_with_another_virtual_table_is_refused(few_indexed: Path) -> None:
    with sqlite3.connect(few_indexed / ".retrieval" / "catalogue.db") as db:
        db.execute("CREATE VIRTUAL TABLE more USING fts5(text)")
    db.close()
    with pytest.raises(retrieval.IndexDamagedError, match="virtual table"):
        retrieval.open(few_indexed)


# From more places ------------------------------------------------------------------------------

XMP = """<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF
 xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:dc="http://purl.org/dc/elements/1.1/">
<rdf:Description rdf:about=""><dc:description><rdf:Alt><rdf:li xml:lang="x-default">{text}</rdf:li>
</rdf:Alt></dc:description><dc:subject><rdf:Bag><rdf:li>lisbon</rdf:li><rdf:li>tram</rdf:li></rdf:Bag>
</dc:subject></rdf:Description></rdf:RDF></x:xmpmeta>"""


def test_texts_inside_a_photo_file_are_captions(few: Path) -> None:
    photo = Image.open(few / "china.jpg")
    exif = photo.getexif()
    exif[0x010E] = "a temple in Beijing"
    exif[0x9C9E] = "palace;roof\0".encode("utf-16-le")
    photo.save(few / "china.jpg", exif=exif, xmp=XMP.format(text="red walls").encode())
    camera = Image.open(few / "rocket.jpg")
    camera.getexif()[0x010E] = "OLYMPUS DIGITAL CAMERA         "
    camera.save(few / "rocket.jpg", exif=camera.getexif())
    retrieval.index(few, model="mini")
    expected = ["a temple in Beijing", "palace, roof", "red walls", "lisbon, tram"]
    assert captions(few) == {"china.jpg": expected}
    assert retrieval.index(few).captioned == 1  # still there, though nothing was read again
    assert captions(few) == {"china.jpg": expected}
    photo.save(few / "china.jpg")
    retrieval.index(few)
    assert captions(few) == {}


def test_a_folder_around_an_indexed_one_keeps_the_captions_inside_files(few: Path) -> None:
    (few / "inner").mkdir()
    photo = Image.open(few / "china.jpg")
    exif = photo.getexif()
    exif[0x010E] = "a temple"
    photo.save(few / "inner" / "temple.jpg", exif=exif)
    (few / "inner" / "temple.txt").write_text("Beijing")
    where = few.parent / "index"
    retrieval.index(few / "inner", index=where, model="mini")
    retrieval.index(few, index=where)
    with Index.open(where) as index:
        (root,) = index.roots()
        found = [(c.path, c.text) for c in index.catalogue.captions.of_root(root.id)]
    assert found == [("inner/temple.jpg", "Beijing"), ("inner/temple.jpg", "a temple")]


def test_an_xmp_file_may_be_utf_16(few: Path) -> None:
    (few / "china.xmp").write_bytes(XMP.format(text="a temple").encode("utf-16"))
    retrieval.index(few, model="mini")
    assert captions(few) == {"china.jpg": ["a temple", "lisbon, tram"]}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-be", "utf-16-le"])
@pytest.mark.parametrize("space", ["", "\n", "\r\n\r\n", "  "])
def test_space_around_an_xmp_packet_does_no_harm(encoding: str, space: str) -> None:
    """In UTF-16 a line feed is two bytes, of which only one looks like space."""
    packet = f'{space}<?xml version="1.0"?>{XMP.format(text="a temple")}{space}'
    assert texts_of(read_xmp(packet.encode(encoding))) == ["a temple", "lisbon, tram"]


def test_an_xmp_file_beside_a_photo_is_read(few: Path) -> None:
    (few / "china.xmp").write_text(XMP.format(text="a temple"))
    (few / "chelsea.png.xmp").write_text(XMP.format(text="a cat &amp; more"))
    retrieval.index(few, model="mini")
    assert captions(few) == {
        "china.jpg": ["a temple", "lisbon, tram"],
        "chelsea.png": ["a cat & more", "lisbon, tram"],
    }


@pytest.mark.parametrize(
    "data",
    [
        b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><x>&b;</x>',
        "<!DOCTYPE x><x/>".encode("utf-16"),
        b"<x>",
        b'<?xml version="1.0" encoding="no-such"?><x/>',
        b"\xff\xfe",
        b"<x>" + b" " * MAX_XMP + b"</x>",
    ],
)
def test_hostile_xmp_gives_a_note_and_no_caption(few: Path, data: bytes) -> None:
    (few / "china.xmp").write_bytes(data)
    report = retrieval.index(few, model="mini")
    assert report.encoded == 4 and captions(few) == {}
    assert any("could not be read as captions" in note for note in report.notes)


def test_a_list_of_captions_from_elsewhere_is_named_once(run: Run, few: Path) -> None:
    (few / "sub").mkdir()
    (few / "china.jpg").rename(few / "sub" / "china.jpg")
    listed = few.parent / "captions-elsewhere.csv"
    listed.write_text("image,caption\nsub/china.jpg,a temple\nchelsea.png,a cat\nnone.jpg,gone\n")
    assert run("index", few, "--model", "mini", "--captions", listed).code == 0
    expected = {"sub/china.jpg": ["a temple"], "chelsea.png": ["a cat"]}
    assert captions(few) == expected
    assert run("index", few).code == 0  # remembered
    assert captions(few) == expected
    retrieval.index(few, options=retrieval.Options(rebuild=True))
    assert captions(few) == expected
    listed.write_text("image,caption\nchina.jpg,a palace\n")  # by its name alone
    assert run("index", few).code == 0
    assert captions(few) == {"sub/china.jpg": ["a palace"]}
    (few / "other").mkdir()
    shutil.copy(few / "rocket.jpg", few / "other" / "china.jpg")
    result = run("index", few)
    assert "line 2 ('china.jpg', 2 photos)" in result.out and captions(few) == {}
    listed.unlink()
    assert "is not there now" in run("index", few).out
    assert run("index", few, "--captions", "").code == 0
    assert "not there now" not in run("index", few).out
    assert "no file" in run("index", few, "--captions", listed).messages
