"""Lists of captions as programs and people write them: every photo gets its captions, and what
cannot be used is said."""

import csv
import io
import itertools
import json
import unicodedata
from pathlib import Path

import pytest

import retrieval
from retrieval.captions.names import PhotoNames
from retrieval.captions.sidecars import ReadCaptions, read_captions
from retrieval.datasets.captioned import read_captioned
from tests.conftest import shared

PHOTOS = ["astronaut.jpg", "cat.jpg", "coffee.jpg", "rocket.jpg"]
PLAIN = {
    "cat.jpg": ["A ginger cat, staring"],
    "coffee.jpg": ["A cup of coffee"],
    "rocket.jpg": ["A rocket on the pad"],
    "astronaut.jpg": ["An astronaut smiles"],
}
SPECIAL = {
    "caption-columns.csv": {n: [c[0], f"{c[0]} again"] for n, c in PLAIN.items()},
    "comma-stray-quote.csv": {
        **PLAIN,
        "cat.jpg": ['"Meow, says a cat'],
        "rocket.jpg": ["A rocket"],
    },
    "cp1252.csv": {n: [f"{c[0]} – café"] for n, c in PLAIN.items()},
    "kaggle-flickr30k-pipe.csv": {n: [f"{c[0]} ."] * 2 for n, c in PLAIN.items()},
    "one-line-a-caption.jsonl": {n: [f"{c[0]} {i}" for i in range(3)] for n, c in PLAIN.items()},
    "pipe-with-quotes.csv": {
        "cat.jpg": ['"Meow" says the cat'],
        "coffee.jpg": ['A "hot" cup'],
        "rocket.jpg": ['"A rocket'],
        "astronaut.jpg": ["An astronaut smiles"],
    },
    "two-line-caption.csv": {n: [f"{c[0]}\n\nsecond part"] for n, c in PLAIN.items()},
}
LISTS = """bom.json bom.jsonl caption-columns.csv comma-bom.csv comma-stray-quote.csv cp1252.csv
cr-only.csv dict-name-to-caption.json dict-name-to-captions.json dot-slash.csv excel-sep-line.csv
excel-unicode.txt file-description.csv filename-text-index-col.csv kaggle-flickr30k-pipe.csv
no-header.csv one-line-a-caption.jsonl open_clip-title-filepath.csv other-case.csv
pipe-with-quotes.csv semicolon.csv trailing-spaces.csv two-line-caption.csv unquoted-comma.csv
utf16.json windows-backslash.csv""".split()


def as_set(file: Path, images: Path | None = None) -> tuple[dict[str, list[str]], list[str]]:
    """What a benchmark reads: captions by the photo's file name, and what is said."""
    said: list[str] = []
    found = read_captioned(file, images=images, log=said.append)
    return {Path(p.path).name: list(p.captions) for p in found.photos}, said


def as_index(root: Path, photos: list[str], file: Path | None = None) -> ReadCaptions:
    """What an index run reads, from a list that it finds or that the user named."""
    return read_captions(root, photos, [file] if file else [])


def by_path(found: ReadCaptions) -> dict[str, list[str]]:
    by: dict[str, list[str]] = {}
    for caption in found.captions:
        by.setdefault(caption.path, []).append(caption.text)
    return by


