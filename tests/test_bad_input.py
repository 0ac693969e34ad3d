"""Files that are no good photos: each is recorded with its reason, and the run goes on."""

import os
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import retrieval
from retrieval.photos.decode import load_photo
from tests.conftest import Run, needs_extra, shared
from tests.test_index import present


def index_with(run: Run, folder: Path, *options: object) -> dict[str, str]:
    """Index a folder; the skipped files by name with their reasons."""
    result = run("index", folder, "--model", "mini", *options)
    assert result.code == 0, result.messages
    with retrieval.open(folder) as opened:
        return {path.name: reason for path, reason in opened.status().reasons}


def bomb_png(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it has width × height pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


def cut(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes()[:3000])


BAD: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "empty.jpg": (lambda f, _: f.write_bytes(b""), "empty"),
    "cut.jpg": (lambda f, o: cut(o / "china.jpg", f), "truncated"),
    "cut.png": (lambda f, o: cut(o / "coffee.png", f), "truncated"),
    "letter.jpg": (lambda f, _: f.write_text("Dear reader"), "not a photo that can be read"),
    "secret.jpg": (lambda f, _: f.write_bytes(os.urandom(5000)), "not a photo that can be read"),
    "zeros.png": (lambda f, _: f.write_bytes(bytes(5000)), "not a photo that can be read"),
    "bomb.png": (
        lambda f, _: f.write_bytes(bomb_png(100_000, 100_000)),
        "too large: 100000 × 100000",
    ),
    "nothing.heic": (
        lambda f, _: f.write_bytes(b"\0\0\0\x18ftypheic" + bytes(99)),
        "not a photo that can be read",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_recorded_and_the_run_goes_on(
    run: Run, few: Path, originals: Path, name: str
) -> None:
    make, reason = BAD[name]
    make(few / name, originals)
    skipped = index_with(run, few)
    assert list(skipped) == [name]
    assert reason in skipped[name]
    assert present(few) == {"chelsea.png", "coffee.png", "rocket.jpg", "china.jpg"}


def test_a_bad_file_is_tried_again_only_when_it_changed(
    run: Run, few: Path, originals: Path, monkeypatch
) -> None:
    (few / "later.png").write_bytes(b"no photo yet")
    index_with(run, few)
    from retrieval.indexing import encode

    opened: list[str] = []
    real = encode.open_inside
    monkeypatch.setattr(
        encode, "open_inside", lambda root, path: (opened.append(path), real(root, path))[1]
    )
    assert run("index", few).out.startswith("4 unchanged, 1 skipped")
    assert opened == []
    shutil.copy(originals / "horse.png", few / "later.png")
    assert run("index", few).out.startswith("1 added, 4 unchanged")
    assert opened == ["later.png"]
    assert "later.png" in present(few)


def make_modes(folder: Path, original: Path) -> list[str]:
    """The same picture of a cat in every odd way of storing one."""
    with Image.open(original) as opened:
        cat = opened.convert("RGB")
    grey16 = Image.fromarray(np.asarray(cat.convert("L")).astype(np.uint16) * 257)
    clear = cat.convert("RGBA")
    clear.putalpha(255)
    versions = {
        "cmyk.jpg": cat.convert("CMYK"),
        "grey.jpg": cat.convert("L"),
        "grey16.png": grey16,
        "grey16.tiff": grey16,
        "float.tiff": Image.fromarray(np.asarray(cat.convert("L")).astype(np.float32) / 255),
        "palette.png": cat.convert("P"),
        "palette.gif": cat.convert("P"),
        "alpha.png": clear,
        "mislabelled.jpg": None,
        "cat.bmp": cat,
        "cat.webp": cat,
        "cat.avif": cat,
    }
    for name, image in versions.items():
        if image is None:
            cat.save(folder / name, "PNG")
        else:
            image.save(folder / name)
    cat.save(
        folder / "animated.gif", save_all=True, append_images=[Image.new("RGB", cat.size, "red")]
    )
    import pillow_heif

    pillow_heif.from_pillow(cat).save(folder / "cat.heic")
    return [*versions, "animated.gif", "cat.heic"]


def test_every_mode_and_format_shows_the_same_cat(
    run: Run, originals: Path, tmp_path: Path
) -> None:
    """CMYK, grey, 16-bit, float, palette, alpha, animated, mislabelled: embeddings stay close."""
    folder = tmp_path / "modes"
    folder.mkdir()
    names = make_modes(folder, originals / "chelsea.png")
    assert index_with(run, folder) == {}
    with retrieval.open(folder) as opened:
        hits = {h.path.name: h.score for h in opened.similar(originals / "chelsea.png", k=50)}
    assert set(hits) == set(names)
    assert min(hits.values()) > 0.8, hits
    same = ("cat.bmp", "cat.webp", "cat.heic", "cat.avif", "alpha.png", "mislabelled.jpg")
    assert min(hits[name] for name in same) > 0.9, hits


def test_a_photo_of_one_pixel_is_a_photo(run: Run, few: Path) -> None:
    Image.new("RGB", (1, 1), "red").save(few / "dot.png")
    assert index_with(run, few) == {}
    assert "dot.png" in present(few)


def test_a_phone_photo_is_turned_upright(few: Path) -> None:
    with Image.open(few / "china.jpg") as image:
        exif = image.getexif()
        exif[0x0112] = 6
        image.rotate(90, expand=True).save(few / "turned.jpg", exif=exif, quality=95)
        upright = np.asarray(image.convert("RGB").resize((64, 64)), np.float32)
    turned = np.asarray(load_photo(few / "turned.jpg", 100).resize((64, 64)), np.float32)
    assert np.abs(turned - upright).mean() < 5


def test_what_a_camera_wrote_is_read(run: Run, few: Path) -> None:
    with Image.open(few / "china.jpg") as image:
        exif = image.getexif()
        exif[0x0112] = 6
        exif[271], exif[272] = "Canon", "Canon EOS 5D\0"
        exif.get_ifd(0x8769)[36867] = "2019:07:14 18:30:05"
        exif.get_ifd(0x8825).update({1: "S", 2: (33.0, 51.0, 35.9), 3: "E", 4: (151.0, 12.0, 40.0)})
        image.save(few / "china.jpg", exif=exif)
        size = image.size
    index_with(run, few)
    (hit,) = run("search", "a temple", "--in", "china.jpg", "-f", "json", cwd=few).json
    assert (hit["width"], hit["height"]) == size[::-1]
    assert hit["taken"] == "2019-07-14T18:30:05"
    assert hit["camera"] == "Canon EOS 5D"
    assert (hit["latitude"], hit["longitude"]) == (-33.859972, 151.211111)


def test_nonsense_in_exif_does_no_harm(run: Run, few: Path) -> None:
    with Image.open(few / "china.jpg") as image:
        exif = image.getexif()
        exif[271], exif[306] = "\x1b[31mEvil", "not a date"
        exif.get_ifd(0x8825).update({1: "N", 2: (999.0, 0.0, 0.0), 3: "E", 4: (1.0, 2.0, 3.0)})
        image.save(few / "china.jpg", exif=exif)
    assert index_with(run, few) == {}
    (hit,) = run("search", "a temple", "--in", "china.jpg", "-f", "json", cwd=few).json
    assert hit["taken"] is None and hit["latitude"] is None
    assert "\x1b" not in hit["camera"]


def test_a_larger_limit_lets_a_large_photo_in(run: Run, few: Path) -> None:
    skipped = index_with(run, few, "--max-megapixels", 0.2)
    assert "over the limit of 0.2 megapixels" in skipped["china.jpg"]
    assert "--max-megapixels" in skipped["china.jpg"]
    assert run("index", few).code == 0
    assert index_with(run, few, "--max-megapixels", 50) == {}
    assert len(present(few)) == 4


def test_links_are_not_followed_and_loops_end(run: Run, few: Path, originals: Path) -> None:
    (few / "loop").symlink_to(few)
    (few / "outside.png").symlink_to(originals / "horse.png")
    result = run("index", few, "--model", "mini")
    assert result.out.startswith("4 added")
    assert "2 symbolic link(s) were not followed" in result.out
    assert len(present(few)) == 4


def test_a_folder_replaced_by_a_link_is_not_read_through(few: Path, originals: Path) -> None:
    from retrieval.errors import PhotoError
    from retrieval.photos.files import open_inside

    (few / "sub").symlink_to(originals)
    with pytest.raises(PhotoError, match="outside the indexed folder"):
        open_inside(few, "sub/horse.png")


def test_a_photo_replaced_by_a_link_to_the_outside_is_not_shown(
    run: Run, photos: Path, originals: Path
) -> None:
    (photos / "chelsea.png").unlink()
    (photos / "chelsea.png").symlink_to(originals / "chelsea.png")
    assert "chelsea.png" not in run("search", "a cat", "-k", 30, "-f", "json", cwd=photos).names


def test_names_that_are_not_utf8_work_everywhere(run: Run, few: Path) -> None:
    strange = os.fsdecode(b"caf\xe9 \xff.png")
    folder = few / os.fsdecode(b"d\xe9j\xe0")
    folder.mkdir()
    (few / "chelsea.png").rename(folder / strange)
    (few / "rocket.jpg").write_bytes(b"broken")
    (few / "rocket.jpg").rename(few / os.fsdecode(b"br\xf6ken.jpg"))
    assert index_with(run, few)
    assert run("index", few).out.startswith("3 unchanged, 1 skipped")
    table = run("search", "a cat", "-k", 1, cwd=few)
    assert "\N{REPLACEMENT CHARACTER}" in table.out
    raw = run("search", "a cat", "-k", 1, "-0", cwd=few).raw
    assert Path(os.fsdecode(raw.rstrip(b"\0"))).is_file()
    hit = run("search", "a cat", "-k", 1, "-f", "json", cwd=few).json[0]
    assert Path(hit["path"]).is_file()
    inside = run("search", "a cat", "--in", folder, "-f", "json", cwd=few).json
    assert len(inside) == 1
    assert run("search", "a cat", "-f", "csv", "--gallery", few / "g.html", cwd=few).code == 0
    assert run("info", cwd=few).code == 0
    (folder / strange).unlink()
    assert run("index", few).out.startswith("1 removed, 2 unchanged")


def test_names_with_quotes_and_line_breaks_work(run: Run, few: Path) -> None:
    strange = 'it\'s "a" cat; DROP TABLE photos --\n.png'
    (few / "chelsea.png").rename(few / strange)
    index_with(run, few)
    assert run("search", "a cat", "-k", 1, "-f", "json", cwd=few).names == [strange]
    assert len(run("search", "a cat", "-k", 1, cwd=few).out.splitlines()) == 2  # with the header


def test_a_file_that_vanishes_mid_run_is_no_error(run: Run, few: Path, monkeypatch) -> None:
    from retrieval.indexing import changes

    real = changes.walk

    def walk(*arguments):
        for found in list(real(*arguments)):
            if found.path == "coffee.png":
                (few / "coffee.png").unlink()
            yield found

    monkeypatch.setattr(changes, "walk", walk)
    assert index_with(run, few) == {}
    assert present(few) == {"chelsea.png", "rocket.jpg", "china.jpg"}


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="has to give up root's rights")
def test_what_may_not_be_read_is_reported_and_tried_again(few: Path) -> None:
    """As another user, a photo and a folder without permission: neither is lost."""
    (few / "locked").mkdir()
    (few / "rocket.jpg").rename(few / "locked" / "rocket.jpg")
    retrieval.index(few, model="mini")
    (few / "coffee.png").write_bytes((few / "coffee.png").read_bytes() + b"\0")
    (few / "coffee.png").chmod(0)
    (few / "locked").chmod(0)
    for path in (few, few / ".retrieval", *(few / ".retrieval").iterdir()):
        os.chown(path, 65534, 65534)
    opened = [p for p in few.parents if p.stat().st_mode & 0o011 != 0o011]
    modes = {p: p.stat().st_mode for p in opened}
    for path in opened:
        path.chmod(modes[path] | 0o011)
    os.seteuid(65534)
    try:
        report = retrieval.index(few)
        with retrieval.open(few) as found:
            reasons = {path.name: reason for path, reason in found.status().reasons}
            names = {hit.path.name for hit in found.search("a rocket")}
        again = retrieval.index(few)
    finally:
        os.seteuid(0)
        for path in opened:
            path.chmod(modes[path])
    assert reasons == {"coffee.png": "no permission to read it"}
    assert report.removed == 0 and "could not be opened" in report.notes[0]
    assert "rocket.jpg" in names
    assert again.skipped == 1
    (few / "coffee.png").chmod(0o644)
    (few / "locked").chmod(0o755)
    assert retrieval.index(few).skipped == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["index", "nowhere"], "nowhere does not exist"),
        (["index", "chelsea.png"], "chelsea.png is a file, not a folder"),
        (["index"], "There is no index in"),
        (["info"], "There is no index in"),
        (["index", ".", "--model", "no-such-model"], "'no-such-model' is not a model"),
        (["index", ".", "--model", "ViT-B-33:openai"], "Did you mean ViT-B-32"),
        (["index", ".", "--model", "ViT-B-32:no_such"], "no weights 'no_such'"),
        (["index", ".", "--index", "chelsea.png/index"], "cannot be written"),
    ],
)
def test_what_cannot_be_indexed_gets_one_sentence(
    run: Run, few: Path, arguments: list[str], expected: str
) -> None:
    result = run(*arguments, cwd=few)
    assert result.code == 1
    assert expected in result.messages
    assert not (few / ".retrieval" / "catalogue.db").exists()


