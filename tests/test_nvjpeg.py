"""JPEG files decoded by a GPU: the same photos, and what it cannot decode left to Pillow.

`pytest -m cuda` runs what needs a GPU; elsewhere torchvision on the processor stands in for one.
"""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import retrieval
from retrieval import Compute
from retrieval.encoders.mini.encoder import MiniEncoder
from retrieval.encoders.nvjpeg import NvjpegDecoder, nvjpeg_decoder
from retrieval.photos.decode import INCOMPLETE, open_photo
from tests.conftest import shared
from tests.test_cuda import ON_CPU, device  # noqa: F401
from tests.test_engines import cosines

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding")  # torchvision's is to move


def opened(file: Path, decode: Any = None, target: int = 64) -> Image.Image:
    with file.open("rb") as source:
        return open_photo(source, file.name, 100, target, decode)[0]


@pytest.fixture
def decoder(device: str) -> NvjpegDecoder:  # noqa: F811
    if device == "cpu":
        return NvjpegDecoder(device)
    found = nvjpeg_decoder(device)
    if found is None:
        pytest.skip("this torchvision cannot decode JPEG on a GPU")
    return found


class Counting:
    """A decoder that counts what it gave, and what it could not decode."""

    def __init__(self, decoder: NvjpegDecoder) -> None:
        self.decoder, self.gave = decoder, [0, 0]

    def __call__(self, data: bytes, shrink: int) -> Image.Image | None:
        photo = self.decoder.decode(data, shrink)
        self.gave[photo is None] += 1
        return photo


def test_a_gpu_decodes_what_pillow_decodes(decoder: NvjpegDecoder, originals: Path) -> None:
    encoder, decode = MiniEncoder(), Counting(decoder)
    files = sorted(originals.glob("*.jpg"))
    pairs = [(opened(f, target=128), opened(f, decode, target=128)) for f in files]
    assert decode.gave[0] >= 2 and decode.gave[1] == 0
    for by_pillow, by_gpu in pairs:
        assert by_gpu.size == by_pillow.size
        off = np.abs(np.asarray(by_gpu, float) - np.asarray(by_pillow, float))
        assert off.mean() < 1.5
    rows = [
        encoder.encode_images([encoder.prepare(p) for p in side])
        for side in zip(*pairs, strict=True)
    ]
    assert cosines(*rows).min() > 0.999


def test_a_photo_that_lies_on_its_side_is_turned(decoder: NvjpegDecoder, tmp_path: Path) -> None:
    file, exif = tmp_path / "turned.jpg", Image.Exif()
    exif[0x0112] = 6
    Image.linear_gradient("L").resize((400, 300)).save(file, exif=exif)
    decode = Counting(decoder)
    by_gpu = opened(file, decode)
    assert decode.gave == [1, 0] and by_gpu.size == (150, 200)
    off = np.abs(np.asarray(by_gpu, float) - np.asarray(opened(file), float))
    assert off.mean() < 1.5


def test_what_is_not_plain_is_left_to_pillow(decoder: NvjpegDecoder) -> None:
    decode, incomplete = Counting(decoder), []
    for file in sorted(shared("bad_inputs").glob("*.jpg")):
        by_pillow, photo = opened(file), opened(file, decode)
        assert photo.size == by_pillow.size
        assert (INCOMPLETE in photo.info) == (INCOMPLETE in by_pillow.info)
        if INCOMPLETE in photo.info:
            incomplete.append(file.name)
    assert incomplete == ["african_elephants_truncated_file.jpg"]
    assert decode.gave == [3, 0], "the colour, the grey and the turned one, not CMYK"


def test_a_thumbnail_is_not_taken_for_the_end_of_a_photo(
    decoder: NvjpegDecoder, tmp_path: Path
) -> None:
    """A photo cut off behind its metadata, which hold the whole of a smaller one."""
    small, large = io.BytesIO(), io.BytesIO()
    Image.effect_noise((32, 32), 50).save(small, "JPEG")
    Image.effect_noise((600, 600), 50).save(large, "JPEG", exif=b"Exif\0\0" + small.getvalue())
    file = tmp_path / "cut.jpg"
    file.write_bytes(large.getvalue()[: len(large.getvalue()) // 2])
    decode = Counting(decoder)
    photo = opened(file, decode)
    assert photo.size[0] > 32 and INCOMPLETE in photo.info
    assert decode.gave == [0, 0]


def test_one_damaged_file_spoils_no_other(decoder: NvjpegDecoder, tmp_path: Path) -> None:
    """Asked for by many threads at once, each gets its own photo, or nothing."""
    files = []
    for shade in range(24):
        buffer = io.BytesIO()
        Image.new("RGB", (64 + shade, 48), (10 * shade,) * 3).save(buffer, "JPEG")
        files.append(b"\xff\xd8no photo\xff\xd9" if shade % 8 == 3 else buffer.getvalue())
    with ThreadPoolExecutor(8) as pool:
        photos = list(pool.map(lambda data: decoder.decode(data, 2), files))
    for shade, photo in enumerate(photos):
        if shade % 8 == 3:
            assert photo is None
        else:
            assert photo is not None and photo.size == (-(-(64 + shade) // 2), 24)
            assert abs(np.asarray(photo, float).mean() - 10 * shade) < 2


def test_an_index_by_a_gpu_decoder_finds_the_same(
    monkeypatch: pytest.MonkeyPatch,
    device: str,  # noqa: F811
    originals: Path,
    tmp_path: Path,
) -> None:
    decode = Counting(NvjpegDecoder(device))
    compute = Compute("torch", device)  # type: ignore[arg-type]
    scores = []
    for place, options, chosen in (("here", ON_CPU, None), ("there", compute, decode)):
        monkeypatch.setattr("retrieval.indexing.encode.jpeg_decoder", lambda _, by=chosen: by)
        report = retrieval.index(
            originals,
            index=tmp_path / place,
            model="mini",
            options=retrieval.Options(compute=options),
        )
        assert report.encoded == 20
        with retrieval.open(tmp_path / place) as photos:
            hits = photos.similar(originals / "chelsea.png", k=10)
            scores.append({hit.path.name: hit.score for hit in hits})
    assert decode.gave[0] >= 1
    assert list(scores[0]) == list(scores[1])
    np.testing.assert_allclose(list(scores[0].values()), list(scores[1].values()), atol=0.01)
