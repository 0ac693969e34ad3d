"""Texts inside photos and beside them, in whatever encoding, form and file programs write them."""

import io
import json
import sqlite3
import struct
from pathlib import Path

import pytest
from PIL import Image

import retrieval
from indexes.index import Index
from retrieval.captions.metadata import embedded_texts, texts_of
from retrieval.captions.sidecars import ReadCaptions, read_captions
from retrieval.captions.takeout import TakeoutNames
from retrieval.photos.encodings import decode_jis, decode_text, decode_utf16
from retrieval.photos.exif import read_facts
from retrieval.photos.open_image import open_image
from retrieval.photos.xmp import read_xmp
from tests.conftest import shared

DESCRIPTION, USER_COMMENT, XP_COMMENT, MAKE = 0x010E, 0x9286, 0x9C9C, 0x010F
NAMESPACES = " ".join(
    f'xmlns:{prefix}="{uri}"'
    for prefix, uri in {
        "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
        "dc": "http://purl.org/dc/elements/1.1/",
        "lr": "http://ns.adobe.com/lightroom/1.0/",
        "digiKam": "http://www.digikam.org/ns/1.0/",
        "photoshop": "http://ns.adobe.com/photoshop/1.0/",
        "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
        "mwg-rs": "http://www.metadataworkinggroup.com/schemas/regions/",
        "exif": "http://ns.adobe.com/exif/1.0/",
    }.items()
)


def packet(body: str = "", attributes: str = "") -> str:
    """An XMP packet with these elements and attributes."""
    return (
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF {NAMESPACES}>'
        f'<rdf:Description rdf:about="" {attributes}>{body}</rdf:Description></rdf:RDF></x:xmpmeta>'
    )


def texts_in(path: Path) -> list[str]:
    with path.open("rb") as file, open_image(file) as image:
        return embedded_texts(image)


def with_exif(path: Path, top: dict[int, object], details: dict[int, object]) -> Path:
    exif = Image.Exif()
    exif.update(top)
    exif.get_ifd(0x8769).update(details)
    Image.new("RGB", (64, 64), "navy").save(path, exif=exif)
    return path


def with_iptc(path: Path, *data_sets: tuple[int, bytes], damage: bytes = b"") -> Path:
    """A JPEG file with an IPTC block of these data sets of record 2."""
    block = b"".join(
        b"\x1c\x02" + bytes([number]) + struct.pack(">H", len(value)) + value
        for number, value in data_sets
    )
    block += damage
    body = b"Photoshop 3.0\x008BIM\x04\x04\0\0" + struct.pack(">I", len(block)) + block
    body += b"\0" * (len(block) % 2)
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "navy").save(buffer, "JPEG")
    jpeg = buffer.getvalue()
    path.write_bytes(jpeg[:2] + b"\xff\xed" + struct.pack(">H", len(body) + 2) + body + jpeg[2:])
    return path


# Encodings ----------------------------------------------------------------------------------------