def in_one_line(captions: dict[str, list[str]]) -> dict[str, list[str]]:
    """As an index has them: each caption once, without line ends."""
    return {n: list(dict.fromkeys(" ".join(c.split()) for c in cs)) for n, cs in captions.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with four files that are called like photos."""
    made = tmp_path / "set"
    made.mkdir()
    for name in PHOTOS:
        (made / name).write_bytes(b"\xff\xd8")
    return made


# The examples beside the repository ------------------------------------------------------------


@pytest.mark.parametrize("name", LISTS)
def test_every_list_gives_each_photo_its_captions(name: str) -> None:
    folder = shared("cases") / "caption-lists"
    expected = SPECIAL.get(name, PLAIN)
    assert as_set(folder / name)[0] == expected
    assert as_set(folder / name, folder / "photos")[0] == expected
    named = as_index(folder / "photos", PHOTOS, folder / name)
    assert by_path(named) == in_one_line(expected)


def test_lists_with_photos_in_either_unicode_form() -> None:
    folder = (shared("cases") / "nfc-nfd").resolve()
    photos = [p.relative_to(folder).as_posix() for p in folder.rglob("*.jpg")]
    words = ["wordalpha sleeps", "wordbravo in the morning", "wordcharlie", "worddelta"]
    assert sorted(c for cs in as_set(folder)[0].values() for c in cs) == words
    found = [c.text for c in as_index(folder, photos).captions if c.origin == "captions.csv"]
    assert sorted(found) == words
    assert set(photos) == {c.path for c in as_index(folder, photos).captions}


def test_coco_and_karpathy_drop_captions_and_not_photos() -> None:
    folder = shared("cases") / "coco"
    texts = ["a ginger cat", "a cup of coffee", "a rocket on its pad", "an astronaut smiling"]
    names = [f"COCO_val2014_00000000000{i}.jpg" for i in range(4)]
    five = {n: [f"{t} {c}" for c in "abcde"] for n, t in zip(names, texts, strict=True)}
    assert as_set(folder / "coco-file_name-backslash") == (five, [])
    found, said = as_set(folder / "coco-category-and-caption")
    assert found == five and "annotations[20]: the annotation is not a caption" in said[0]
    found, said = as_set(folder / "karpathy-empty-sentence")
    assert found == {n: [t] for n, t in zip(names, texts, strict=True)}
    assert "images[0], images[1], images[2] and 1 more: a caption is empty" in said[0]


def test_a_file_of_instances_is_called_that() -> None:
    folder = shared("cases") / "coco" / "coco-category-only"
    for where in (folder, folder / "instances_val2014.json"):
        with pytest.raises(retrieval.DataSetError, match=r"has COCO's instances .*, not captions"):
            read_captioned(where)
    found = as_index(folder, [], folder / "instances_val2014.json")
    assert "instances" in found.notes[0]


# Encodings, delimiters and names of columns ------------------------------------------------------

ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"]
ENDS = ["\n", "\r\n", "\r"]
COLUMNS = [
    ("image", "caption"),
    ("filepath", "title"),
    ("File Name", "Description"),
    ("image_path", "sentence"),
    ("IMG", "alt-text"),
    ("photo", "captions"),
    ("file", "image_caption"),
]
CAPTIONS = ['a "hot" café; red, green | blue', "", "  un chat\tgris ", "[white] smoke", "plain"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("delimiter", list(",;\t|"))
@pytest.mark.parametrize("end", ENDS, ids=["LF", "CRLF", "CR"])
def test_tables_in_any_encoding(folder: Path, encoding: str, delimiter: str, end: str) -> None:
    rows = list(zip(itertools.cycle(PHOTOS), CAPTIONS, strict=False))
    columns = COLUMNS[(ENCODINGS.index(encoding) + ENDS.index(end)) % len(COLUMNS)]
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL):
        text = io.StringIO()
        csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=quoting).writerows(
            [columns, *rows]
        )
        (folder / "list.csv").write_bytes(text.getvalue().encode(encoding))
        expected: dict[str, list[str]] = {}
        for name, caption in rows:
            if caption:
                expected.setdefault(name, []).append(caption.strip())
        found, said = as_set(folder / "list.csv")
        assert found == expected
        assert said == [f"{folder / 'list.csv'}, line 3: a caption is empty."]
        named = as_index(folder, PHOTOS, folder / "list.csv")
        assert by_path(named) == in_one_line(expected)


@pytest.mark.parametrize("encoding", [*ENCODINGS[:-1], "utf-16-le"])
def test_json_in_any_encoding(folder: Path, encoding: str) -> None:
    rows = [{"file_name": n, "text": f"{n} 沙发 ü"} for n in PHOTOS]
    expected = {n: [f"{n} 沙发 ü"] for n in PHOTOS}
    values = {
        "list.json": json.dumps(rows, ensure_ascii=False, indent=1),
        "list.jsonl": "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows),
        "whole.jsonl": json.dumps(rows, ensure_ascii=False),
        "lines.json": "\n".join(json.dumps(row, ensure_ascii=False) for row in rows),
        "lines.txt": "\n".join(json.dumps(row, ensure_ascii=False) for row in rows),
        "data.json": json.dumps({"info": {"year": 2024}, "data": rows}, ensure_ascii=False),
        "names.json": json.dumps({n: {"caption": c} for n, c in expected.items()}),
    }
    for name, text in values.items():
        (folder / name).write_bytes(text.encode(encoding))
        assert as_set(folder / name)[0] == expected, name


def test_json_in_the_shapes_of_programs(folder: Path) -> None:
    expected = {n: [f"seen on {n}"] for n in PHOTOS}
    rows = [(n, c[0]) for n, c in expected.items()]
    values = {
        "a list of columns": {"image": [n for n, _ in rows], "caption": [c for _, c in rows]},
        "pandas": {
            "file_name": {str(i): n for i, (n, _) in enumerate(rows)},
            "text": {str(i): c for i, (_, c) in enumerate(rows)},
        },
        "CLIP_benchmark": {
            "image_paths": [n for n, _ in rows],
            "annotations": [c for _, c in rows],
        },
        "pairs": rows,
        "names": {n: [{"caption": c}] for n, c in rows},
        "named objects": {n: {"text": c, "width": 7} for n, c in rows},
        "images as objects": [{"image": {"path": n, "bytes": None}, "caption": c} for n, c in rows],
        "the only other key": [{"file_name": n, "additional_feature": c} for n, c in rows],
        "an object in a list": {"annotations": [{"image": n, "caption": c} for n, c in rows]},
    }
    for name, value in values.items():
        (folder / "list.json").write_text(json.dumps(value))
        assert as_set(folder / "list.json")[0] == expected, name


def test_labels_and_numbers_are_no_captions(folder: Path) -> None:
    for table in ("image,label\ncat.jpg,3\n", "file_name,image_url\ncat.jpg,http://x/y.jpg\n"):
        (folder / "list.csv").write_text(table)
        with pytest.raises(retrieval.DataSetError, match="names no columns image and caption"):
            read_captioned(folder / "list.csv")


def test_a_file_joined_of_two_encodings_is_read_line_by_line(folder: Path) -> None:
    text = "image,caption\ncat.jpg,café “1”\n".encode() + "coffee.jpg,café “2”\n".encode("cp1252")
    (folder / "captions.csv").write_bytes(text)
    found, said = as_set(folder)
    assert found == {"cat.jpg": ["café “1”"], "coffee.jpg": ["café “2”"]}
    assert "line 3: the line is not UTF-8 as others are" in said[0]


def test_photos_and_captions_in_other_columns(folder: Path) -> None:
    """By the names of photos where nothing else tells the columns."""
    tables = {
        "Bild;Beschreibung\n{};{}\n": 1,
        "{}\t{}\n": 0,
        "{}|{}\n": 0,
        "7,{},{}\n": 0,
        "split,caption,image\ntrain,{1},{0}\n": 1,
        "caption,image\n{1},{0}\n": 1,
        'sep=\t\nimage\tcaption\n"{}"\t{}\n': 2,
        "id,image,caption_number,caption\n7,{},0,{}\n": 1,
        "image_id,sentence_1,sentence_2\n{},{},\n": 1,
        "My photos;\n\nimage;caption\n{};{}\n": 3,
        "{}#0,{}\n": 0,
        "{}: {}\n": 0,
        "{} {}\n": 0,
        "photo_id,photo_url,photo_description\n{},http://x/y.jpg,{}\n": 1,
        "url\tTEXT\nhttps://example.org/a/{}\t{}\n": 1,
        "file_name,additional_feature\n{},{}\n": 1,
    }
    for table, header in tables.items():
        *lines, row = table.splitlines(keepends=True)
        assert len(lines) == header
        rows = "".join(row.format(name, f"seen on {name}") for name in PHOTOS)
        (folder / "list.csv").write_text("".join(lines) + rows)
        expected = {name: [f"seen on {name}"] for name in PHOTOS}
        assert as_set(folder / "list.csv")[0] == expected, table


# Quotes and commas -------------------------------------------------------------------------------


def table(folder: Path, *rows: str, header: str = "image,caption") -> Path:
    file = folder / "list.csv"
    file.write_text("\n".join([header, *rows]) + "\n")
    return file


def test_captions_with_commas_that_nobody_quoted_are_whole_and_said(folder: Path) -> None:
    file = table(
        folder,
        "cat.jpg,A cat, a dog, and more",
        'coffee.jpg,"Hot", he said, and drank',
        'rocket.jpg,"A rocket, up",more,',
        "astronaut.jpg,plain",
    )
    found, said = as_set(file)
    assert found == {
        "cat.jpg": ["A cat, a dog, and more"],
        "coffee.jpg": ['"Hot", he said, and drank'],
        "rocket.jpg": ["A rocket, up"],
        "astronaut.jpg": ["plain"],
    }
    assert "line 2, line 3: the row has more cells" in said[0]
    assert "line 4: " in said[1] and "what follows the quotes was left out" in said[1]


def test_a_name_goes_up_to_its_ending_and_the_rest_is_the_caption(folder: Path) -> None:
    """As CLIP_benchmark reads its annotation files; the name may have commas, too."""
    (folder / "cat, asleep.jpg").write_bytes(b"")
    (folder / "x_test_karpathy.txt").write_text(
        'image,caption\ncat.jpg,A cat, a "dog", and more\ncat, asleep.jpg,It sleeps, maybe\n'
    )
    found, _ = as_set(folder)
    assert found == {
        "cat.jpg": ['A cat, a "dog", and more'],
        "cat, asleep.jpg": ["It sleeps, maybe"],
    }


@pytest.mark.parametrize(
    "header", ["image,caption", "image,caption,split", "image,n,caption", "caption,image"]
)
def test_a_quote_that_never_closes_costs_no_other_row(folder: Path, header: str) -> None:
    middle = ["cat.jpg", "coffee.jpg", "rocket.jpg", "astronaut.jpg"]
    texts = ['"Meow says a cat', 'A 5" cup', '"A rocket', 'about 7"']
    before, after = (",0" if ",n," in header else ""), (",val" if "split" in header else "")
    rows = [f"{n}{before},{t}{after}" for n, t in zip(middle, texts, strict=True)]
    if header == "caption,image":
        rows = [f"{t},{n}" for n, t in zip(middle, texts, strict=True)]
    found, said = as_set(table(folder, *rows, header=header))
    assert found == {n: [t] for n, t in zip(middle, texts, strict=True)}
    assert "line 2, line 4: a quote is not closed" in said[0]


def test_quotes_in_the_dialects_of_programs(folder: Path) -> None:
    file = table(
        folder,
        '"cat.jpg","a ""big"" cat"',
        r'"coffee.jpg","a \"hot\" cup, black"',
        '"rocket.jpg", "up, up"',
        '"astronaut.jpg","two\n\nlines, ""quoted"""',
    )
    assert as_set(file) == (
        {
            "cat.jpg": ['a "big" cat'],
            "coffee.jpg": ['a "hot" cup, black'],
            "rocket.jpg": ["up, up"],
            "astronaut.jpg": ['two\n\nlines, "quoted"'],
        },
        [],
    )


