"""Where photos were taken: coordinates as programs write them, names of places, and filters."""

import json
import math
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

import retrieval
from indexes.places import fold_place
from retrieval.photos.exif import PhotoFacts, read_facts
from retrieval.photos.location import from_exif, from_texts
from retrieval.photos.open_image import open_image
from retrieval.photos.place_names import NOWHERE, find_place, names_of
from retrieval.search.places import point
from tests.conftest import Run

needs_names = pytest.mark.skipif(
    find_spec("reverse_geocode") is None, reason="reverse-geocode is not installed"
)
VIENNA, REYKJAVIK = (48.2, 16.37), (64.1466, -21.9426)


def degrees(value: float) -> tuple[IFDRational, ...]:
    whole = int(abs(value))
    minutes = (abs(value) - whole) * 60
    return (IFDRational(whole), IFDRational(int(minutes)), IFDRational(minutes % 1 * 60))


def photo(path: Path, latitude: float, longitude: float, **more: object) -> Path:
    """A photo taken there."""
    exif = Image.Exif()
    exif.get_ifd(0x8825).update(
        {
            1: "N" if latitude >= 0 else "S",
            2: degrees(latitude),
            3: "E" if longitude >= 0 else "W",
            4: degrees(longitude),
        }
    )
    colour = (int(latitude) % 256, int(longitude) % 256, len(path.name))
    Image.new("RGB", (64, 64), colour).save(path, exif=exif, **more)
    return path


# Coordinates --------------------------------------------------------------------------------------

SIX = (IFDRational(48), IFDRational(12), IFDRational(0))
NOTHING = (IFDRational(0, 0),) * 3


@pytest.mark.parametrize(
    ("gps", "place"),
    [
        ({1: "N", 2: SIX, 3: "E", 4: SIX}, (48.2, 48.2)),
        ({1: "n\0", 2: SIX, 3: "West", 4: SIX}, (48.2, -48.2)),
        ({1: "South", 2: SIX, 3: "W", 4: SIX}, (-48.2, -48.2)),
        ({1: b"S\0", 2: SIX, 3: b"E\0", 4: SIX}, (-48.2, 48.2)),
        ({1: " s ", 2: SIX, 3: "Ouest", 4: SIX}, (-48.2, -48.2)),
        ({1: "Nord", 2: SIX, 3: "Ost", 4: SIX}, (48.2, 48.2)),
        ({1: "Norte", 2: SIX, 3: "Oeste", 4: SIX}, (48.2, -48.2)),
        ({1: "N", 2: (48, 12.0), 3: "E", 4: (16, 22.2)}, (48.2, 16.37)),
        ({1: "N", 2: (48.2,), 3: "E", 4: 16.37}, (48.2, 16.37)),
        ({1: "N", 2: "48, 12, 0", 3: "E", 4: b"16,22.2"}, (48.2, 16.37)),
        ({2: (-48.2,), 4: (16.37,)}, (-48.2, 16.37)),
        ({1: "N", 2: (IFDRational(48), IFDRational(12), IFDRational(0, 0)), 3: "E", 4: SIX},
         (48.2, 48.2)),
        ({1: "N", 2: NOTHING, 3: "E", 4: NOTHING}, None),
        ({1: "N", 2: (0, 0, 0), 3: "E", 4: (0, 0, 0)}, None),
        ({1: "N", 2: (91, 0, 0), 3: "E", 4: SIX}, None),
        ({1: "N", 2: SIX}, None),
        ({1: "N", 2: (), 3: "E", 4: SIX}, None),
    ],
)  # fmt: skip
def test_coordinates_are_read_in_any_spelling(
    gps: dict[int, object], place: tuple[float, float] | None
) -> None:
    assert from_exif(gps) == (place if place is None else pytest.approx(place))


@pytest.mark.parametrize(
    ("latitude", "longitude", "place"),
    [
        ("48,12.0N", "16,22.2E", (48.2, 16.37)),
        ("48,12,0S", "16,22,12W", (-48.2, -16.37)),
        ("48.2", "-16.37", (48.2, -16.37)),
        ("48.2N", "16.37W", (48.2, -16.37)),
        ("0,0.0N", "0,0.0E", None),
        ("north", "west", None),
    ],
)
def test_coordinates_of_xmp_are_read(
    latitude: str, longitude: str, place: tuple[float, float] | None
) -> None:
    assert from_texts(latitude, longitude) == (place if place is None else pytest.approx(place))


