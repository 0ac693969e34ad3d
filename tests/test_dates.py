"""When a photo was taken: the right wall time, its offset and source, however they are written."""

from pathlib import Path

import pytest
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

import retrieval
from retrieval.photos.dates import FoundDate, date_in_name, first_valid
from retrieval.photos.exif import PhotoFacts, read_facts
from retrieval.photos.open_image import open_image
from tests.conftest import Run, shared

ORIGINAL, DIGITIZED, MODIFIED = 0x9003, 0x9004, 0x0132
OFFSET_ORIGINAL, OFFSET = 0x9011, 0x9010
WHEN = "2009-08-07T06:05:04"


def facts_of(path: Path) -> PhotoFacts:
    with path.open("rb") as file, open_image(file) as image:
        return read_facts(image)


def photo(path: Path, details: dict[int, object], top: dict[int, object] | None = None) -> Path:
    """A photo with these EXIF tags."""
    exif = Image.Exif()
    exif.update(top or {})
    exif.get_ifd(0x8769).update(details)
    Image.new("RGB", (64, 64), "navy").save(path, exif=exif)
    return path


# A line of EXPECTED.md each -----------------------------------------------------------------------

EXPECTED = {
    "b-zero-original-good-digitized.jpg": (WHEN, None, "EXIF DateTimeDigitized"),
    "c-zero-original-good-datetime.jpg": (WHEN, None, "EXIF DateTime"),
    "e-empty-original-good-datetime.jpg": (WHEN, None, "EXIF DateTime"),
    "f-all-zero.jpg": (None, None, None),
    "g-date-only.jpg": ("2009-08-07", None, "EXIF DateTimeOriginal"),
    "h-no-seconds.jpg": ("2009-08-07T06:05", None, "EXIF DateTimeOriginal"),
    "j-iso-T-zone.jpg": (WHEN, "+02:00", "EXIF DateTimeOriginal"),
    "l-hour24.jpg": ("2009-08-08T00:00:00", None, "EXIF DateTimeOriginal"),
    "o-zone-suffix.jpg": (WHEN, "+02:00", "EXIF DateTimeOriginal"),
    "p-month00.jpg": (None, None, None),
    "q-1904-epoch.jpg": (WHEN, None, "EXIF DateTimeDigitized"),
    "r-1970.jpg": (WHEN, None, "EXIF DateTimeDigitized"),
    "s-xmp-only.jpg": (WHEN, None, "XMP exif:DateTimeOriginal"),
    "t-iptc-only.jpg": (WHEN, "+00:00", "IPTC DateCreated"),
    "u-gps-date-only.jpg": (WHEN, "+00:00", "GPS"),
    "w-year-9999.jpg": (WHEN, None, "EXIF DateTimeDigitized"),
}


def test_every_photo_of_the_cases_has_the_expected_date(tmp_path: Path) -> None:
    wrong = {}
    for path in sorted(shared("cases/dates").iterdir()):
        if path.name.startswith("IMG"):
            continue  # by their names: below
        expected = EXPECTED.get(path.name, (WHEN, None, "EXIF DateTimeOriginal"))
        facts = facts_of(path)
        if (found := (facts.taken, facts.taken_offset, facts.taken_source)) != expected:
            wrong[path.name] = found
    assert wrong == {}


# How dates are written ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "time", "offset"),
    [
        ("2009:08:07 06:05:04", WHEN, None),
        ("2009/08/07 06:05:04", WHEN, None),
        ("2009.08.07 06.05.04", WHEN, None),
        ("2009:8:7 6:5:4", WHEN, None),
        ("20090807T060504Z", WHEN, "+00:00"),
        ("20090807060504", WHEN, None),
        ("2009:08:07 06:05:04.123+0200", WHEN, "+02:00"),
        ("2009:08:07 06:05:04 UTC", WHEN, "+00:00"),
        ("2009:08:07 06:05:04 -05:30", WHEN, "-05:30"),
        ("2009:08:07 06:05:04+99:00", WHEN, None),
        ("2009:08:07 06:05:04 PM", "2009-08-07T18:05:04", None),
        ("2009:08:07 12:05:04 AM", "2009-08-07T00:05:04", None),
        ("2009:08:07 06:05:60", "2009-08-07T06:06:00", None),
        ("2009:12:31 24:00:00", "2010-01-01T00:00:00", None),
        ("2009:08:07 24:30:00", "2009-08-07", None),
        ("2009:08:07   :  :  ", "2009-08-07", None),
        ("2009:08:07 99:99:99", "2009-08-07", None),
        ("2009:08:07 06:05:04\0\0\0garbage", WHEN, None),
        (" 2009:08:07 06:05:04 ", WHEN, None),
        (b"2009:08:07 06:05:04\0", WHEN, None),
    ],
)
def test_a_date_is_read_however_it_is_written(text: object, time: str, offset: str | None) -> None:
    taken = first_valid([FoundDate("here", text)])
    assert taken is not None and (taken.time, taken.offset) == (time, offset)