def test_several_captions_in_a_cell(folder: Path) -> None:
    file = table(
        folder,
        """cat.jpg,"['a cat', ""it's grey""]\"""",
        'coffee.jpg,"[""a cup"", ""hot""]"',
        "rocket.jpg,['no list",
        "astronaut.jpg,\"['one' 'two']\"",
    )
    assert as_set(file)[0] == {
        "cat.jpg": ["a cat", "it's grey"],
        "coffee.jpg": ["a cup", "hot"],
        "rocket.jpg": ["['no list"],
        "astronaut.jpg": ["['one' 'two']"],
    }


def test_rows_that_cannot_be_placed_are_told_with_their_lines(folder: Path) -> None:
    file = table(
        folder,
        "cat.jpg,0,A cat,",
        "coffee.jpg",
        "rocket.jpg,0,A rocket, up,val",
        "gone.jpg,0,nothing,val",
        ",0,nothing,val",
        "",
        header="image,n,caption,split",
    )
    with pytest.raises(retrieval.DataSetError, match=r"line 3: the row has 1 cell.*and 3 bad"):
        read_captioned(file)
    found = as_index(folder, PHOTOS, file)
    assert by_path(found) == {"cat.jpg": ["A cat"]}
    assert found.notes == [
        f"3 bad entry(s) in {file} were skipped (line 3: the row has 1 cell(s), the header has 4; "
        "line 4: the row has 5 cell(s), the header has 4; line 6: the entry names no image).",
        f"1 of 2 row(s) in {file} were left out because no photo has their name: line 5 "
        "('gone.jpg').",
    ]