def test_a_photo_has_the_place_of_its_exif_else_of_its_xmp(tmp_path: Path) -> None:
    def facts(path: Path) -> PhotoFacts:
        with path.open("rb") as file, open_image(file) as image:
            return read_facts(image)

    xmp = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
        b'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
        b'xmlns:exif="http://ns.adobe.com/exif/1.0/" exif:GPSLatitude="64,8.796N" '
        b'exif:GPSLongitude="21,56.556W"/></rdf:RDF></x:xmpmeta>'
    )
    both = facts(photo(tmp_path / "both.jpg", *VIENNA, xmp=xmp))
    assert (both.latitude, both.longitude) == pytest.approx(VIENNA)
    assert both.place_source == "EXIF"
    Image.new("RGB", (64, 64)).save(tmp_path / "one.jpg", xmp=xmp)
    one = facts(tmp_path / "one.jpg")
    assert (one.latitude, one.longitude) == pytest.approx(REYKJAVIK)
    assert one.place_source == "XMP"


# Names --------------------------------------------------------------------------------------------


@needs_names
@pytest.mark.parametrize(
    ("place", "names"),
    [
        (VIENNA, ("Vienna", "Vienna", "Austria")),
        (REYKJAVIK, ("Reykjavík", "Capital Region", "Iceland")),  # not Kópavogur
        ((64.11, -21.90), ("Kópavogur", "Capital Region", "Iceland")),
        ((40.71, -74.0), ("New York City", "New York", "United States")),
        ((48.08, 16.29), ("Mödling", "Lower Austria", "Austria")),  # near Vienna
        ((78.22, 15.65), ("Longyearbyen", "Svalbard", "Svalbard and Jan Mayen")),
        ((-17.7, 179.99), ("Levuka", "Eastern", "Fiji")),
        ((-17.7, -179.99), ("Levuka", "Eastern", "Fiji")),  # beyond the date line
        ((0.0, -30.0), NOWHERE),
        ((-90.0, 0.0), NOWHERE),
    ],
)
def test_coordinates_have_the_name_of_their_place(
    place: tuple[float, float], names: tuple[str, str, str]
) -> None:
    assert names_of([place]) == [names]


@needs_names
@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("Vienna", VIENNA), ("vienna, austria", VIENNA), ("REYKJAVIK", (64.135, -21.895)),
        ("New York", (40.714, -74.006)), ("Paris", (48.853, 2.349)),
        ("Paris, Texas", (33.661, -95.556)), ("Paris, US", (33.661, -95.556)),
        ("Frankfurt", (50.116, 8.684)), ("Tromso", (69.649, 18.955)),
    ],
)  # fmt: skip
def test_the_largest_place_of_a_name_is_found(text: str, place: tuple[float, float]) -> None:
    found = find_place(text)
    assert found is not None
    assert (found.latitude, found.longitude) == pytest.approx(place, abs=0.02)


def test_names_are_compared_without_accents_and_case() -> None:
    assert fold_place(" Zürich ") == fold_place("ZURICH") == "zurich"
    assert fold_place("Tromsø") == "tromso"


# An index -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def travels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of photos from four places, one beside the date line, and one from nowhere."""
    folder = tmp_path_factory.mktemp("travels")
    photo(folder / "vienna.jpg", *VIENNA)
    photo(folder / "linz.jpg", 48.306, 14.286)
    photo(folder / "reykjavik.jpg", *REYKJAVIK)
    photo(folder / "taveuni.jpg", -16.8, 179.97)
    Image.new("RGB", (64, 64), "red").save(folder / "nowhere.jpg")
    retrieval.index(folder, model="mini")
    return folder


@needs_names
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--near", "48.2,16.37"), {"vienna.jpg"}),
        (("--near", "Vienna"), {"vienna.jpg"}),
        (("--near", "Vienna", "--within", "200"), {"vienna.jpg", "linz.jpg"}),
        (("--near", "-16.8 -179.97", "--within", "10"), {"taveuni.jpg"}),
        (("--near", "90,0", "--within", "3000"), {"reykjavik.jpg"}),
        (("--place", "Austria"), {"vienna.jpg", "linz.jpg"}),
        (("--place", "upper austria"), {"linz.jpg"}),
        (("--place", "Linz, AT"), {"linz.jpg"}),
        (("--place", "Linz, Austria"), {"linz.jpg"}),
        (("--place", "reykjavik"), {"reykjavik.jpg"}),
        (("--place", "Austria", "--near", "48.2,16.37"), {"vienna.jpg"}),
    ],
)
def test_photos_are_filtered_by_place(
    run: Run, travels: Path, options: tuple[str, ...], expected: set[str]
) -> None:
    found = run("search", "a photo", "-f", "json", *options, cwd=travels)
    assert found.code == 0 and set(found.names) == expected


