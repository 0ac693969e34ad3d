"""Files that crash, flood or stop what reads them: each costs itself, and the run goes on."""

import errno
import io
import os
import shutil
import signal
import sqlite3
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

import retrieval
from indexes import regular_files
from indexes.regular_files import read_regular
from retrieval import memory
from retrieval.captions.formats import Problem, read_rows
from retrieval.captions.metadata import embedded_texts, texts_of
from retrieval.errors import PhotoError
from retrieval.output.text import _csv_cell
from retrieval.photos import decoder_processes, size
from retrieval.photos.decode import _on_white, load_photo
from retrieval.photos.decoder_processes import DecoderProcesses
from retrieval.photos.files import UNREADABLE, open_inside, open_regular, reading
from retrieval.photos.open_image import open_image
from retrieval.photos.xmp import read_xmp
from tests.conftest import Run, needs_extra, shared
from tests.test_bad_input import bomb_png, index_with, write_dng
from tests.test_captions import XMP, captions
from tests.test_index import present

# Decoders that crash ----------------------------------------------------------------------------


def test_damaged_heic_files_end_no_run(run: Run, few: Path) -> None:
    for path in shared("cases/heic").glob("*.heic"):
        shutil.copy(path, few)
    assert run("index", few, "--model", "mini").code == 0
    assert {"chelsea.png", "coffee.png", "rocket.jpg", "china.jpg"} <= present(few)
    assert run("index", few).out.count("added") == 0  # nothing is left to do


def die(file: io.BufferedReader, number: int) -> tuple[None, None]:
    """What a decoder does that crashes."""
    os.kill(os.getpid(), number)
    return None, None


def first_bytes(file: io.BufferedReader, count: int) -> tuple[Image.Image, str]:
    return Image.new("RGB", (3, 2), (1, 2, 3)), file.read(count).decode()


def sleep(file: io.BufferedReader) -> tuple[None, None]:
    time.sleep(60)
    return None, None


def test_a_crash_costs_one_file_and_one_process(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    with (tmp_path / "a").open("rb") as file, DecoderProcesses() as processes:
        assert file.read(2) == b"01"
        for _ in range(2):
            with pytest.raises(PhotoError, match="its decoder crashed"):
                processes.call(die, file, signal.SIGSEGV)
        with pytest.raises(PhotoError, match="too large for the memory"):  # killed by the system
            processes.call(die, file, signal.SIGKILL)
        file.seek(0)
        photo, value = processes.call(first_bytes, file, 4)
        assert value == "0123"
        assert photo is not None and photo.getpixel((2, 1)) == (1, 2, 3)
        assert file.read() == b"0123456789"  # the position is this process's own


def test_a_decoder_that_takes_too_long_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder_processes, "_TIMEOUT", 0.5)
    with DecoderProcesses() as processes:
        with pytest.raises(PhotoError, match="took longer"):
            processes.call(sleep, io.BytesIO(b"in memory"))
        monkeypatch.setattr(decoder_processes, "_TIMEOUT", 60.0)
        assert processes.call(first_bytes, io.BytesIO(b"in memory"), 2)[1] == "in"