@pytest.mark.parametrize(
    "text",
    [
        None, 7, "", "    :  :     :  :  ", "0000:00:00 00:00:00", "2009:00:07 06:05:04",
        "2009:13:07 06:05:04", "2009:02:30 06:05:04", "9999:12:31 23:59:59", "1904:01:01 00:00:00",
        "1970:01:01 00:00:00", "1970:01:01 01:00:00", "1969:12:31 16:00:00", "1980:01:01 00:00:00",
        "1970:01:01", "yesterday", "\0\0\0", "07/08/2009 06:05",
    ],
)  # fmt: skip
def test_what_is_no_date_is_none(text: object) -> None:
    assert first_valid([FoundDate("here", text)]) is None
    found = first_valid([FoundDate("here", text), FoundDate("there", "2009:08:07")])
    assert found is not None and found.source == "there"


def test_a_real_moment_of_1970_stays() -> None:
    taken = first_valid([FoundDate("here", "1970:01:01 11:34:12")])
    assert taken is not None and taken.time == "1970-01-01T11:34:12"


@pytest.mark.parametrize(
    ("name", "time"),
    [
        ("IMG_20090807_060504.jpg", WHEN),
        ("IMG-20090807-WA0003.jpg", "2009-08-07"),
        ("Screenshot 2009-08-07 at 06.05.04.png", WHEN),
        ("Screenshot 2009-08-07 at 6.05.04\u202fPM.png", "2009-08-07T18:05:04"),
        ("Screenshot_20090807-060504_Chrome.png", WHEN),
        ("Bildschirmfoto 2009-08-07 um 06.05.04.png", WHEN),
        ("スクリーンショット 2009-08-07 6.05.04.png", WHEN),
        ("WhatsApp Image 2009-08-07 at 06.05.04 (1).jpeg", WHEN),
        ("WhatsApp Image 2009-08-07 at 6.05.04 AM.jpeg", WHEN),
        ("PXL_20090807_060504123.jpg", WHEN),
        ("photo_2009-08-07_06-05-04.jpg", WHEN),
        ("signal-2009-08-07-060504.jpg", WHEN),
        ("2009-08-07 06.05.jpg", "2009-08-07T06:05"),
        ("00001IMG_00001_BURST20090807060504123_COVER.jpg", WHEN),
        ("20090807.jpg", "2009-08-07"),
        ("FB_IMG_1249625104123.jpg", WHEN),
        ("20090807-1234567.jpg", "2009-08-07"),
    ],
)
def test_the_date_in_a_name_is_read(name: str, time: str) -> None:
    found = date_in_name(name)
    assert found is not None
    taken = first_valid([found])
    assert taken is not None and (taken.time, taken.source) == (time, "file name")


@pytest.mark.parametrize(
    "name",
    ["DSC_20121345.jpg", "DSC01234.jpg", "201008071.jpg", "12345678901234.jpg", "2009-0807.jpg",
     "5f2009080712345abc.jpg", "19991399.jpg", "photo.jpg"],
)  # fmt: skip
def test_numbers_in_names_are_not_taken_for_dates(name: str) -> None:
    assert date_in_name(name) is None


# Sources and offsets ------------------------------------------------------------------------------


def test_an_offset_in_its_own_tag_belongs_to_its_date(tmp_path: Path) -> None:
    tags = {ORIGINAL: "2009:08:07 06:05:04", OFFSET_ORIGINAL: "+09:00", OFFSET: "-01:00"}
    facts = facts_of(photo(tmp_path / "a.jpg", tags))
    assert (facts.taken, facts.taken_offset) == (WHEN, "+09:00")
    tags = {OFFSET_ORIGINAL: "+09:00", OFFSET: "-01:00"}
    facts = facts_of(photo(tmp_path / "b.jpg", tags, {MODIFIED: "2009:08:07 06:05:04"}))
    assert (facts.taken_offset, facts.taken_source) == ("-01:00", "EXIF DateTime")