def test_the_bad_photos_of_the_shared_set(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    for path in shared("bad_inputs").glob("*.jpg"):
        shutil.copy(path, folder)
    result = run("index", folder, "--model", "mini")
    assert "ends too early" in result.out and "african_elephants_truncated_file.jpg" in result.out
    with retrieval.open(folder) as opened:
        hits = {h.path.name: h for h in opened.similar(folder / "african_elephants.jpg")}
    turned = hits["african_elephants_with_exif_orientation.jpg"]
    assert turned.score > 0.9
    assert hits["african_elephants_cmyk.jpg"].score > 0.9
    assert hits["african_elephants_truncated_file.jpg"].score > 0.9


@needs_extra("raw", "rawpy")
def test_a_camera_raw_file_is_indexed(run: Run, few: Path, originals: Path) -> None:
    write_dng(few / "IMG_1.dng", originals / "china.jpg")
    assert run("index", few, "--model", "mini").out.startswith("5 added")
    assert "IMG_1.dng" in present(few)


def test_without_rawpy_camera_raw_files_are_mentioned(run: Run, few: Path, monkeypatch) -> None:
    monkeypatch.setattr("retrieval.indexing.changes.has_rawpy", lambda: False)
    (few / "IMG_1.dng").write_bytes(b"raw")
    result = run("index", few, "--model", "mini")
    assert result.out.startswith("4 added")
    assert "1 camera raw file(s) were left out" in result.out
    assert "crossmodal-retrieval[raw]" in result.out


def write_dng(path: Path, original: Path) -> None:
    """A small raw file as a camera would write: a Bayer mosaic in DNG, without a preview."""
    import tifffile

    with Image.open(original) as image:
        rgb = np.asarray(image.convert("RGB").resize((320, 240))).astype(np.uint16) << 8
    mosaic = np.empty(rgb.shape[:2], np.uint16)
    for (row, column), channel in {(0, 0): 0, (0, 1): 1, (1, 0): 1, (1, 1): 2}.items():
        mosaic[row::2, column::2] = rgb[row::2, column::2, channel]
    identity = [v for i in range(9) for v in (int(i % 4 == 0), 1)]
    tifffile.imwrite(
        path, mosaic, photometric="CFA", compression=None,
        extratags=[
            (33421, "H", 2, (2, 2), True), (33422, "B", 4, bytes([0, 1, 1, 2]), True),
            (50706, "B", 4, bytes([1, 4, 0, 0]), True), (50708, "s", 0, "Test Camera", True),
            (50721, "2i", 9, identity, True), (50717, "H", 1, 65535, True),
        ],
    )  # fmt: skip


@pytest.mark.slow
def test_memory_stays_bounded_over_large_photos(tmp_path: Path) -> None:
    """Decoded photos of 36 MB take no more memory at the end than after the first few.

    PNG, which is decoded in full size before it is made smaller.
    """
    Image.linear_gradient("L").resize((4000, 3000)).convert("RGB").save(tmp_path / "0.png")
    data = (tmp_path / "0.png").read_bytes()
    for number in range(1, 24):
        (tmp_path / f"{number}.png").write_bytes(data + bytes([number]))
    code = (
        "import resource, sys, retrieval\n"
        "peaks = []\n"
        "used = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "peak = lambda _: peaks.append(used())\n"
        "options = retrieval.Options(batch_size=4, workers=2)\n"
        "report = retrieval.index(sys.argv[1], model='mini', options=options, progress=peak)\n"
        "assert report.encoded == 24\n"
        "print(len(peaks), peaks[2], peaks[-1])\n"  # at first 0, then 4 more at each
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True
    )
    looks, early, late = map(int, done.stdout.split())
    assert looks >= 7, "progress after every batch"
    assert late < early + 150, (early, late)


def test_names_cannot_steer_the_terminal(run: Run, few: Path) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J.png"
    (few / "chelsea.png").rename(few / evil)
    (few / f"broken{evil}").write_bytes(b"no photo")
    for command in (["index", "."], ["search", "a cat"], ["info"], ["similar", f"no{evil}"]):
        extra = ["--model", "mini"] if command[0] == "index" else []
        result = run(*command, *extra, cwd=few)
        assert result.code == (1 if command[0] == "similar" else 0), result.messages
        assert b"\x1b" not in result.raw and "\x1b" not in result.messages


def test_a_page_of_postscript_starts_no_program(
    run: Run, few: Path, tmp_path: Path, monkeypatch
) -> None:
    """A .jpg that is really EPS would have Pillow start Ghostscript on it."""
    mark = tmp_path / "ran"
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "gs"
    program.write_text(f"#!/bin/sh\ntouch {mark}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    (few / "holiday.jpg").write_text(
        "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\nshowpage\n%%EOF\n"
    )
    assert list(index_with(run, few)) == ["holiday.jpg"]
    assert not mark.exists()


def test_an_icon_cannot_hide_a_huge_photo(run: Run, few: Path) -> None:
    """Pillow decodes the PNG in an icon before it tells its size; icons are no photos here."""
    inner = bomb_png(20_000, 20_000)
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(inner), 22)
    (few / "tiny.jpg").write_bytes(struct.pack("<HHH", 0, 1, 1) + entry + inner)
    assert index_with(run, few) == {
        "tiny.jpg": "not a photo that can be read (damaged, encrypted or no image)"
    }


def test_a_disk_that_fails_for_a_moment_spoils_no_photo(run: Run, few: Path, monkeypatch) -> None:
    import errno

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr("retrieval.indexing.encode.open_inside", fail)
        skipped = index_with(run, few)
    assert set(skipped.values()) == {"cannot be read just now (Input/output error)"}
    assert run("index", few).out.startswith("4 added")


def test_a_folder_whose_name_is_not_utf8_works(run: Run, few: Path) -> None:
    strange = few.rename(few.parent / os.fsdecode(b"nonutf\xff"))
    assert run("index", strange, "--model", "mini").out.startswith("4 added")
    for _ in range(2):
        assert run("search", "a cat", "-f", "json", cwd=strange).names[0] == "chelsea.png"