def test_a_process_that_cannot_start_ends_the_run(
    few: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not about one file: no photo is recorded as bad for it."""
    with Image.open(few / "china.jpg") as image:
        image.save(few / "china.webp")
    monkeypatch.setattr(decoder_processes, "_CODE", "{path!r}; {socket}; raise SystemExit(3)")
    with pytest.raises(retrieval.RetrievalError, match="could not be started"):
        retrieval.index(few, model="mini")
    monkeypatch.undo()
    assert retrieval.index(few).skipped == 0


@pytest.mark.parametrize("format", ["webp", "tiff", "bmp", "gif", "avif"])
def test_other_formats_are_decoded_in_another_process(
    few: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    """The picture and its facts are those that this process reads."""
    with Image.open(few / "china.jpg") as image:
        image.save(few / f"china.{format}")
    there = load_photo(few / f"china.{format}", 100)
    calls: list[object] = []
    real = DecoderProcesses.call
    monkeypatch.setattr(
        DecoderProcesses, "call", lambda *args: (calls.append(args), real(*args))[1]
    )
    load_photo(few / f"china.{format}", 100)
    load_photo(few / "china.jpg", 100)
    assert len(calls) == 1
    monkeypatch.setattr("retrieval.photos.decode.can_start_processes", lambda: False)
    here = load_photo(few / f"china.{format}", 100)
    assert np.array_equal(np.asarray(here), np.asarray(there))


# Sizes first ------------------------------------------------------------------------------------


def test_a_large_png_is_not_decoded_for_its_metadata(
    run: Run, few: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (few / "bomb.png").write_bytes(bomb_png(5000, 5000))
    with (few / "bomb.png").open("rb") as file, open_image(file) as image:
        assert embedded_texts(image) == []
        assert image.tile  # its pixels are still to be decoded
    loaded: list[tuple[int, int]] = []
    real = PngImagePlugin.PngImageFile.load
    monkeypatch.setattr(
        PngImagePlugin.PngImageFile,
        "load",
        lambda self: (loaded.append(self.size), real(self))[1],
    )
    skipped = index_with(run, few, "--max-megapixels", 20)
    assert "5000 × 5000" in skipped["bomb.png"]
    assert (5000, 5000) not in loaded


def test_an_animated_png_takes_no_memory_before_its_size_is_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I4s", len(body), kind) + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    png = bomb_png(30_000, 30_000)
    frame = struct.pack(">IIIIIHHBB", 0, 30_000, 30_000, 0, 0, 1, 10, 1, 0)
    at = png.index(b"IDAT") - 4
    animated = (
        png[:at] + chunk(b"acTL", struct.pack(">II", 2, 0)) + chunk(b"fcTL", frame) + png[at:]
    )
    filled: list[object] = []
    monkeypatch.setattr(Image.core, "fill", lambda *arguments: filled.append(arguments))
    with open_image(io.BytesIO(animated)) as image:
        assert image.size == (30_000, 30_000)
    assert filled == []


def test_a_transparent_photo_is_put_on_white_in_strips() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (700, 30, 4), dtype=np.uint8)
    image = Image.fromarray(pixels)
    whole = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    assert np.array_equal(np.asarray(_on_white(image)), np.asarray(whole))


def test_a_sparse_file_is_not_read(run: Run, few: Path) -> None:
    for name in ("huge.webp", "huge.png"):
        shutil.copy(few / "chelsea.png", few / name)
        os.truncate(few / name, 5 << 30)
    with (few / "huge.png").open("rb") as file, pytest.raises(PhotoError, match="too large"):
        size.check_bytes(file, 20)


@needs_extra("raw", "rawpy")
def test_a_raw_file_is_measured_before_it_is_decoded(
    few: Path, originals: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import rawpy

    write_dng(few / "IMG_1.dng", originals / "china.jpg")
    with pytest.raises(PhotoError, match="too large: 320 × 240"):
        load_photo(few / "IMG_1.dng", 100, 0.05)
    os.truncate(few / "IMG_1.dng", (1 << 29) + 1)
    monkeypatch.setattr(rawpy, "imread", lambda *_: pytest.fail("read"))
    monkeypatch.setattr("retrieval.photos.decode.can_start_processes", lambda: False)
    with pytest.raises(PhotoError, match="too large"):
        load_photo(few / "IMG_1.dng", 100)


@pytest.mark.parametrize(
    ("version", "line"), [(2, "0::/service\n"), (1, "5:cpu:/x\n4:memory:/service\n")]
)
def test_a_container_s_limit_on_memory_is_respected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int, line: str
) -> None:
    group = tmp_path / ("" if version == 2 else "memory") / "service"
    group.mkdir(parents=True)
    limit, used, reclaimable = memory._FILES[version]
    (group / limit).write_text(f"{3 << 30}\n")
    (group / used).write_text(f"{2 << 30}\n")
    (group / "memory.stat").write_text(f"anon 1\n{reclaimable} {1 << 29}\n")
    (group.parent / limit).write_text("max\n")
    (tmp_path / "cgroup").write_text(line)
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path)
    monkeypatch.setattr(memory, "_OWN_CGROUPS", tmp_path / "cgroup")
    assert memory.available_memory() == (1 << 30) + (1 << 29)
    assert size.default_max_megapixels(8) == 20
    assert size.default_workers() == 1


# One odd file -----------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["rot13", "zip", "punycode", "idna", "undefined", "utf-7"])
def test_xmp_of_any_encoding_ends_no_run(few: Path, encoding: str) -> None:
    packet = f'<?xml version="1.0" encoding="{encoding}"?>' + XMP.format(text="a temple")
    (few / "china.xmp").write_text(packet)
    (few / "coffee.txt").write_text("a cup")
    report = retrieval.index(few, model="mini")
    assert captions(few).get("coffee.png") == ["a cup"]
    assert any("could not be read as captions" in note for note in report.notes)


NAMESPACES = 'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:dc="http://purl.org/dc/elements/1.1/"'


@pytest.mark.parametrize(
    "packet",
    [
        f"<x {NAMESPACES}>{'<dc:title>' * 9000}{'<rdf:li>a</rdf:li>' * 9000}"
        f"{'</dc:title>' * 9000}</x>",
        f"<x xmlns:a='{'u' * 300_000}'>" + "".join(f"<a:b{i}/>" for i in range(60_000)) + "</x>",
    ],
    ids=["nested titles", "long namespace"],
)  # fmt: skip
def test_xmp_takes_a_moment_or_is_given_up(packet: str) -> None:
    before = time.thread_time()
    try:
        assert texts_of(read_xmp(packet.encode())) == ["a"]
    except ValueError as error:
        assert "too complex" in str(error)
    assert time.thread_time() - before < 3


def test_a_csv_with_a_very_long_field_ends_no_run(few: Path) -> None:
    (few / "captions.csv").write_text(
        f'image,caption,"{"x" * 200_000}"\nchina.jpg,a,b\nchelsea.png,{"y" * 200_000},\n'
    )
    (few / "coffee.txt").write_text("a cup")
    report = retrieval.index(few, model="mini")
    assert captions(few) == {"china.jpg": ["a"], "coffee.png": ["a cup"]}
    assert any("a caption is longer than 10,000 characters" in note for note in report.notes)


def test_one_long_name_costs_no_other_caption(few: Path) -> None:
    (few / "captions.csv").write_text(f"image,caption\n{'x' * 300}.jpg,long\nchina.jpg,a temple\n")
    retrieval.index(few, model="mini")
    assert captions(few) == {"china.jpg": ["a temple"]}


def test_a_photo_dated_after_2262_is_indexed(few: Path) -> None:
    try:
        os.utime(few / "china.jpg", (10**10, 10**10))
    except OSError:
        pytest.skip("this file system stores no such date")
    if (few / "china.jpg").stat().st_mtime < 9.3e9:
        pytest.skip("this file system stores no such date")
    assert retrieval.index(few, model="mini").added == 4
    assert retrieval.index(few).unchanged == 4
    with retrieval.open(few) as photos:
        assert photos.status().changed == 0


def test_a_photo_whose_exif_cannot_be_rewritten_is_a_photo(few: Path) -> None:
    with Image.open(few / "china.jpg") as image:
        exif = image.getexif()
        exif[0x0112], exif[0x011A] = 6, 72.0
        data = bytearray(exif.tobytes())
        at = data.index(struct.pack(">HH", 0x011A, 5))
        data[at + 2 : at + 4] = struct.pack(">H", 7)  # a fraction, now of no known type
        size = image.size
        image.save(few / "china.jpg", exif=bytes(data))
    with Image.open(few / "china.jpg") as image, pytest.raises(TypeError):
        ImageOps.exif_transpose(image)
    assert load_photo(few / "china.jpg", 2000).size == size[::-1]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOVERFLOW])
def test_what_a_decoder_causes_is_not_tried_again(number: int) -> None:
    with pytest.raises(PhotoError) as raised, reading():
        raise OSError(number, os.strerror(number))
    assert not str(raised.value).startswith(UNREADABLE)


def test_a_file_edited_between_hash_and_decode_is_read_again(
    few: Path, originals: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from retrieval.indexing import encode

    real: Callable[..., str] = encode.content_hash
    edits = 0

    def edit_after_hash(file: io.BufferedReader) -> str:
        nonlocal edits
        digest = real(file)
        if os.path.samestat(os.fstat(file.fileno()), (few / "china.jpg").stat()) and not edits:
            edits += 1
            (few / "china.jpg").write_bytes((originals / "horse.png").read_bytes())
        return digest

    monkeypatch.setattr(encode, "content_hash", edit_after_hash)
    assert retrieval.index(few, model="mini").added == 4
    with retrieval.open(few) as photos, (few / "china.jpg").open("rb") as now:
        (hit,) = [hit for hit in photos.search("a horse") if hit.path.name == "china.jpg"]
        assert hit.photo.hash == real(now)
        assert hit.photo.format == "PNG"
    assert edits == 1


# Links and pipes --------------------------------------------------------------------------------


def test_lists_of_splits_are_regular_files(few: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("china.jpg\n")
    (few / "x.trainImages.txt").symlink_to(tmp_path / "secret.txt")
    os.mkfifo(few / "x.testImages.txt")
    (few / "x.devImages.txt").write_text("china.jpg\n")
    (few / "captions.csv").write_text("image,caption\nchina.jpg,a temple\n")
    rows = list(read_rows(few / "captions.csv"))
    problems = [row for row in rows if isinstance(row, Problem)]
    assert len(problems) == 2
    assert [row.split for row in rows if not isinstance(row, Problem)] == ["val"]


def test_a_pipe_is_not_waited_for(few: Path) -> None:
    os.mkfifo(few / "pipe.jpg")
    with pytest.raises(PhotoError, match="not a regular file"):
        open_inside(few, "pipe.jpg")
    (few / "link.jpg").symlink_to("china.jpg")
    with pytest.raises(PhotoError, match="link"):
        open_regular(few / "link.jpg")


# Output -----------------------------------------------------------------------------------------


def test_csv_has_no_formulas_and_no_control_characters() -> None:
    assert _csv_cell("=cmd|' /C calc'!A0") == "'=cmd|' /C calc'!A0"
    assert _csv_cell("-2+3") == "'-2+3" and _csv_cell("@x") == "'@x"
    assert (
        _csv_cell("/a/\x1b[2Jcat\n.png")
        == "/a/\N{REPLACEMENT CHARACTER}[2Jcat\N{REPLACEMENT CHARACTER}.png"
    )
    assert _csv_cell("/caf\udce9.png") == "/caf\udce9.png"
    assert _csv_cell(-33.8) == -33.8 and _csv_cell(None) is None


def test_a_name_that_looks_like_an_option_is_explained(run: Run, few: Path) -> None:
    (few / "china.jpg").rename(few / "-rf.jpg")
    assert run("index", ".", "--model", "mini", cwd=few).code == 0
    result = run("similar", "-rf.jpg", cwd=few)
    assert result.code == 2
    assert "write ./-rf.jpg" in " ".join(result.messages.split())
    assert run("similar", "./-rf.jpg", "-f", "json", cwd=few).code == 0
    assert " ./-rf.jpg" in run("search", "a temple", cwd=few).out


def test_a_folder_of_an_index_that_becomes_a_link_is_not_followed(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is replaced between the look at a file and its opening."""
    index, other = photos / ".retrieval", tmp_path / "other"
    other.mkdir()
    (other / "holder.json").write_text("elsewhere")
    (index / "holder.json").write_text("here")
    assert read_regular(index / "holder.json", 99) == b"here"
    real = regular_files.is_regular

    def swap(path: Path) -> bool:
        found = real(path)
        index.rename(tmp_path / "moved")
        index.symlink_to(other)
        return found

    monkeypatch.setattr(regular_files, "is_regular", swap)
    with pytest.raises(OSError, match=r"Not a directory|symbolic links"):
        read_regular(index / "holder.json", 99)


def test_an_index_that_becomes_a_link_while_it_is_opened_is_refused(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, real = photos / ".retrieval", sqlite3.connect

    def swap(*arguments: object, **options: object) -> sqlite3.Connection:
        index.rename(tmp_path / "moved")
        index.symlink_to(tmp_path / "moved")
        return real(*arguments, **options)  # type: ignore[call-overload]

    monkeypatch.setattr("indexes.database.sqlite3.connect", swap)
    with pytest.raises(retrieval.StorageError, match="is a link"):
        retrieval.open(photos)
