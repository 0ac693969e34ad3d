"""Pixels as viewers show them: each file is compared with the photo that it was made of."""

import io
import random
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageCms

import retrieval
from retrieval.errors import PhotoError
from retrieval.photos.colour import is_srgb
from retrieval.photos.decode import INCOMPLETE, open_photo, open_photo_here
from retrieval.photos.levels import find_limits
from retrieval.photos.open_image import open_image
from tests.conftest import Run, needs_extra

WHOLE = 2000  # more pixels than the photo has: nothing is shrunk
Pixels = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def cat(originals: Path) -> Image.Image:
    with Image.open(originals / "chelsea.png") as opened:
        return Image.fromarray(np.asarray(opened.convert("RGB"))[:300, :440])  # no metadata


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def decoded(data: bytes) -> Image.Image:
    return open_photo_here(io.BytesIO(data), "photo", 500, WHOLE)[0]


def difference(data: bytes, photo: Image.Image) -> float:
    """The mean difference of what is decoded from the photo, in levels of 255."""
    shown = decoded(data)
    assert shown.mode == "RGB" and shown.size == photo.size
    expected = np.asarray(photo.convert("RGB"), np.float32)
    return float(np.abs(np.asarray(shown, np.float32) - expected).mean())


# Colours ---------------------------------------------------------------------------------------

ADOBE = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
PROPHOTO = ((0.79767, 0.28804, 0.0), (0.13519, 0.71188, 0.0), (0.03134, 0.00009, 0.82491))
P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
WHITE = struct.pack(">3i", 63190, 65536, 54061)  # D50