def test_the_satellites_give_the_day_where_they_give_no_time(tmp_path: Path) -> None:
    for name, time, expected in (
        ("a.jpg", (IFDRational(6), IFDRational(5), IFDRational(4)), (WHEN, "+00:00")),
        ("b.jpg", (IFDRational(0, 0), IFDRational(5), IFDRational(4)), ("2009-08-07", None)),
        ("c.jpg", None, ("2009-08-07", None)),
    ):
        exif = Image.Exif()
        exif.get_ifd(0x8825).update({29: "2009:08:07", **({7: time} if time else {})})
        Image.new("RGB", (64, 64)).save(tmp_path / name, exif=exif)
        facts = facts_of(tmp_path / name)
        assert (facts.taken, facts.taken_offset) == expected


def test_a_photo_without_a_date_has_that_of_its_name_else_of_what_lies_beside_it(
    tmp_path: Path,
) -> None:
    sidecar = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
        'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
        'xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:CreateDate="2001-02-03T04:05:06+01:00"/>'
        "</rdf:RDF></x:xmpmeta>"
    )
    for place, name in enumerate(("IMG_20090807_060504", "plain", "own")):
        details = {ORIGINAL: "1999:01:02 03:04:05"} if name == "own" else {}
        exif = Image.Exif()
        exif.get_ifd(0x8769).update(details)
        image = Image.new("RGB", (64, 64), (place * 60, 0, 0))
        image.save(tmp_path / f"{name}.jpg", exif=exif)
        (tmp_path / f"{name}.xmp").write_text(sidecar)

    def known() -> dict[str, tuple[str | None, str | None, str | None]]:
        with retrieval.open(tmp_path) as photos:
            return {
                hit.path.stem: (hit.photo.taken, hit.photo.taken_offset, hit.photo.taken_source)
                for hit in photos.search("a photo")
            }

    retrieval.index(tmp_path, model="mini")
    own = ("1999-01-02T03:04:05", None, "EXIF DateTimeOriginal")
    by_name = (WHEN, None, "file name")
    assert known() == {
        "own": own,
        "IMG_20090807_060504": by_name,
        "plain": ("2001-02-03T04:05:06", "+01:00", "XMP sidecar"),
    }
    (tmp_path / "plain.xmp").unlink()
    assert retrieval.index(tmp_path).encoded == 0
    assert known() == {"own": own, "IMG_20090807_060504": by_name, "plain": (None, None, None)}
    (tmp_path / "IMG_20090807_060504.jpg").rename(tmp_path / "now.jpg")
    retrieval.index(tmp_path)
    assert known()["now"] == (None, None, None)


# Filters and what is shown ------------------------------------------------------------------------


def test_days_and_minutes_are_filtered_by_local_time(run: Run, tmp_path: Path) -> None:
    for name, time in (
        ("day.jpg", "2009:08:07"),
        ("minute.jpg", "2009:08:07 06:05"),
        ("zone.jpg", "2009:08:07 23:30:00-08:00"),
        ("next.jpg", "2009:08:08 00:00:00"),
    ):
        photo(tmp_path / name, {ORIGINAL: time}, {0x010F: name})
    run("index", tmp_path, "--model", "mini")

    def between(after: str, before: str) -> set[str]:
        options = ("--after", after, "--before", before, "-f", "json")
        return set(run("search", "a photo", *options, cwd=tmp_path).names)

    assert between("2009-08-07", "2009-08-08") == {"day.jpg", "minute.jpg", "zone.jpg"}
    assert between("2009-08-08", "2009-08-09") == {"next.jpg"}
    assert between("2009-08-07T06:05", "2009-08-07T06:06") == {"minute.jpg"}


def test_the_source_of_a_date_is_shown(run: Run, tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg", {ORIGINAL: "2009-08-07T06:05:04+02:00"})
    run("index", tmp_path, "--model", "mini")
    (hit,) = run("search", "a photo", "-f", "json", cwd=tmp_path).json
    assert hit["taken"] == WHEN
    assert hit["taken_offset"] == "+02:00"
    assert hit["taken_source"] == "EXIF DateTimeOriginal"
    assert "+02:00" in run("search", "a photo", "-f", "csv", cwd=tmp_path).out
    shown = run("search", "a photo", "--explain", cwd=tmp_path).out
    assert "2009-08-07 06:05:04 +02:00 (EXIF DateTimeOriginal)" in shown
    assert "1 by EXIF DateTimeOriginal" in run("info", cwd=tmp_path).out
    assert run("info", "--json", cwd=tmp_path).json["dates"] == {"EXIF DateTimeOriginal": 1}