@needs_names
def test_names_of_places_are_words_and_are_shown(run: Run, travels: Path, tmp_path: Path) -> None:
    assert run("search", "Reykjavik", "-f", "json", cwd=travels).names[0] == "reykjavik.jpg"
    hit = run("search", "Reykjavik", "-f", "json", cwd=travels).json[0]
    assert (hit["city"], hit["country"], hit["place_source"]) == ("Reykjavík", "Iceland", "EXIF")
    explained = run("search", "Linz", "--explain", cwd=travels).out
    assert "Linz, Upper Austria, Austria (EXIF)" in explained
    assert "Iceland" in run("search", "Reykjavik", "-f", "csv", cwd=travels).out
    page = tmp_path / "page.html"
    run("search", "Reykjavik", "--gallery", page, cwd=travels)
    assert "Reykjavík" in page.read_text("utf-8")
    assert "known for 4 photos" in run("info", cwd=travels).out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--near", "95,0"), "latitude"),
        (("--near", "Xyzzyville"), "--near 48.2,16.37"),
        (("--near", "48.2,16.37", "--within", "0"), "kilometres"),
        (("--near", "48.2,16.37", "--within", "nan"), "kilometres"),
        (("--place", "Atlantis"), "GeoNames"),
        (("--place", " , "), "--place Austria"),
    ],
)
def test_a_place_that_is_none_is_told(
    run: Run, travels: Path, options: tuple[str, ...], message: str
) -> None:
    found = run("search", "a photo", *options, cwd=travels)
    assert found.code == 1 and message in found.messages


@needs_names
def test_the_place_beside_a_photo_comes_and_goes_with_the_file(few: Path) -> None:
    said = {"photoTakenTime": {"timestamp": "1249625104"},
            "geoData": {"latitude": VIENNA[0], "longitude": VIENNA[1]}}  # fmt: skip
    (few / "china.jpg.supplemental-metadata.json").write_text(json.dumps(said))
    retrieval.index(few, model="mini")
    with retrieval.open(few) as photos:
        (hit,) = photos.search("a photo", place="Vienna")
        assert (hit.path.name, hit.photo.place_source) == ("china.jpg", "Google Takeout")
        assert (hit.photo.taken, hit.photo.taken_offset) == ("2009-08-07T06:05:04", "+00:00")
        assert photos.search("a photo", near=VIENNA)[0].path.name == "china.jpg"
    retrieval.index(few, options=retrieval.Options(reread=True))
    with retrieval.open(few) as photos:
        assert [hit.path.name for hit in photos.search("a photo", place="Vienna")] == ["china.jpg"]
    (few / "china.jpg.supplemental-metadata.json").unlink()
    retrieval.index(few)
    with retrieval.open(few) as photos:
        assert photos.search("a photo", near=VIENNA) == []
        assert all(hit.photo.taken_source != "Google Takeout" for hit in photos.search("a photo"))


def test_what_a_copy_elsewhere_told_stays_when_one_folder_is_indexed(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (64, 64), "red").save(tmp_path / folder / "x.jpg")
    (tmp_path / "b" / "x.jpg.json").write_text('{"photoTakenTime": {"timestamp": "1249625104"}}')
    retrieval.index(tmp_path, model="mini")
    retrieval.index(tmp_path / "a", index=tmp_path)
    with retrieval.open(tmp_path) as photos:
        (hit,) = photos.search("a photo")
    assert hit.photo.taken == "2009-08-07T06:05:04"


def test_an_index_without_coordinates_reads_no_names(
    few: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never() -> None:
        raise AssertionError("names were read")

    monkeypatch.setattr("retrieval.photos.place_names._gazetteer", never)
    retrieval.index(few, model="mini")
    with retrieval.open(few) as photos:
        assert photos.search("a photo", near=(48.2, 16.37)) == []


def test_without_the_names_photos_are_indexed_and_a_note_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retrieval.photos.place_names.available", lambda: False)
    photo(tmp_path / "a.jpg", *VIENNA)
    report = retrieval.index(tmp_path, model="mini")
    assert report.encoded == 1
    assert any("pip install" in note for note in report.notes)
    with retrieval.open(tmp_path) as photos:
        assert len(photos.search("a photo", near=VIENNA)) == 1


def test_a_point_may_be_written_in_several_ways() -> None:
    for text in ("48.2,16.37", " 48.2, 16.37 ", "48.2;16.37", "48.2 16.37", "48.2° 16.37°"):
        assert point(text) == VIENNA
    assert math.isclose(point("-33.86,151.21")[0], -33.86)
