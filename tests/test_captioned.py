"""Captioned photo sets: every format gives the same photos and captions, every fault a sentence."""

import csv
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import retrieval
from indexes.errors import RetrievalError
from retrieval.datasets.captioned import CaptionedSet, read_captioned
from retrieval.errors import DataSetError
from tests.conftest import shared

CAPTIONS = {
    "china.jpg": ["a temple", 'a red roof, with "dragons"'],
    "coffee.png": ["a cup of coffee"],
    "rocket.jpg": ["a rocket", "smoke [white]", "ein Start über dem Feld"],
}
SPLITS = {"china.jpg": "train", "coffee.png": "val", "rocket.jpg": "val"}


def lines(folder: Path, *values: object) -> None:
    text = "".join((v if isinstance(v, str) else json.dumps(v)) + "\n" for v in values)
    (folder / "captions.jsonl").write_text(text)


def as_jsonl(folder: Path) -> Path:
    lines(folder, *({"image": n, "captions": c, "split": SPLITS[n]} for n, c in CAPTIONS.items()))
    return folder


def as_karpathy(folder: Path) -> Path:
    entries = [
        {
            "filename": name,
            "filepath": "images",
            "split": SPLITS[name],
            "sentences": [{"raw": c, "tokens": c.split()} for c in captions],
        }
        for name, captions in CAPTIONS.items()
    ]
    (folder / "dataset_few.json").write_text(json.dumps({"images": entries, "dataset": "few"}))
    return folder / "dataset_few.json"


def as_coco(folder: Path) -> Path:
    (folder / "annotations").mkdir()
    file = folder / "annotations" / "captions_val2017.json"
    images = [{"id": i, "file_name": name} for i, name in enumerate(CAPTIONS)]
    notes = [
        {"id": 10 * i, "image_id": i, "caption": caption}
        for i, captions in enumerate(CAPTIONS.values())
        for caption in captions
    ]
    file.write_text(json.dumps({"images": images, "annotations": notes}))
    return folder


def as_token(folder: Path) -> Path:
    text = [f"{n}#{i}\t{c}" for n, captions in CAPTIONS.items() for i, c in enumerate(captions)]
    (folder / "Few.token.txt").write_text("\n".join(text))
    for split, name in (("train", "train"), ("val", "dev")):
        names = [n for n, s in SPLITS.items() if s == split]
        (folder / f"Few.{name}Images.txt").write_text("\n".join(names) + "\n")
    return folder


def as_csv(folder: Path, separator: str = ",") -> Path:
    with (folder / "captions.txt").open("w", newline="") as file:
        writer = csv.writer(file, delimiter=separator)
        writer.writerow(["image", "caption", "split"])
        writer.writerows([n, c, SPLITS[n]] for n, captions in CAPTIONS.items() for c in captions)
    return folder / "captions.txt"