def test_one_line_a_caption_is_merged_in_every_format(folder: Path) -> None:
    rows = [{"image": n, "caption": f"{n} {i}"} for i in range(3) for n in PHOTOS]
    expected = {n: [f"{n} {i}" for i in range(3)] for n in PHOTOS}
    (folder / "a.json").write_text(json.dumps(rows))
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "a.csv").write_text(
        "image,caption\n" + "".join(f"{r['image']},{r['caption']}\n" for r in rows)
    )
    for name in ("a.json", "a.jsonl", "a.csv"):
        assert as_set(folder / name) == (expected, [])
        assert by_path(as_index(folder, PHOTOS, folder / name)) == expected


def test_an_image_folder_with_metadata_as_hugging_face_has_it(folder: Path) -> None:
    (folder / "train").mkdir()
    for name in PHOTOS:
        (folder / name).rename(folder / "train" / name)
    photos = [f"train/{name}" for name in PHOTOS]
    expected = {f"train/{n}": c for n, c in PLAIN.items()}
    with (folder / "train" / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file_name", "text"), *((n, c[0]) for n, c in PLAIN.items())])
    assert by_path(as_index(folder, photos)) == expected
    assert as_set(folder / "train") == (PLAIN, [])
    (folder / "train" / "metadata.csv").unlink()
    (folder / "metadata.jsonl").write_text(
        "\n".join(json.dumps({"file_name": n, "text": c[0]}) for n, c in expected.items())
    )
    assert by_path(as_index(folder, photos)) == expected
    assert as_set(folder) == (PLAIN, [])


# Names -------------------------------------------------------------------------------------------

NAMES = ["trip/Café.JPG", "trip/img.jpg", "old/img.jpg", "a.b.png", "Straße.jpg", "Ärger.heic"]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("trip/Café.JPG", 0),
        (unicodedata.normalize("NFD", "trip/Café.JPG"), 0),
        ("./trip//Café.JPG", 0),
        ("trip\\Café.JPG", 0),
        (r"C:\Users\me\Pictures\trip\café.jpg", 0),
        ("/home/me/trip/CAFÉ.jpg", 0),
        ("file/../trip/café", 0),
        ("TRIP/IMG.JPG", 1),
        ("/mnt/old/img", 2),
        ("a.b", 3),
        ("STRASSE.jpg", 4),
        (unicodedata.normalize("NFD", "ärger"), 5),
        ("img.jpg", None),
        ("other/img.jpg", None),
        ("img.png", None),
        ("a", None),
        ("", None),
        ("../..", None),
    ],
)
def test_names_match_as_people_mean_them(name: str, path: int | None) -> None:
    expected = None if path is None else NAMES[path]
    assert PhotoNames(dict.fromkeys(NAMES)).find(name).path == expected
    stored = [unicodedata.normalize("NFD", n) for n in NAMES]
    found = PhotoNames(dict.fromkeys(stored)).find(name).path
    assert found == (None if path is None else stored[path])