CAFE = "Frühstück im Café Groß"
EXPECTED = {
    "exif-description-utf8": ["Kätzchen auf dem Sofa, señor gato"],
    "exif-description-latin1": ["Kätzchen auf dem Balkon"],
    "exif-description-cjk": ["沙发上的猫"],
    "iptc-latin1-nomarker": [CAFE, "Frühstück"],
    "iptc-utf8-marker": [CAFE],
    "iptc-utf8-nomarker": [CAFE],
    "iptc-cp1252-quotes": ["The “Zürich” tram – 5 €"],
    "usercomment-II-le": ["launch pad at dusk"],
    "usercomment-II-be": ["launch pad at dusk"],
    "usercomment-MM-le": ["launch pad at dusk"],
    "usercomment-MM-be": ["launch pad at dusk"],
    "usercomment-ascii": ["ascii comment of a rocket"],
    "usercomment-undefined-utf8": ["fusée à Kourou"],
    "usercomment-jis": ["ロケット"],
    "xpcomment": ["Frau im Überzug"],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_photo_of_the_cases_has_the_expected_texts(name: str) -> None:
    assert texts_in(shared("cases/text-encodings") / f"{name}.jpg") == EXPECTED[name]


@pytest.mark.parametrize(
    ("text", "encodings"),
    [
        ("Kätzchen", ("utf-8", "utf-8-sig", "utf-16", "utf-16-be", "cp1252", "latin-1")),
        ("собака на пляже", ("utf-8", "utf-8-sig", "utf-16")),
        ("浜辺の犬 🐕", ("utf-8", "utf-8-sig", "utf-16")),
        ("The “best” café – 5 €", ("utf-8", "utf-8-sig", "utf-16", "cp1252")),
    ],
)
def test_text_is_read_in_the_encoding_it_was_written_in(
    text: str, encodings: tuple[str, ...]
) -> None:
    for encoding in encodings:
        assert decode_text(text.encode(encoding)) == text


def test_text_that_was_cut_within_a_character_keeps_the_rest() -> None:
    assert decode_text("é Müü".encode()[:-1]) == "é Mü"
    assert decode_text("café".encode("latin-1")) == "café"


@pytest.mark.parametrize(
    "text", ["launch pad", "собака", "ロケット発射", "猫在沙发上", "über", "あいしています"]
)
@pytest.mark.parametrize("order", ["utf-16-le", "utf-16-be"])
def test_utf_16_is_read_in_either_byte_order_whatever_was_declared(text: str, order: str) -> None:
    assert decode_utf16(text.encode(order), order) == text
    if text not in ("猫在沙发上",):  # as likely in either order
        other = "utf-16-be" if order == "utf-16-le" else "utf-16-le"
        assert decode_utf16(text.encode(order), other) == text
    mark = "\ufeff".encode(order)
    assert decode_utf16(mark + text.encode(order), "utf-16-be") == text


@pytest.mark.parametrize(
    "data",
    ["ロケット".encode(name) for name in ("iso2022_jp", "shift_jis", "euc_jp", "utf-8")]
    + ["ロケット".encode("iso2022_jp")[3:-3]],
)
def test_a_comment_in_jis_is_read_in_each_of_its_forms(data: bytes) -> None:
    assert decode_jis(data) == "ロケット"


@pytest.mark.parametrize("text", ["launch pad", "fusée à Kourou"])
def test_utf_8_in_the_place_of_utf_16_is_read(text: str, tmp_path: Path) -> None:
    comment = b"UNICODE\0" + text.encode()
    assert texts_in(with_exif(tmp_path / "a.jpg", {}, {USER_COMMENT: comment})) == [text]


def test_a_comment_without_the_name_of_its_encoding_is_whole(tmp_path: Path) -> None:
    path = with_exif(tmp_path / "a.jpg", {}, {USER_COMMENT: b"a rocket at dusk"})
    assert texts_in(path) == ["a rocket at dusk"]


def test_the_name_of_a_camera_is_utf_8_too(tmp_path: Path) -> None:
    path = with_exif(tmp_path / "a.jpg", {MAKE: "Größe".encode()}, {})
    with path.open("rb") as file, open_image(file) as image:
        assert read_facts(image).camera == "Größe"


# IPTC ---------------------------------------------------------------------------------------------


def test_iptc_gives_titles_keywords_and_places(tmp_path: Path) -> None:
    path = with_iptc(
        tmp_path / "a.jpg",
        (5, b"a title"), (105, b"a headline"), (120, "Straße".encode("latin-1")),
        (25, b"one"), (25, b"two"), (90, b"Wien"), (101, "Österreich".encode()),
    )  # fmt: skip
    assert texts_in(path) == ["a title", "a headline", "Straße", "one, two", "Wien, Österreich"]


def test_damage_in_iptc_costs_only_what_follows(tmp_path: Path) -> None:
    path = with_iptc(tmp_path / "a.jpg", (120, b"a cat"), damage=b"\x1c\xff\xff\xff\xff\xff junk")
    assert texts_in(path) == ["a cat"]
    path = with_iptc(tmp_path / "b.jpg", (120, b"a cat"), damage=b"junk")
    assert texts_in(path) == ["a cat"]


# XMP ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("xmp", "texts"),
    [
        (packet("<dc:description>plain</dc:description>"), ["plain"]),
        (packet(attributes='dc:description="as attribute"'), ["as attribute"]),
        (packet("<dc:title><rdf:Alt><rdf:li>a</rdf:li><rdf:li>b</rdf:li></rdf:Alt></dc:title>"),
         ["a", "b"]),
        (packet(attributes='photoshop:Headline="head" photoshop:City="Linz" '
                'photoshop:Country="Austria"'), ["head", "Linz, Austria"]),
        (packet("<lr:hierarchicalSubject><rdf:Bag><rdf:li>Places|Austria|Linz</rdf:li>"
                "<rdf:li>Places|AC/DC</rdf:li></rdf:Bag></lr:hierarchicalSubject>"),
         ["Places, Austria, Linz, AC/DC"]),
        (packet("<digiKam:TagsList><rdf:Seq><rdf:li>People/Anna</rdf:li></rdf:Seq>"
                "</digiKam:TagsList><dc:subject><rdf:Bag><rdf:li>anna</rdf:li></rdf:Bag>"
                "</dc:subject>"), ["anna, People"]),
        (packet("<Iptc4xmpExt:PersonInImage><rdf:Bag><rdf:li>Bo</rdf:li></rdf:Bag>"
                "</Iptc4xmpExt:PersonInImage>"), ["Bo"]),
        (packet('<mwg-rs:Regions><mwg-rs:RegionList><rdf:Bag><rdf:li mwg-rs:Name="Cy"/>'
                "</rdf:Bag></mwg-rs:RegionList></mwg-rs:Regions>"), ["Cy"]),
    ],
    ids=["element", "attribute", "languages", "headline", "lightroom", "digikam", "people",
         "faces"],
)  # fmt: skip
def test_xmp_is_read_in_each_of_its_forms(xmp: str, texts: list[str]) -> None:
    assert texts_of(read_xmp(xmp.encode())) == texts