def as_cells(folder: Path) -> Path:
    """All captions of a photo in one cell, as a JSON list, the way the hub's flickr30k has it."""
    with (folder / "captions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["raw", "sentids", "split", "filename"])
        writer.writerows([json.dumps(c), "[1]", SPLITS[n], n] for n, c in CAPTIONS.items())
    return folder


def as_tar(folder: Path) -> Path:
    file = folder / "shard.tar"
    with tarfile.open(file, "w") as archive:
        for name, captions in CAPTIONS.items():
            archive.add(folder / "images" / name, name)
            put(archive, f"{Path(name).stem}.txt", "\n".join(captions).encode())
    return file


def put(archive: tarfile.TarFile, name: str, data: bytes, **header: object) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in header.items():
        setattr(info, key, value)
    archive.addfile(info, io.BytesIO(data))


FORMATS: dict[str, Callable[[Path], Path]] = {
    "captions.jsonl": as_jsonl,
    "Karpathy": as_karpathy,
    "COCO": as_coco,
    "Flickr token": as_token,
    "CSV": as_csv,
    "CSV with bars": lambda folder: as_csv(folder, "|"),
    "CSV with lists": as_cells,
    "tar": as_tar,
}


@pytest.fixture
def folder(few: Path, tmp_path: Path) -> Path:
    """A data set's folder with three photos in images/, and no captions yet."""
    made = tmp_path / "set"
    (made / "images").mkdir(parents=True)
    for name in CAPTIONS:
        shutil.copy2(few / name, made / "images")
    return made


def contents(found: CaptionedSet) -> dict[str, list[str]]:
    return {Path(photo.name).name: list(photo.captions) for photo in found.photos}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_photos_and_captions(folder: Path, name: str) -> None:
    found = read_captioned(FORMATS[name](folder))
    assert contents(found) == CAPTIONS
    assert found.owners == (0, 0, 1, 2, 2, 2)
    for photo in found.photos:
        with photo.open() as file:
            assert file.read() == (folder / "images" / Path(photo.name).name).read_bytes()


@pytest.mark.parametrize("name", sorted(set(FORMATS) - {"COCO", "tar"}))
def test_a_split_is_chosen_by_name(folder: Path, name: str) -> None:
    where = FORMATS[name](folder)
    assert set(contents(read_captioned(where, "val"))) == {"coffee.png", "rocket.jpg"}
    assert contents(read_captioned(where, "train+val")) == CAPTIONS
    with pytest.raises(DataSetError, match=r"no split 'tset': its splits are train, val and all"):
        read_captioned(where, "tset")


def test_a_set_without_splits_says_so(folder: Path) -> None:
    with pytest.raises(DataSetError, match=r"no split 'val': it has none. Leave out --split"):
        read_captioned(as_tar(folder), "val")


def test_folders_of_tars_are_splits(folder: Path) -> None:
    as_tar(folder)
    for split in ("train", "test"):
        (folder / split).mkdir()
        shutil.copy2(folder / "shard.tar", folder / split / "0.tar")
    (folder / "shard.tar").unlink()
    assert len(read_captioned(folder).photos) == 6
    found = read_captioned(folder, "test")
    assert [photo.name for photo in found.photos] == [f"test/0.tar/{name}" for name in CAPTIONS]


def test_photos_may_lie_elsewhere_or_beside_the_captions(folder: Path, tmp_path: Path) -> None:
    as_jsonl(folder)
    away = (folder / "images").rename(tmp_path / "away")
    with pytest.raises(DataSetError, match=r"'china.jpg'\) are not beside it.* --images DIR"):
        read_captioned(folder)
    assert contents(read_captioned(folder, images=away)) == CAPTIONS
    for path in away.iterdir():
        path.rename(folder / path.name)
    assert contents(read_captioned(folder)) == CAPTIONS


def test_photos_of_other_splits_need_not_be_there(folder: Path) -> None:
    as_jsonl(folder)
    (folder / "images" / "china.jpg").unlink()
    assert len(read_captioned(folder, "val").photos) == 2


GOOD = {"image": "coffee.png", "captions": ["a cup"], "split": "val"}
BAD_LINES = {
    "not JSON": ('{"image": ', "the line is not JSON"),
    "deep JSON": ("[" * 100_000, "the line is not JSON"),
    "no object": ([1], "is not an object"),
    "no image": ({"captions": ["a"]}, "names no image"),
    "missing photo": ({"image": "gone.jpg", "captions": ["a"]}, "no photo 'gone.jpg' in"),
    "a folder": ({"image": ".", "captions": ["a"]}, "no photo '.' in"),
    "above": ({"image": "../../outside.jpg", "captions": ["a"]}, "no photo '../../outside.jpg' in"),
    "above, Windows": ({"image": "a\\..\\..\\b.jpg", "captions": ["a"]}, "there is no photo"),
    "absolute": ({"image": "/etc/passwd", "captions": ["a"]}, "no photo '/etc/passwd' in"),
    "drive": ({"image": "C:/photo.jpg", "captions": ["a"]}, "no photo 'C:/photo.jpg' in"),
    "NUL": ({"image": "china.jpg\0", "captions": ["a"]}, "is no name of a file"),
    "half a character": ({"image": "\udc80.jpg", "captions": ["a"]}, "not Unicode"),
    "a link": ({"image": "link.jpg", "captions": ["a"]}, "a link that leads out"),
    "no captions": ({"image": "china.jpg", "captions": []}, "has no caption"),
    "captions missing": ({"image": "china.jpg"}, "has no caption"),
    "empty caption": ({"image": "china.jpg", "captions": [" "]}, "no caption (a caption is empty)"),
    "a number": ({"image": "china.jpg", "captions": [7]}, "a caption is not a text"),
    "half a character in a caption": (
        {"image": "china.jpg", "captions": ["\ud800"]},
        "a caption is not Unicode",
    ),
    "endless caption": ({"image": "china.jpg", "captions": ["a" * 10_001]}, "longer than 10,000"),
    "two splits": ({**GOOD, "split": "test"}, "'coffee.png' is in the split 'val' before"),
    "a strange split": ({"image": "china.jpg", "captions": ["a"], "split": 3}, "is no name"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_is_told_and_can_be_left_out(folder: Path, tmp_path: Path, name: str) -> None:
    bad, what = BAD_LINES[name]
    (tmp_path / "outside.jpg").write_bytes(b"secret")
    (folder / "images" / "link.jpg").symlink_to(tmp_path / "outside.jpg")
    lines(folder, GOOD, bad, {"image": "rocket.jpg", "captions": ["a rocket"]})
    with pytest.raises(DataSetError, match=r"captions.jsonl, line 2: ") as raised:
        read_captioned(folder)
    assert what in str(raised.value)
    assert "secret" not in str(raised.value)
    assert "--skip-bad to continue with the other 2 photos" in str(raised.value)
    said: list[str] = []
    found = read_captioned(folder, skip_bad=True, log=said.append)
    assert contents(found) == {"coffee.png": ["a cup"], "rocket.jpg": ["a rocket"]}
    assert said[0].startswith("Left out 1 bad entry, the first ")


def test_faults_of_coco_files_name_the_entry(folder: Path) -> None:
    as_coco(folder)
    file = folder / "annotations" / "captions_val2017.json"
    value = json.loads(file.read_text())
    value["annotations"].append({"image_id": 99, "caption": "nobody's"})
    value["images"] += [{"id": 0, "file_name": "again.jpg"}, {"id": 50, "file_name": "coffee.png"}]
    file.write_text(json.dumps(value))
    with pytest.raises(DataSetError, match=r"images\[3\]: the id '0' was given before \(and 2 bad"):
        read_captioned(folder)
    said: list[str] = []
    assert contents(read_captioned(file, skip_bad=True, log=said.append)) == CAPTIONS
    assert said[0].startswith("Left out 3 bad entries")


def test_a_caption_of_a_missing_photo_in_a_token_file(folder: Path) -> None:
    as_token(folder)
    file = folder / "Few.token.txt"
    file.write_text(file.read_text() + "\nchina.jpg.1#0\tnot there\nno caption\n")
    with pytest.raises(DataSetError, match=r"line 8: the entry names no image \(and 1 bad entry"):
        read_captioned(folder)
    assert contents(read_captioned(folder, skip_bad=True)) == CAPTIONS


def test_a_short_row_of_a_table(folder: Path) -> None:
    (folder / "results.csv").write_text(
        "image_name| comment_number| comment\nchina.jpg| 0| A temple .\ncoffee.png| A cup .\n"
    )
    with pytest.raises(DataSetError, match=r"results.csv, line 3: the row has 2 cell"):
        read_captioned(folder)
    found = read_captioned(folder, skip_bad=True)
    assert contents(found) == {"china.jpg": ["A temple ."]}


BAD_FILES: dict[str, tuple[str, bytes, str]] = {
    "no JSON": ("dataset_x.json", b'{"images":\n [}', "line 2 is not JSON"),
    "other JSON": ("dataset_x.json", b'{"a": 1}', "JSON without a list 'images'"),
    "deep JSON": ("dataset_x.json", b"[" * 100_000, "not JSON"),
    "strange entries": ("dataset_x.json", b'{"images": [1, {"sentences": 5}]}', "not an object"),
    "not UTF-8": ("captions.jsonl", b'{"image": "\xff"}\n', "line 1: the photo has no caption"),
    "endless line": ("captions.jsonl", b" " * (2**24 + 1), "line 1: the line is longer"),
    "no columns": ("captions.txt", b"Dear reader,\nhow are you?\n", "no columns image and caption"),
    "empty": ("captions.jsonl", b"", "has no captioned photo. Name another data set"),
    "empty table": ("captions.txt", b"", "it is empty"),
    "compressed": ("set.tar.gz", b"\x1f\x8b", "it is compressed: unpack it first"),
    "no tar": ("set.tar", b"hello" * 1000, "not a complete, uncompressed tar"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_of_no_known_format_is_told(tmp_path: Path, name: str) -> None:
    file, data, what = BAD_FILES[name]
    (tmp_path / file).write_bytes(data)
    with pytest.raises(DataSetError) as raised:
        read_captioned(tmp_path / file)
    assert what in str(raised.value)


def test_a_folder_without_captions_or_with_several_sets(folder: Path) -> None:
    with pytest.raises(DataSetError, match="no captions in it"):
        read_captioned(folder)
    with pytest.raises(DataSetError, match="There is no data set"):
        read_captioned(folder / "nowhere")
    for year in (2014, 2017):
        (folder / f"captions_val{year}.json").write_text("{}")
    with pytest.raises(DataSetError, match=r"captions_val2014.json, captions_val2017.json. Name"):
        read_captioned(folder)


def test_a_hostile_tar_is_told_and_the_rest_can_be_used(folder: Path) -> None:
    photo = (folder / "images" / "china.jpg").read_bytes()
    with tarfile.open(folder / "bad.tar", "w") as archive:
        put(archive, "good.jpg", photo)
        put(archive, "good.json", b'{"caption": "a temple", "width": 3}')
        put(archive, "../out.jpg", photo)
        put(archive, "../out.txt", b"outside")
        put(archive, "alone.txt", b"no photo")
        put(archive, "mute.jpg", photo)
        put(archive, "two.jpg", photo)
        put(archive, "two.png", photo)
        put(archive, "link.jpg", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        put(archive, "latin.jpg", photo)
        put(archive, "latin.txt", b"\xff\xfe\xfd")
        put(archive, "long.jpg", photo)
        put(archive, "long.txt", b"a" * (2**20 + 1))
    with pytest.raises(DataSetError, match=r"bad.tar, '../out': '../out.jpg': .* leaves"):
        read_captioned(folder / "bad.tar")
    said: list[str] = []
    found = read_captioned(folder / "bad.tar", skip_bad=True, log=said.append)
    assert contents(found) == {"good.jpg": ["a temple"]}
    assert said[0].startswith("Left out 7 bad entries")


def test_a_cut_or_damaged_tar_is_told(folder: Path) -> None:
    data = as_tar(folder).read_bytes()
    (folder / "cut.tar").write_bytes(data[: len(data) // 2])
    with pytest.raises(
        DataSetError, match=r"not a complete, uncompressed tar \(unexpected end of data"
    ):
        read_captioned(folder / "cut.tar")
    second = read_captioned(folder / "shard.tar").photos[1].span
    assert second is not None
    header = second[0] - tarfile.BLOCKSIZE
    for byte in (b"\xff", b"x"):
        (folder / "hurt.tar").write_bytes(data[:header] + byte * 512 + data[header + 512 :])
        with pytest.raises(DataSetError, match="not a complete, uncompressed tar"):
            read_captioned(folder / "hurt.tar")


def test_a_name_of_gigabytes_in_a_tar_is_not_read(tmp_path: Path) -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 1 << 40
    with (tmp_path / "name.tar").open("wb") as file:
        file.write(header.tobuf(tarfile.GNU_FORMAT))
        file.truncate(1 << 32)  # without taking room on the disk
    with pytest.raises(DataSetError, match="a name of 1,099,511,627,776 bytes"):
        read_captioned(tmp_path / "name.tar")


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(
        [
            "captions.jsonl",
            "dataset_a.json",
            "captions_a.json",
            "a.token.txt",
            "captions.csv",
            "a.tar",
        ]
    ),
    data=st.binary(max_size=300)
    | st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    "images annotations image captions caption sentences raw id image_id "
                    "file_name filename filepath split".split()
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    ).map(lambda value: json.dumps(value).encode()),
    skip=st.booleans(),
)
def test_whatever_is_in_a_file_the_answer_is_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: bytes, skip: bool
) -> None:
    file = tmp_path_factory.mktemp("any") / name
    file.write_bytes(data)
    with pytest.raises(RetrievalError):
        read_captioned(file, skip_bad=skip)


def test_the_shared_sets_are_read_whole() -> None:
    assert len(read_captioned(shared("flickr8k"), "val").captions) == 5000
    assert len(read_captioned(shared("coco_cc")).photos) == 150


def test_an_indexed_folder_is_a_set_of_its_own_captions(few: Path) -> None:
    retrieval.index(few, model="mini")
    with pytest.raises(retrieval.DataSetError, match="holds no captions"):
        read_captioned(few)
    (few / "chelsea.txt").write_text("a cat\na tabby cat")
    (few / "sub").mkdir()
    (few / "coffee.png").rename(few / "sub" / "coffee.png")
    (few / "sub" / "coffee.txt").write_text("an espresso")
    (few / "copy.png").write_bytes((few / "chelsea.png").read_bytes())
    (few / "copy.txt").write_text("a copy")
    retrieval.index(few)
    for where in (few, few / ".retrieval"):
        found = read_captioned(where)
        assert found.name == few.name
        assert {p.name: p.captions for p in found.photos} == {
            "chelsea.png": ("a cat", "a tabby cat"),
            "sub/coffee.png": ("an espresso",),
        }
        for photo in found.photos:
            with photo.open() as file:
                assert file.read(4) == b"\x89PNG"
    (few / "sub" / "coffee.png").unlink()
    with pytest.raises(retrieval.DataSetError, match="--skip-bad"):
        read_captioned(few)
    assert len(read_captioned(few, skip_bad=True).photos) == 1