def test_one_photo_is_not_given_the_captions_of_another_of_its_name(tmp_path: Path) -> None:
    file = table(tmp_path, "a/1.jpg,of a", "b/1.jpg,of b", "b/2.jpg,of b 2")
    found = as_index(tmp_path, ["a/1.jpg", "2.jpg"], file)
    assert by_path(found) == {"a/1.jpg": ["of a"], "2.jpg": ["of b 2"]}
    assert any("captions of several names" in note for note in found.notes)
    assert by_path(as_index(tmp_path, ["c/1.jpg"], file)) == {}


def test_a_photo_that_another_run_looks_at_is_no_other_of_its_name(folder: Path) -> None:
    (folder / "trip").mkdir()
    (folder / "captions.csv").write_text("image,caption\ncat.jpg,at home\n")
    found = as_index(folder, ["trip/cat.jpg"])
    assert (found.captions, found.notes) == ([], [])


def test_a_list_that_names_no_photo_or_some_says_how_many_and_why(folder: Path) -> None:
    file = table(folder, "x.jpg,a", "y.jpg,b")
    (note,) = as_index(folder, PHOTOS, file).notes
    assert f"no photo of {folder} has the name of any of its 2 row(s)" in note
    assert "line 2 ('x.jpg'), line 3 ('y.jpg')." in note
    file = table(folder, "x.jpg,a", "cat.jpg,b", "other/coffee.jpg,c")
    found = as_index(folder, [*PHOTOS[:2], "trip/coffee.jpg"], file)
    assert len(found.captions) == 2
    remark, missing = found.notes
    assert "line 4: the photo is in another folder than the list says" in remark
    assert "1 of 3 row(s)" in missing and "line 2 ('x.jpg')" in missing


