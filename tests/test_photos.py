"""Photo files: which formats are opened, how often, and what the process around is spared."""

import io
import os
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

import retrieval
from retrieval.captions.metadata import embedded_texts
from retrieval.errors import PhotoError
from retrieval.photos.exif import PhotoFacts
from retrieval.photos.look_ahead import look_ahead
from retrieval.photos.open_image import open_image
from tests.test_bad_input import make_modes

# Opening -----------------------------------------------------------------------------------------


def test_the_format_is_told_from_the_content_not_the_name(originals: Path, tmp_path: Path) -> None:
    make_modes(tmp_path, originals / "chelsea.png")
    with Image.open(originals / "chelsea.png") as cat:
        cat.save(tmp_path / "cat.dib")
        size = cat.size
    expected = {
        ".jpg": "JPEG", ".png": "PNG", ".tiff": "TIFF", ".gif": "GIF", ".bmp": "BMP",
        ".dib": "DIB", ".webp": "WEBP", ".avif": "AVIF", ".heic": "HEIF",
    }  # fmt: skip
    seen = set()
    for path in tmp_path.iterdir():
        with path.open("rb") as file, open_image(file) as image:
            real = "PNG" if path.name == "mislabelled.jpg" else expected[path.suffix]
            assert (image.format, image.size) == (real, size), path.name
            seen.add(image.format)
    assert seen == set(expected.values())


def test_a_jpeg_of_two_pictures_is_read_as_its_first(tmp_path: Path) -> None:
    """Phones store a second picture (depth, a preview) in the same file: MPO."""
    red, blue = (Image.new("RGB", (640, 480), color) for color in ("red", "blue"))
    red.save(tmp_path / "phone.jpg", "MPO", save_all=True, append_images=[blue])
    assert retrieval.index(tmp_path, model="mini").encoded == 1
    with (tmp_path / "phone.jpg").open("rb") as file, open_image(file) as image:
        assert image.format == "MPO"
        assert np.abs(np.asarray(image.convert("RGB"), int) - (254, 0, 0)).max() <= 2


@pytest.mark.parametrize("format", ["ICO", "ICNS", "EPS", "PCX", "PPM", "TGA", "SGI"])
def test_other_formats_of_pillow_are_not_opened(format: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(file, format)
    with pytest.raises(UnidentifiedImageError):
        open_image(file)


def test_an_empty_file_is_called_empty() -> None:
    with pytest.raises(PhotoError, match="empty"):
        open_image(io.BytesIO())


def test_a_photo_is_opened_once(few: Path) -> None:
    """Hash, metadata and pixels come from the same open file."""
    opened: list[str] = []
    watching = True

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if watching and event == "open" and str(arguments[0]).endswith((".png", ".jpg")):
            opened.append(Path(str(arguments[0])).name)

    sys.addaudithook(watch)  # cannot be removed again
    try:
        assert retrieval.index(few, model="mini").encoded == 4
    finally:
        watching = False
    assert sorted(opened) == ["chelsea.png", "china.jpg", "coffee.png", "rocket.jpg"]


def test_metadata_behind_the_pixels_of_a_png_is_read(tmp_path: Path) -> None:
    image = Image.new("RGB", (300, 200), "red")
    exif = Image.Exif()
    exif[0x010E] = "a red wall"
    file = io.BytesIO()
    image.save(file, "PNG", exif=exif)
    with open_image(file) as opened:
        assert embedded_texts(opened) == ["a red wall"]


# The process around ------------------------------------------------------------------------------

UNCHANGED = """
import os, sys, warnings
import threadpoolctl, numpy, PIL.Image  # what they do when imported is theirs
PIL.Image.init()

def state():
    return (
        PIL.Image.MAX_IMAGE_PIXELS, list(warnings.filters), dict(os.environ),
        sorted(PIL.Image.OPEN), list(PIL.Image.ID), dict(PIL.Image.EXTENSION),
    )

before = state()
assert "HEIF" not in PIL.Image.OPEN
import retrieval
for name in retrieval.__all__:
    getattr(retrieval, name)
assert state() == before, "import retrieval"
report = retrieval.index(sys.argv[1], model="mini")
assert report.encoded == 4, report
assert state() == before, "retrieval.index"
"""


def test_importing_and_indexing_change_nothing_in_the_process(few: Path) -> None:
    """A program that uses this package keeps its settings of Pillow, warnings and environment."""
    done = subprocess.run(
        [sys.executable, "-c", UNCHANGED, str(few)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_pillows_own_limit_on_pixels_is_not_asked(
    few: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert retrieval.index(few, model="mini").encoded == 4


def test_facts_of_a_photo_cannot_be_changed() -> None:
    facts = PhotoFacts(640, 480, "JPEG")
    with pytest.raises(AttributeError):
        facts.width = 1  # type: ignore[misc]


# Looking ahead -----------------------------------------------------------------------------------


def test_results_come_in_order_and_the_window_bounds_what_is_begun() -> None:
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        time.sleep(0.001 * (item % 3))
        return item * item

    taken = 0
    for result in look_ahead(work, range(50), workers=4, window=6):
        assert result == taken * taken
        assert len(begun) <= taken + 6
        taken += 1
    assert taken == 50


def test_an_error_is_raised_when_its_turn_comes() -> None:
    def work(item: int) -> int:
        if item == 3:
            raise OSError("bad")
        return item

    results = look_ahead(work, range(10), workers=2, window=8)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="bad"):
        next(results)


def test_stopping_early_cancels_the_rest_and_ends_the_threads() -> None:
    before = threading.active_count()
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        time.sleep(0.01)
        return item

    with closing(look_ahead(work, range(1000), workers=2, window=100)) as results:
        assert next(results) == 0
    assert threading.active_count() == before
    assert len(begun) < 20


def test_a_window_may_grow_while_it_is_used() -> None:
    window = 1
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        return item

    results = look_ahead(work, range(20), workers=1, window=lambda: window)
    assert next(results) == 0
    assert len(begun) == 1
    window = 8
    assert next(results) == 1
    while len(begun) < 9:
        time.sleep(0.001)
    assert list(results) == list(range(2, 20))


def test_no_more_photos_are_prepared_than_batches_need(
    originals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading waits for the encoder: memory does not grow with the number of photos."""
    from retrieval.encoders.mini.encoder import MiniEncoder

    size, count, committed, most = 4, 80, 0, 0
    for number in range(count):
        Image.new("RGB", (16, 16), (number, 0, 0)).save(tmp_path / f"{number:02}.png")
    prepared: list[None] = []
    prepare, encode = MiniEncoder.prepare, MiniEncoder.encode_images

    def counting(self, photo):
        nonlocal most
        prepared.append(None)
        most = max(most, len(prepared) - committed)
        return prepare(self, photo)

    def slowly(self, batch):
        time.sleep(0.1)  # all photos could be read meanwhile
        assert len(batch) <= size
        return encode(self, batch)

    def look(progress: retrieval.Progress) -> None:
        nonlocal committed
        committed = progress.done

    monkeypatch.setattr(MiniEncoder, "prepare", counting)
    monkeypatch.setattr(MiniEncoder, "encode_images", slowly)
    options = retrieval.Options(batch_size=size, workers=os.cpu_count())
    assert retrieval.index(tmp_path, model="mini", options=options, progress=look).encoded == count
    # Two batches read ahead, one being put together, two at the encoder, one being committed.
    assert most <= 6 * size