BODY = "<dc:description>a café</dc:description>"


@pytest.mark.parametrize(
    "data",
    [
        packet(BODY).encode("utf-16"),
        packet(BODY).encode("utf-16-be"),
        ('<?xml version="1.0" encoding="UTF-16"?>' + packet(BODY)).encode("utf-16"),
        ('<?xml version="1.0" encoding="UTF-8"?>' + packet(BODY)).encode("latin-1"),
        packet(BODY).encode("utf-8-sig"),
        packet(BODY).encode() + b"\0" * 2000,
        packet(BODY + "<photoshop:History>\x0b\x1f</photoshop:History>").encode(),
        f'\n \n<?xpacket begin="\ufeff"?>\n{packet(BODY)}\n<?xpacket end="w"?>'.encode(),
        packet(f"<photoshop:History>{'x' * (3 << 20)}</photoshop:History>" + BODY).encode(),
    ],
    ids=["utf-16", "utf-16 unmarked", "utf-16 declared", "latin-1 declared utf-8", "mark",
         "zeros behind", "control characters", "packet", "3 MiB"],
)  # fmt: skip
def test_xmp_is_read_in_the_encoding_that_it_has(data: bytes) -> None:
    assert texts_of(read_xmp(data)) == ["a café"]


def test_the_second_packet_of_a_jpeg_is_read(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.jpg", xmp=packet().encode())
    second = packet("<dc:description>from the second</dc:description>").encode()
    half = len(second) // 2
    jpeg = (tmp_path / "a.jpg").read_bytes()
    segments = b""
    for offset in (half, 0):  # in any order
        part = second[offset : offset + half] if offset == 0 else second[half:]
        body = b"http://ns.adobe.com/xmp/extension/\0" + b"0" * 32
        body += struct.pack(">II", len(second), offset) + part
        segments += b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body
    (tmp_path / "a.jpg").write_bytes(jpeg[:2] + segments + jpeg[2:])
    assert texts_in(tmp_path / "a.jpg") == ["from the second"]


# Beside photos ------------------------------------------------------------------------------------

WORDS = {
    "lower.jpg": ["wordalpha"], "UPPER.JPG": ["wordbravo"], "Mixed.Jpg": ["wordbravotwo"],
    "UPTXT.JPG": ["wordcharlie"], "lowtxt.JPG": ["worddelta"],
    "dark.jpg": ["wordecho, places, wordechotwo"], "digi.jpg": ["People, wordfoxtrot"],
    "plainelem.jpg": ["wordgolf"], "attr.jpg": ["wordhotel"],
    "headline.jpg": ["wordindia", "wordindiacity"], "utf16xmp.jpg": ["wordjuliet"],
    "bomxmp.jpg": ["wordkilo"], "big.jpg": ["wordlima"], "latin.jpg": ["wordmike au café"],
    "u16.jpg": ["wordnovember au café"], "crtxt.jpg": ["wordoscar one", "wordoscar two"],
    "cap.jpg": ["wordpapa"], "edit.jpg": ["wordquebec"], "rawjpg.jpg": ["wordromeo"],
    "Takeout/IMG_1.jpg": ["wordsierra", "wordperson"],
    "Takeout/IMG_2.jpg": ["wordtango", "wordperson"],
    "Takeout/IMG_3(1).jpg": ["worduniform", "wordperson"],
}  # fmt: skip


def read(root: Path) -> ReadCaptions:
    root = root.resolve()
    photos = [p.relative_to(root).as_posix() for p in sorted(root.rglob("*"))]
    return read_captions(root, [p for p in photos if p.lower().endswith((".jpg", ".jpeg"))])


def captions(found: ReadCaptions) -> dict[str, list[str]]:
    by_path: dict[str, list[str]] = {}
    for caption in found.captions:
        by_path.setdefault(caption.path, []).append(caption.text)
    return by_path


def test_every_sidecar_of_the_cases_is_read() -> None:
    found = read(shared("cases/sidecars"))
    assert captions(found) == WORDS
    assert found.notes == []
    assert set(found.sidecars) == {name for name in WORDS if name.startswith("Takeout")}
    for (sidecar,) in found.sidecars.values():
        assert sidecar.place == (48.2, 16.37)
        assert [date.text for date in sidecar.dates] == ["2009-08-07 06:05:04Z"]


def test_both_xmp_files_of_a_photo_are_read_and_the_exact_name_wins(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "B.jpg"):
        (tmp_path / name).touch()
    (tmp_path / "a.xmp").write_text(packet(attributes='dc:description="one"'))
    (tmp_path / "a.jpg.XMP").write_text(packet(attributes='dc:description="two"'))
    (tmp_path / "b.TXT").write_text("small")
    (tmp_path / "B.txt").write_text("large")
    assert captions(read(tmp_path)) == {
        "a.jpg": ["two", "one"], "b.jpg": ["small"], "B.jpg": ["large"],
    }  # fmt: skip


def test_names_of_sidecars_match_in_either_normal_form(tmp_path: Path) -> None:
    (tmp_path / "Ka\u0308tzchen.jpg").touch()
    (tmp_path / "K\u00e4tzchen.txt").write_text("a kitten")
    assert captions(read(tmp_path)) == {"Ka\u0308tzchen.jpg": ["a kitten"]}


@pytest.mark.parametrize(
    ("photo", "file"),
    [
        ("IMG.jpg", "IMG.jpg.json"),
        ("IMG.JPG", "IMG.jpg.JSON"),
        ("IMG.jpg", "IMG.jpg.supplemental-metadata.json"),
        ("IMG.jpg", "IMG.jpg.supplemental-me.json"),
        ("IMG.jpg", "IMG.jpg.s.json"),
        ("IMG.jpg", "IMG.jpg..json"),
        ("IMG(1).jpg", "IMG.jpg(1).json"),
        ("IMG(1).jpg", "IMG.jpg.supplemental-metadata(1).json"),
        ("IMG(1).jpg", "IMG(1).jpg.supplemental-metadata.json"),
        ("IMG-edited.jpg", "IMG.jpg.json"),
        ("IMG-bearbeitet.jpg", "IMG.jpg.supplemental-metadata.json"),
        ("IMG-edited(2).jpg", "IMG.jpg(2).json"),
        ("IMG.jpg", "IMG.json"),
        ("a_very_long_name_that_takeout_had_to_cut_somewhere.jpg",
         "a_very_long_name_that_takeout_had_to_cut_somew.json"),
        ("a_long_name_that_leaves_no_room_for_more_.jpg",
         "a_long_name_that_leaves_no_room_for_more_.jpg.json"),
        ("Screenshot_2019-04-16-11-24-26-123_com.app.jpg",
         "Screenshot_2019-04-16-11-24-26-123_com.app.jp.json"),
    ],
)  # fmt: skip
def test_a_file_of_takeout_is_found_by_the_name_of_its_photo(photo: str, file: str) -> None:
    others = ["other.jpg.json", "IM.jpg.json", "IMG.jpg(7).json", "print-subscriptions.json"]
    assert TakeoutNames.of([*others, file]).find(photo) == file


def test_a_file_of_takeout_belongs_to_no_other_photo() -> None:
    names = TakeoutNames.of(["IMG.jpg.json", "IMG.jpg(1).json", "metadata.json"])
    assert names.find("IMG(2).jpg") is None
    assert names.find("IMG2.jpg") is None
    assert names.find("IMG-beach.jpg") is None
    assert names.find("IMG.jpg") == "IMG.jpg.json"
    assert names.find("IMG(1).jpg") == "IMG.jpg(1).json"


def test_what_takeout_says_is_found_and_what_it_lacks_does_no_harm(tmp_path: Path) -> None:
    for name, said in {
        "a": {"description": "", "geoData": {"latitude": 0.0, "longitude": 0.0},
              "geoDataExif": {"latitude": -33.86, "longitude": 151.21},
              "photoTakenTime": {"timestamp": "-86400"}},
        "b": {"photoTakenTime": {"timestamp": "0"}, "geoData": {"latitude": 0, "longitude": 0}},
        "c": {"photoTakenTime": {"timestamp": "soon"}, "people": ["Bo", {"name": 7}, {}],
              "geoData": {"latitude": "north", "longitude": None}, "description": 3},
        "d": ["a list"],
    }.items():  # fmt: skip
        (tmp_path / f"{name}.jpg").touch()
        (tmp_path / f"{name}.jpg.json").write_text(json.dumps(said))
    (tmp_path / "e.jpg").touch()
    (tmp_path / "e.jpg.json").write_text("[" * 100_000)
    found = read(tmp_path)
    assert found.captions == []
    (sidecar,) = found.sidecars["a.jpg"]
    assert sidecar.place == (-33.86, 151.21)
    assert sidecar.dates[0].text == "1969-12-31 00:00:00Z"
    assert all(sidecar.place is None for path in "bc" for sidecar in found.sidecars[f"{path}.jpg"])
    (note,) = found.notes
    assert "e.jpg.json" in note


def test_the_dates_of_an_apple_export_are_read(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "IMG_1.JPG")
    (tmp_path / "Photo Details-1.csv").write_text(
        "imgName,fileChecksum,favorite,hidden,deleted,originalCreationDate,viewCount,importDate\n"
        'IMG_1.JPG,AbC=,no,no,no,"Friday August 7,2009 6:05 AM GMT",2,"Monday July 1,2024 GMT"\n'
        'IMG_2.JPG,AbC=,no,no,no,"no date",2,\n'
    )
    retrieval.index(tmp_path, model="mini")
    with retrieval.open(tmp_path) as photos:
        (hit,) = photos.search("a photo")
    assert (hit.photo.taken, hit.photo.taken_offset) == ("2009-08-07T06:05", "+00:00")
    assert hit.photo.taken_source == "Apple export"


def test_the_xmp_file_of_an_apple_export_is_read(tmp_path: Path) -> None:
    """It has coordinates as decimals, with their references beside them."""
    (tmp_path / "IMG_1.HEIC.jpg").touch()
    (tmp_path / "IMG_1.HEIC.xmp").write_text(
        packet(
            "<dc:description>a walk</dc:description><Iptc4xmpExt:PersonInImage><rdf:Seq>"
            "<rdf:li>Anna</rdf:li></rdf:Seq></Iptc4xmpExt:PersonInImage>"
            "<photoshop:DateCreated>2009-08-07T06:05:04+02:00</photoshop:DateCreated>"
            "<exif:GPSLatitude>33.86</exif:GPSLatitude><exif:GPSLatitudeRef>S</exif:GPSLatitudeRef>"
            "<exif:GPSLongitude>151.21</exif:GPSLongitude>"
            "<exif:GPSLongitudeRef>E</exif:GPSLongitudeRef>"
        )
    )
    found = read(tmp_path)
    assert captions(found) == {"IMG_1.HEIC.jpg": ["a walk", "Anna"]}
    (sidecar,) = found.sidecars["IMG_1.HEIC.jpg"]
    assert sidecar.place == (-33.86, 151.21)
    assert sidecar.dates[0].text == "2009-08-07T06:05:04+02:00"


# Damage -------------------------------------------------------------------------------------------


def test_metadata_that_is_damaged_loses_no_photo_and_no_other_metadata(tmp_path: Path) -> None:
    good = with_iptc(tmp_path / "base.jpg", (120, b"a cat from iptc")).read_bytes()
    exif = b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\xff" * 40
    damaged = {
        "exif.jpg": (b"\xff\xe1", exif),
        "xmp.jpg": (b"\xff\xe1", b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta"),
        "entities.jpg": (
            b"\xff\xe1",
            b"http://ns.adobe.com/xap/1.0/\0<!DOCTYPE x [<!ENTITY a 'b'>]>",
        ),
    }
    (tmp_path / "base.jpg").unlink()
    for turn, (name, (marker, body)) in enumerate(damaged.items()):
        segment = marker + struct.pack(">H", len(body) + 2) + body
        (tmp_path / name).write_bytes(good[:2] + segment + good[2:] + bytes(turn))
    report = retrieval.index(tmp_path, model="mini")
    assert (report.encoded, report.skipped, report.captioned) == (3, 0, 3)
    for name in damaged:
        assert texts_in(tmp_path / name) == ["a cat from iptc"]


# Reading again ------------------------------------------------------------------------------------


def test_reread_reads_metadata_again_and_encodes_nothing(
    few: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_exif(few / "a.jpg", {DESCRIPTION: "Kätzchen".encode()}, {0x9003: "2009:08:07 06:05:04"})
    with monkeypatch.context() as patched:
        patched.setattr("retrieval.indexing.read_photo.embedded_texts", lambda _: ["KÃ¤tzchen"])
        retrieval.index(few, model="mini")
    assert retrieval.index(few).reread == 0
    report = retrieval.index(few, options=retrieval.Options(reread=True))
    assert (report.reread, report.encoded, report.fused) == (5, 0, 1)
    with Index.open(few / ".retrieval") as index:
        assert len(index.catalogue.full_text.search('"katzchen"', 5)) == 1


def test_photos_that_were_read_by_an_older_version_are_read_again_by_the_next_run(
    few: Path,
) -> None:
    with_exif(few / "a.jpg", {DESCRIPTION: b"a boat"}, {0x9003: "2009:08:07"})
    retrieval.index(few, model="mini")
    with sqlite3.connect(few / ".retrieval" / "catalogue.db") as db:
        db.execute("UPDATE photos SET metadata_version = NULL, taken = NULL, taken_source = NULL")
        db.execute("DELETE FROM meta WHERE key = 'last_run'")  # which no older version wrote
    db.close()
    report = retrieval.index(few)
    assert (report.reread, report.encoded) == (5, 0)
    with retrieval.open(few) as photos:
        hits = {hit.path.name: hit.photo for hit in photos.search("a boat")}
        assert hits["a.jpg"].taken == "2009-08-07"
        assert hits["a.jpg"].taken_source == "EXIF DateTimeOriginal"
    assert retrieval.index(few).reread == 0