def test_a_million_rows_are_not_held(folder: Path) -> None:
    """Rows of photos that are not here, and captions beyond the limit, are only counted."""
    import tracemalloc

    file = folder / "captions.csv"
    with file.open("w") as out:
        out.write("image,caption\n")
        for i in range(30_000):
            out.write(f"{i % 15_000}.jpg,caption number {i} of a photo that is not here\n")
            out.write(f"cat.jpg,caption number {i} of a cat\n")
    tracemalloc.start()
    found = as_index(folder, PHOTOS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found.captions) == 50 and peak < 2**22
    assert any("more than 50 captions" in note for note in found.notes)


# The real thing ----------------------------------------------------------------------------------


def test_flickr8k_as_a_comma_table_without_quotes_is_the_same_set(tmp_path: Path) -> None:
    flickr8k = shared("flickr8k")
    expected = read_captioned(flickr8k, "val")
    for name, text in {
        "plain.csv": "image,caption\n",
        "sep.csv": "sep=,\nimage,caption\n",
        "none.csv": "",
    }.items():
        rows = [f"{p.name},{c}\n" for p in expected.photos for c in p.captions]
        (tmp_path / name).write_text(text + "".join(rows))
        found = read_captioned(tmp_path / name, images=flickr8k / "images")
        assert [(p.path, p.captions) for p in found.photos] == [
            (p.path, tuple(c.strip() for c in p.captions)) for p in expected.photos
        ]
