"""Tars of photos and captions in the layouts of WebDataset, img2dataset and open_clip."""

import io
import json
import tarfile
from pathlib import Path

import pytest

import retrieval
from retrieval.datasets.captioned import read_captioned
from tests.conftest import shared

TEXTS = ["a ginger cat", "a cup of coffee", "a rocket on its pad", "an astronaut smiling"]


def pack(file: Path, members: dict[str, bytes | str], **options: int) -> Path:
    with tarfile.open(file, "w", **options) as archive:  # type: ignore[arg-type]
        for name, data in members.items():
            data = data.encode() if isinstance(data, str) else data
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file


def read(file: Path) -> tuple[dict[str, tuple[bytes, list[str]]], list[str]]:
    """Photos by name, with their bytes and captions, and what is said."""
    said: list[str] = []
    found = read_captioned(file, log=said.append)
    photos = {}
    for photo in found.photos:
        with photo.open() as source:
            photos[photo.name] = (source.read(), list(photo.captions))
    return photos, said


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("plain", "jpg"),
        ("json-text", "jpg"),
        ("jpg-mask", "jpg"),
        ("macos-appledouble", "jpg"),
        ("input-outputs", "input.jpg"),
    ],
)
def test_the_tars_beside_the_repository(name: str, ending: str) -> None:
    file = shared("cases") / "tars" / f"{name}.tar"
    found, said = read(file)
    assert [captions for _, captions in found.values()] == [[text] for text in TEXTS]
    assert all(photo.endswith(f".{ending}") and photo.count(".") < 3 for photo in found)
    assert all(data.startswith(b"\xff\xd8") for data, _ in found.values())
    assert len(said) == (name == "jpg-mask")
    if said:
        assert "'000002' and 1 more: of several photos the one that ends in .jpg was" in said[0]


PHOTO, MASK = b"photo", b"mask"


@pytest.mark.parametrize(
    "members",
    [
        {"x.mask.png": MASK, "x.jpg": PHOTO},
        {"x.png": MASK, "x.jpg": PHOTO},
        {"x.jpg": PHOTO, "x.seg.jpg": MASK, "x.depth.png": MASK},
        {"x.right.png": MASK, "x.left.png": PHOTO},
        {"x.mask.webp": MASK, "x.image.png": PHOTO},
        {"X.MASK.PNG": MASK, "X.JPEG": PHOTO},
        {"x.jpg": PHOTO, "__MACOSX/._x.jpg": MASK, "__MACOSX/x.jpg": MASK, "._x.jpg": MASK},
    ],
)
def test_the_photo_of_a_sample_is_chosen_by_rule(tmp_path: Path, members: dict[str, bytes]) -> None:
    key = "X" if "X.JPEG" in members else "x"
    found, said = read(pack(tmp_path / "a.tar", {f"{key}.txt": "a cat", **members}))
    assert list(found.values()) == [(PHOTO, ["a cat"])]
    assert bool(said) == ("__MACOSX/x.jpg" not in members)
    if said:
        assert "of several photos the one that ends in ." in said[0]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ({"x.txt": "one\r\n\r\ntwo\r"}, ["one", "two"]),
        ({"x.caption": "one"}, ["one"]),
        (
            {"x.json": json.dumps({"caption": "one", "url": "u", "key": "x", "status": "ok"})},
            ["one"],
        ),
        ({"x.json": '{"captions": ["one", "two"]}'}, ["one", "two"]),
        ({"x.json": '{"text": "one", "title": "two"}'}, ["one"]),
        ({"x.json": '{"title": "one"}'}, ["one"]),
        ({"x.json": '{"caption_0": "one", "caption_1": "two"}'}, ["one", "two"]),
        ({"x.json": '["one", "two"]'}, ["one", "two"]),
        ({"x.json": '{"caption": "other"}', "x.txt": "one"}, ["one"]),
        ({"x.json": '{"width": 3}', "x.txt": "one"}, ["one"]),
        ({"x.0.txt": "one", "x.1.txt": "two", "x.meta.json": '{"a": 1}'}, ["one", "two"]),
        ({"x.outputs.txt": "other", "x.txt": "one"}, ["one"]),
        ({"x.txt": "ein Kätzchen".encode("utf-16")}, ["ein Kätzchen"]),
        ({"x.txt": "ein Kätzchen".encode("cp1252")}, ["ein Kätzchen"]),
        ({"x.txt": "\ufeffone"}, ["one"]),
        ({"x.json": b"\xef\xbb\xbf" + b'{"text": "one"}', "x.cls": "7"}, ["one"]),
    ],
)
def test_captions_of_a_sample(
    tmp_path: Path, texts: dict[str, bytes | str], expected: list[str]
) -> None:
    for order in (1, -1):
        members = dict(list({"x.jpg": PHOTO, **texts}.items())[::order])
        found, said = read(pack(tmp_path / "a.tar", members))
        assert (list(found.values()), said) == ([(PHOTO, expected)], [])


def test_a_caption_that_cannot_be_used_is_dropped_and_said(tmp_path: Path) -> None:
    file = pack(tmp_path / "a.tar", {"x.jpg": PHOTO, "x.json": '{"captions": ["one", "", 7]}'})
    found, said = read(file)
    assert list(found.values()) == [(PHOTO, ["one"])]
    assert [sentence.rpartition(": ")[2] for sentence in said] == [
        "a caption is empty.",
        "a caption is not a text.",
    ]
    file = pack(tmp_path / "c.tar", {"x.jpg": PHOTO, "x.txt": "one", "x.json": "{"})
    found, said = read(file)
    assert list(found.values()) == [(PHOTO, ["one"])]
    assert "'x': a file of captions cannot be used: not JSON" in said[0]
    file = pack(tmp_path / "b.tar", {"x.jpg": PHOTO, "x.json": '{"caption": ""}'})
    with pytest.raises(retrieval.DataSetError, match=r"'x': the photo has no caption"):
        read_captioned(file)


def test_dots_in_names_are_part_of_them_where_each_photo_has_its_text(tmp_path: Path) -> None:
    members: dict[str, bytes | str] = {}
    for i in range(3):
        members[f"IMG.{i}.jpg"] = PHOTO + bytes([i])
        members[f"IMG.{i}.txt"] = f"number {i}"
    found, said = read(pack(tmp_path / "a.tar", members))
    assert found == {f"IMG.{i}.jpg": (PHOTO + bytes([i]), [f"number {i}"]) for i in range(3)}
    assert said == []


def test_a_folder_of_shards_as_img2dataset_writes_it(tmp_path: Path) -> None:
    for shard in range(2):
        members = {
            f"{shard:05}{i:04}.{ending}": data
            for i in range(3)
            for ending, data in (
                ("jpg", PHOTO),
                ("txt", f"caption {shard} {i}"),
                ("json", json.dumps({"caption": f"caption {shard} {i}", "sha256": "x"})),
            )
        }
        pack(tmp_path / f"{shard:05}.tar", members, format=tarfile.PAX_FORMAT)
        (tmp_path / f"{shard:05}_stats.json").write_text('{"count": 3}')
        (tmp_path / f"{shard:05}.parquet").write_bytes(b"PAR1")
    found, said = read(tmp_path)
    assert [c for _, cs in found.values() for c in cs] == [
        f"caption {s} {i}" for s in range(2) for i in range(3)
    ]
    assert said == []
