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
from retrieval.photos.decode import load_photo
from retrieval.photos.exif import PhotoFacts
from retrieval.photos.files import TOO_LARGE, reading
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


@pytest.mark.parametrize("format", ["ICO", "ICNS", "EPS", "PCX", "TGA", "SGI", "DDS"])
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


def test_metadata_behind_the_pixels_of_a_png_is_read() -> None:
    image = Image.new("RGB", (300, 200), "red")
    exif = Image.Exif()
    exif[0x010E] = "a red wall"
    file = io.BytesIO()
    image.save(file, "PNG", exif=exif)
    with open_image(chunk_at_the_end(file.getvalue(), b"eXIf")) as opened:
        assert embedded_texts(opened) == ["a red wall"]


def chunk_at_the_end(png: bytes, kind: bytes) -> io.BytesIO:
    """A PNG file with its chunk of this kind moved behind all others but the last."""
    at = png.index(kind) - 4
    chunk = png[at : at + 12 + int.from_bytes(png[at : at + 4])]
    rest = png.replace(chunk, b"")
    return io.BytesIO(rest[:-12] + chunk + rest[-12:])  # IEND has 12 bytes


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


def make_formats(folder: Path, original: Path) -> None:
    """The same photo in every format that is read, and in what Pillow has more checks for."""
    make_modes(folder, original)
    with Image.open(original) as opened:
        cat = opened.convert("RGB")
    cat.save(folder / "cat.dib")
    cat.save(folder / "phone.jpg", "MPO", save_all=True, append_images=[cat])
    cat.save(folder / "compressed.tiff", compression="tiff_lzw")
    frames = [cat.convert("P"), cat.rotate(90).convert("P")]
    for method in (2, 3):
        frames[0].save(
            folder / f"disposal{method}.gif",
            save_all=True,
            append_images=frames[1:],
            disposal=method,
            transparency=0,
        )
    gif = bytearray((folder / "palette.gif").read_bytes())
    gif[6:10] = bytes((1, 0, 1, 0))  # a screen of one pixel, less than the frame
    (folder / "beyond_the_screen.gif").write_bytes(gif)


@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("limit", [1000, 100_000])  # the photo is over twice the one: an error
def test_pillows_own_limit_on_pixels_is_not_asked(
    originals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    make_formats(tmp_path, originals / "chelsea.png")
    files = sorted(tmp_path.iterdir())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    for file in files:
        assert load_photo(file, 200).size == (451, 300), file.name
    assert limit == Image.MAX_IMAGE_PIXELS
    with pytest.raises((Image.DecompressionBombError, Image.DecompressionBombWarning)):
        Image.open(tmp_path / "cat.webp")  # for others, the limit holds as before


def test_a_limit_that_a_reader_asks_all_the_same_is_a_reason_to_try_again() -> None:
    for error in (Image.DecompressionBombError, Image.DecompressionBombWarning):
        with pytest.raises(PhotoError, match=f"^{TOO_LARGE}"), reading():
            raise error("Image size exceeds limit")


def test_a_gif_takes_no_memory_before_its_size_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow prepares what follows a frame when it opens the file: here, a gigabyte of pixels."""
    frames = [Image.new("P", (8, 8), number) for number in range(2)]
    frames[0].save(tmp_path / "bomb.gif", save_all=True, append_images=frames[1:], disposal=2)
    gif = (tmp_path / "bomb.gif").read_bytes()
    gif = gif.replace(b",\0\0\0\0" + bytes((8, 0, 8, 0)), b",\0\0\0\0" + b"\x30\x75" * 2, 1)
    (tmp_path / "bomb.gif").write_bytes(gif)
    filled: list[tuple[object, ...]] = []
    monkeypatch.setattr(Image.core, "fill", lambda *arguments: filled.append(arguments))
    with pytest.raises(PhotoError, match="too large: 30000 × 30000"):
        load_photo(tmp_path / "bomb.gif", 224, max_megapixels=100)
    assert filled == []


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