def profile(space: bytes, tags: dict[bytes, bytes], pcs: bytes = b"XYZ ") -> bytes:
    """An ICC profile of version 2."""
    tags = {b"desc": b"desc" + bytes(4) + struct.pack(">I", 2) + b"x\0" + bytes(78), **tags}
    body, table = b"", b""
    start = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += struct.pack(">4sII", name, start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    rest = struct.pack(">I", len(tags)) + table + body
    kind = b"prtr" if space == b"CMYK" else b"mntr"
    header = struct.pack(">I4sI4s4s4s", 128 + len(rest), b"lcms", 0x02400000, kind, space, pcs)
    header += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + WHITE
    return header.ljust(128, b"\0") + rest


def curve(gamma: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"


def matrix_profile(primaries: Sequence[Sequence[float]], gamma: float) -> bytes:
    tags = {b"wtpt": b"XYZ " + bytes(4) + WHITE}
    for letter, xyz in zip("rgb", primaries, strict=True):
        numbers = struct.pack(">3i", *(round(v * 65536) for v in xyz))
        tags[f"{letter}XYZ".encode()] = b"XYZ " + bytes(4) + numbers
        tags[f"{letter}TRC".encode()] = curve(gamma)
    return profile(b"RGB ", tags)


def grey_profile(gamma: float) -> bytes:
    return profile(b"GRAY", {b"wtpt": b"XYZ " + bytes(4) + WHITE, b"kTRC": curve(gamma)})


def cmyk_profile() -> bytes:
    """Ink to L*a*b* by a table of two steps an ink: duller than CMYK taken as inverted RGB."""
    identity = bytes(range(256))
    grid = b""
    for inks in np.ndindex(2, 2, 2, 2):
        c, m, y, k = (1 - 0.8 * ink for ink in inks)
        rgb = Image.new("RGB", (1, 1), tuple(round(255 * v * k) for v in (c, m, y)))
        grid += as_lab(rgb).tobytes("raw", "LAB")
    grid = bytes(v if i % 3 == 0 else v ^ 128 for i, v in enumerate(grid))
    matrix = struct.pack(">9i", *(65536 if i % 4 == 0 else 0 for i in range(9)))
    lut = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + matrix + identity * 4 + grid + identity * 3
    return profile(b"CMYK", {b"wtpt": b"XYZ " + bytes(4) + WHITE, b"A2B0": lut}, b"Lab ")


def as_lab(image: Image.Image) -> Image.Image:
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.applyTransform(image, ImageCms.buildTransform(*profiles, "RGB", "LAB"))
    assert lab is not None
    return lab


def converted(image: Image.Image, icc: bytes) -> Image.Image:
    """What a program that manages colours shows."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    target = ImageCms.createProfile("sRGB")
    result = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
    assert result is not None
    return result


PROFILES = {
    "Adobe RGB": ("RGB", matrix_profile(ADOBE, 2.2)),
    "ProPhoto": ("RGB", matrix_profile(PROPHOTO, 1.8)),
    "Display P3": ("RGB", matrix_profile(P3, 2.2)),
    "linear": ("RGB", matrix_profile(SRGB, 1.0)),
    "linear grey": ("L", grey_profile(1.0)),
    "grey of gamma 1.8": ("L", grey_profile(1.8)),
    "CMYK": ("CMYK", cmyk_profile()),
}


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_is_applied(cat: Image.Image, name: str, format: str) -> None:
    mode, icc = PROFILES[name]
    stored = cat.convert(mode)
    if (format, mode) == ("PNG", "CMYK"):
        return  # there is no such PNG
    options = {"quality": 98, "subsampling": 0} if format == "JPEG" else {}
    data = saved(stored, format, icc_profile=icc, **options)
    right = converted(stored, icc)
    assert difference(data, right) < 3, "as a colour-managed viewer shows it"
    plain = np.asarray(stored.convert("RGB"), int)
    assert np.abs(plain - np.asarray(right, int)).mean() > 4, "the profile matters"
    # The same through `open_photo`, which decides which process decodes.
    shown = open_photo(io.BytesIO(data), "photo", 500, WHOLE)[0]
    np.testing.assert_array_equal(np.asarray(shown), np.asarray(decoded(data)))


def test_thumbnails_and_embeddings_have_the_colours_of_the_profile(
    run: Run, originals: Path, tmp_path: Path, cat: Image.Image
) -> None:
    icc = matrix_profile(PROPHOTO, 1.8)
    to_wide = ImageCms.profileToProfile(
        cat, ImageCms.createProfile("sRGB"), ImageCms.ImageCmsProfile(io.BytesIO(icc))
    )
    assert to_wide is not None
    to_wide.save(tmp_path / "wide.png", icc_profile=icc)
    cat.save(tmp_path / "cat.png")
    retrieval.index(tmp_path, model="mini")
    with retrieval.open(tmp_path) as opened:
        (hit,) = opened.similar(tmp_path / "cat.png", k=1)
    assert hit.score > 0.995
    assert np.abs(np.asarray(to_wide, int) - np.asarray(cat, int)).mean() > 10


@pytest.mark.parametrize("gamma", [1.0, 0.55])
def test_the_gamma_of_a_png_is_applied(cat: Image.Image, gamma: float) -> None:
    stored = cat.point([round(255 * (i / 255) ** (gamma * 2.2)) for i in range(256)] * 3)
    chunk = png_chunk(b"gAMA", struct.pack(">I", round(gamma * 100_000)))
    data = with_chunks(saved(stored, "PNG"), chunk)
    assert difference(data, cat) < 2
    with_srgb = with_chunks(saved(cat, "PNG"), chunk + png_chunk(b"sRGB", b"\0"))
    assert difference(with_srgb, cat) == 0


def test_profiles_that_mean_srgb_are_known_and_decoded_at_once(cat: Image.Image) -> None:
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for icc in (own, matrix_profile(SRGB, 2.2), grey_profile(2.2)):
        assert is_srgb(icc)
    for _, icc in PROFILES.values():
        assert not is_srgb(icc)
    assert difference(saved(cat, "PNG", icc_profile=own), cat) == 0


def damaged_profiles() -> list[bytes]:
    rng = random.Random(5)
    found = [b"", b"junk", bytes(200), b"\xff" * 5000, PROFILES["CMYK"][1][:300]]
    for _, icc in PROFILES.values():
        for _ in range(12):
            bad = bytearray(icc)
            for _ in range(rng.choice((1, 4, 40))):
                bad[rng.randrange(len(bad))] = rng.randrange(256)
            found.append(bytes(bad[: rng.choice((len(bad), len(bad), rng.randrange(len(bad))))]))
    return found


def test_damaged_profiles_do_no_harm(cat: Image.Image, tmp_path: Path) -> None:
    small = cat.resize((64, 48))
    for number, icc in enumerate(damaged_profiles()):
        small.putpixel((0, 0), (number, 0, 0))
        if icc:
            small.save(tmp_path / f"{number}.jpg", icc_profile=icc)
    report = retrieval.index(tmp_path, model="mini")
    assert report.encoded == len(list(tmp_path.glob("*.jpg"))), report.reasons


def test_a_profile_for_other_colours_or_too_large_is_left_out(cat: Image.Image) -> None:
    for icc in (cmyk_profile(), matrix_profile(PROPHOTO, 1.8) + bytes(5_000_000)):
        assert difference(saved(cat, "PNG", icc_profile=icc), cat) == 0


def test_lab_is_shown_in_colour(cat: Image.Image) -> None:
    assert difference(saved(as_lab(cat), "TIFF"), cat) < 2


# Deep TIFF -------------------------------------------------------------------------------------

KINDS = {
    "uint8": ("u1", 255), "uint16": ("u2", 65535), "10 in 16": ("u2", 1023),
    "12 in 16": ("u2", 4095), "14 in 16": ("u2", 16383), "uint32": ("u4", 2**32 - 1),
    "16 in 32": ("u4", 65535), "int16": ("i2", 32767), "float16": ("f2", 1), "float32": ("f4", 1),
    "float64": ("f8", 1), "float to 255": ("f4", 255), "float to 65535": ("f4", 65535),
}  # fmt: skip


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("layout", ["grey", "white is zero", "rgb", "planar", "rgba", "predictor"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_tiff_shows_the_same_cat(
    cat: Image.Image, kind: str, layout: str, compression: str | None, order: str
) -> None:
    import tifffile

    code, white = KINDS[kind]
    dtype = np.dtype(code)
    if layout == "predictor" and (dtype.kind == "f" or compression is None):
        return  # without imagecodecs, tifffile writes and reads only that of integers
    grey = layout in ("grey", "white is zero")
    photo = cat.convert("L") if grey else cat
    light = np.asarray(photo, np.float64) / 255
    if layout == "white is zero":
        light = 1 - light
    if layout == "rgba":
        light = np.dstack([light, np.ones(light.shape[:2])])
    values = light * white
    values = values.astype(dtype) if dtype.kind == "f" else values.round().astype(dtype)
    options: dict[str, object] = {"photometric": "minisblack" if grey else "rgb"}
    if layout == "white is zero":
        options["photometric"] = "miniswhite"
    elif layout == "planar":
        values = np.ascontiguousarray(np.moveaxis(values, -1, 0))
        options["planarconfig"] = "separate"
    elif layout == "rgba":
        options["extrasamples"] = ["unassalpha"]
    elif layout == "predictor":
        options["predictor"] = True
    file = io.BytesIO()
    tifffile.imwrite(file, values, byteorder=order, compression=compression, **options)
    assert difference(file.getvalue(), photo) < 2


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", None])
@pytest.mark.parametrize("mode", ["I;16", "F", "RGB", "L", "CMYK", "1", "P"])
def test_what_pillow_writes_is_read(cat: Image.Image, mode: str, compression: str | None) -> None:
    if mode in ("I;16", "F"):
        grey = np.asarray(cat.convert("L"))
        stored = Image.fromarray(
            grey.astype(np.uint16) * 257 if mode == "I;16" else grey.astype(np.float32) / 255
        )
        photo = cat.convert("L")
    else:
        stored = photo = cat.convert(mode)
    assert difference(saved(stored, "TIFF", compression=compression), photo) < 1


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_and_its_size_is_upright(
    cat: Image.Image, orientation: int, deep: bool
) -> None:
    import tifffile

    turns = (None, 0, 3, 1, 5, 2, 6, 4)  # how what is stored was turned, undone by a viewer
    turn = turns[orientation - 1]
    stored = np.asarray(cat if turn is None else cat.transpose(Image.Transpose(turn)))
    file = io.BytesIO()
    tifffile.imwrite(
        file,
        stored.astype(np.uint16) * 257 if deep else stored,
        photometric="rgb",
        extratags=[(274, 3, 1, orientation, True)],
    )
    assert difference(file.getvalue(), cat) == 0
    facts = open_photo_here(file, "photo", 500, WHOLE)[1]
    assert (facts.width, facts.height) == cat.size


def test_the_largest_number_that_a_file_names_is_white() -> None:
    values = np.array([[0, 3000]], np.uint16)
    assert find_limits(values, 16, largest=5000) == (0, 5000)
    assert find_limits(values, 16) == (0, 4095)
    assert find_limits(np.array([[0, 0]], np.uint16)) == (0, 65535)
    assert find_limits(np.array([[np.nan, np.inf]], np.float32)) == (0, 1)
    assert find_limits(np.array([[-5.0, 7.0]], np.float32))[0] < -4


def test_a_tiff_whose_pixels_take_too_much_memory_is_refused() -> None:
    import tifffile

    file = io.BytesIO()
    tifffile.imwrite(file, np.zeros((40, 50, 9)), photometric="minisblack", planarconfig="contig")
    with pytest.raises(PhotoError, match="too many bytes a pixel"):
        decoded(file.getvalue())


# PNG and BMP -----------------------------------------------------------------------------------


def png_chunk(kind: bytes, body: bytes, checksum: int | None = None) -> bytes:
    right = zlib.crc32(kind + body)
    number = right if checksum is None else checksum
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", number)


def with_chunks(png: bytes, chunks: bytes) -> bytes:
    """A PNG with chunks behind its header, which has 33 bytes."""
    return png[:33] + chunks + png[33:]


ODD_CHUNKS: dict[str, Callable[[], bytes]] = {
    "large zTXt": lambda: png_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(50_000_000))),
    "large iTXt": lambda: png_chunk(b"iTXt", b"k\0\1\0\0\0" + zlib.compress(b"x" * 5_000_000)),
    "large tEXt": lambda: png_chunk(b"tEXt", b"k\0" + b"x" * 20_000_000),
    "many tEXt": lambda: png_chunk(b"tEXt", b"k\0" + b"x" * 5_000_000) * 15,
    "wrong checksum": lambda: png_chunk(b"tEXt", b"k\0v", 1),
    "short pHYs": lambda: png_chunk(b"pHYs", b"\0\0"),
    "odd pHYs": lambda: png_chunk(b"pHYs", bytes(8) + b"\7"),
    "short gAMA": lambda: png_chunk(b"gAMA", b"\0") + png_chunk(b"cHRM", b"\0"),
    "short sRGB": lambda: png_chunk(b"sRGB", b""),
    "short acTL": lambda: png_chunk(b"acTL", b"\0"),
    "junk iCCP": lambda: png_chunk(b"iCCP", b"name\0\0junk"),
    "iCCP packed otherwise": lambda: png_chunk(b"iCCP", b"name\0\5junk"),
    "empty iCCP": lambda: png_chunk(b"iCCP", b""),
    "large iCCP": lambda: png_chunk(b"iCCP", b"name\0\0" + zlib.compress(bytes(30_000_000))),
    "unknown": lambda: png_chunk(b"abCD", b"anything"),
}


@pytest.mark.parametrize("name", ODD_CHUNKS)
def test_odd_metadata_makes_no_png_damaged(cat: Image.Image, name: str) -> None:
    chunks = ODD_CHUNKS[name]()
    assert difference(with_chunks(saved(cat, "PNG"), chunks), cat) == 0
    behind = saved(cat, "PNG")
    assert difference(behind[:-12] + chunks + behind[-12:], cat) == 0


def test_a_profile_of_over_a_megabyte_in_a_png_is_applied(cat: Image.Image) -> None:
    icc = matrix_profile(PROPHOTO, 1.8) + bytes(2_000_000)
    icc = struct.pack(">I", len(icc)) + icc[4:]
    assert difference(saved(cat, "PNG", icc_profile=icc), converted(cat, icc)) < 1


def test_pixels_that_are_damaged_still_are(cat: Image.Image) -> None:
    data = bytearray(saved(cat, "PNG"))
    data[len(data) // 2] ^= 255
    with pytest.raises((OSError, SyntaxError, ValueError)):
        decoded(bytes(data))


@pytest.mark.parametrize("alpha", [0, 255])
@pytest.mark.parametrize("header_of_file", [True, False])
def test_a_bmp_whose_alpha_is_empty_is_opaque(
    cat: Image.Image, alpha: int, header_of_file: bool
) -> None:
    colours = np.asarray(cat)[::-1, :, ::-1]
    pixels = np.dstack([colours, np.full(colours.shape[:2], alpha, np.uint8)]).tobytes()
    header = struct.pack(
        "<IiiHHIIiiII4I", 124, *cat.size, 1, 32, 3, len(pixels), 2835, 2835, 0, 0,
        0xFF0000, 0xFF00, 0xFF, 0xFF000000,
    )  # fmt: skip
    header = header.ljust(124, b"\0")
    start = b"BM" + struct.pack("<IHHI", 14 + len(header) + len(pixels), 0, 0, 14 + len(header))
    data = (start if header_of_file else b"") + header + pixels
    assert difference(data, cat) == 0


# JPEG files without their end ------------------------------------------------------------------


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("lacking", [2, 3, 50, 0.02, 0.5])
def test_a_jpeg_that_lacks_its_end_is_shown_as_far_as_it_goes(
    cat: Image.Image, mode: str, progressive: bool, lacking: float
) -> None:
    whole = saved(cat.convert(mode), "JPEG", quality=90, progressive=progressive)
    length = int(lacking * len(whole)) if lacking < 1 else int(lacking)
    shown = decoded(whole[:-length])
    assert lacking == 2 or INCOMPLETE in shown.info, "the last two bytes are no pixels"
    right, top = np.asarray(decoded(whole), int), slice(0, 100 if lacking == 0.5 else 270)
    assert np.abs(np.asarray(shown, int)[top] - right[top]).mean() < (15 if progressive else 2)
    assert INCOMPLETE not in decoded(whole).info


def test_a_jpeg_that_lacks_nearly_all_is_truncated(cat: Image.Image) -> None:
    whole = saved(cat, "JPEG", quality=90)
    with pytest.raises(OSError, match="truncated"):
        decoded(whole[: len(whole) // 10])


def test_photos_that_lack_their_end_are_noted(few: Path) -> None:
    whole = (few / "china.jpg").read_bytes()
    (few / "china.jpg").write_bytes(whole[:-1000])
    with Image.open(io.BytesIO(whole)) as photo:
        wide = saved(photo, "JPEG", icc_profile=PROFILES["ProPhoto"][1])
    (few / "wide.jpg").write_bytes(wide[:-1000])
    report = retrieval.index(few, model="mini")
    assert report.encoded == 5 and not report.reasons
    (note,) = report.notes
    assert "ends too early" in note and "china.jpg" in note and "wide.jpg" in note
    assert retrieval.index(few, model="mini").notes == []


# More formats ----------------------------------------------------------------------------------


def pnm(magic: str, maximum: int, values: npt.NDArray[np.generic], cat: Image.Image) -> bytes:
    width, height = cat.size
    return f"{magic} {width} {height} {maximum}\n".encode() + values.tobytes()


def photoshop(mode: int, depth: int, planes: Sequence[npt.NDArray[np.generic]]) -> bytes:
    height, width = planes[0].shape
    header = struct.pack(">4sH6xHIIHH", b"8BPS", 1, len(planes), height, width, depth, mode)
    return header + bytes(12) + b"\0\0" + b"".join(plane.tobytes() for plane in planes)


def scaled(cat: Image.Image, white: float, dtype: str) -> npt.NDArray[np.generic]:
    values = np.asarray(cat, np.float64) / 255 * white
    return (values if "f" in dtype else values.round()).astype(dtype)


def planes_of(values: npt.NDArray[np.generic]) -> list[npt.NDArray[np.generic]]:
    return [np.ascontiguousarray(values[..., i]) for i in range(values.shape[-1])]


MAKERS: dict[str, Callable[[Image.Image], bytes]] = {
    "a.jp2": lambda cat: saved(cat, "JPEG2000"),
    "b.j2k": lambda cat: saved(cat, "JPEG2000", no_jp2=True),
    "tiles.jp2": lambda cat: saved(cat, "JPEG2000", tile_size=(128, 128)),
    "a.ppm": lambda cat: saved(cat, "PPM"),
    "plain.ppm": lambda cat: b"P3\n# by hand\n%d %d\n255\n" % cat.size
    + b" ".join(b"%d" % v for v in np.asarray(cat).ravel()),
    "twelve.ppm": lambda cat: pnm("P6", 4095, scaled(cat, 4095, ">u2"), cat),
    "sixteen.pnm": lambda cat: pnm("P6", 65535, scaled(cat, 65535, ">u2"), cat),
    "a.mpo": lambda cat: saved(
        cat, "MPO", save_all=True, append_images=[cat.rotate(90)], quality=95
    ),
    "a.psd": lambda cat: photoshop(3, 8, planes_of(scaled(cat, 255, "u1"))),
    "alpha.psd": lambda cat: photoshop(
        3, 8, [*planes_of(scaled(cat, 255, "u1")), np.zeros(cat.size[::-1], np.uint8)]
    ),
    "sixteen.psd": lambda cat: photoshop(3, 16, planes_of(scaled(cat, 65535, ">u2"))),
    "float.psd": lambda cat: photoshop(3, 32, planes_of(scaled(cat, 1, ">f4"))),
    "cmyk.psd": lambda cat: photoshop(
        4, 16, [*planes_of(scaled(cat, 65535, ">u2")), np.full(cat.size[::-1], 65535, ">u2")]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MAKERS)
def test_more_formats_show_the_same_cat(cat: Image.Image, name: str) -> None:
    assert difference(MAKERS[name](cat), cat) < 2


def test_more_formats_are_indexed_by_their_endings(
    run: Run, cat: Image.Image, tmp_path: Path
) -> None:
    for name, make in MAKERS.items():
        (tmp_path / name).write_bytes(make(cat))
    cat.convert("L").save(tmp_path / "a.pgm")
    cat.convert("1").save(tmp_path / "a.pbm")
    (tmp_path / "not.psd").write_bytes(b"8BPS\0\1")
    result = run("index", tmp_path, "--model", "mini")
    assert f"{len(MAKERS) + 2} added, 1 skipped" in result.out, result.out
    (tmp_path / "cat.png").write_bytes(saved(cat, "PNG"))
    with retrieval.open(tmp_path) as opened:
        scores = {hit.path.name: hit.score for hit in opened.similar(tmp_path / "cat.png", k=50)}
    scores.pop("a.pgm"), scores.pop("a.pbm")
    assert min(scores.values()) > 0.98, scores


@needs_extra("jxl", "pillow_jxl")
@pytest.mark.parametrize("orientation", [1, 6])
def test_jpeg_xl_is_read(cat: Image.Image, orientation: int) -> None:
    from pillow_jxl import JpegXLImagePlugin  # noqa: F401 - teaches Pillow to write it

    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = orientation, "a cat"
    assert difference(saved(cat, "JXL", lossless=True, exif=exif.tobytes()), cat) < 1
    for size in ((8, 8), (300, 300), (1024, 768), (4001, 3), (640, 400)):
        for options in ({}, {"use_container": True}):
            data = saved(cat.resize(size), "JXL", effort=1, **options)
            with open_image(io.BytesIO(data)) as opened:
                assert opened.size == size


def test_jpeg_xl_without_the_plugin_says_what_to_install(
    cat: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pillow_jxl.JpegXLImagePlugin", None)
    header = b"\xff\x0a" + (1 | 4 << 1 | 1 << 6).to_bytes(2, "little") + bytes(20)  # 40 × 40
    with pytest.raises(PhotoError, match=r"cannot be read just now .*\[jxl\]"):
        decoded(header)


HUGE = {
    "bomb.jp2": lambda cat: saved(cat, "JPEG2000").replace(
        struct.pack(">II", *cat.size[::-1]), struct.pack(">II", 60_000, 60_000), 1
    ),
    "two sizes.jp2": lambda cat: saved(cat, "JPEG2000").replace(
        struct.pack(">II", *cat.size), struct.pack(">II", 60_000, 60_000), 1
    ),
    "bomb.ppm": lambda _: b"P6 60000 60000 255\n" + bytes(100),
    "bomb.psd": lambda _: photoshop(3, 8, [np.zeros((4, 4), np.uint8)] * 3).replace(
        struct.pack(">II", 4, 4), struct.pack(">II", 60_000, 60_000)
    ),
    "deep.psd": lambda _: photoshop(3, 16, [np.zeros((4, 4), ">u2")] * 3).replace(
        struct.pack(">II", 4, 4), struct.pack(">II", 60_000, 60_000)
    ),
    "bomb.jxl": lambda _: b"\xff\x0a" + (0 | 3 << 1 | 59_999 << 3 | 1 << 33).to_bytes(20, "little"),
}  # fmt: skip


@pytest.mark.parametrize("name", HUGE)
def test_sizes_are_checked_before_pixels(cat: Image.Image, name: str) -> None:
    with pytest.raises(PhotoError, match=r"too large: 60000 × 60000|two sizes"):
        decoded(HUGE[name](cat))


def test_a_photoshop_file_without_a_composite_says_so(cat: Image.Image) -> None:
    data = photoshop(3, 8, planes_of(np.asarray(cat)))
    resource = b"8BIM" + struct.pack(">HHI", 1057, 0, 6) + bytes((0, 0, 0, 1, 0, 0))
    data = data[:30] + struct.pack(">I", len(resource)) + resource + data[34:]
    with pytest.raises(PhotoError, match="without a composite"):
        decoded(data)
