"""`mini`, the built-in encoder, with its real weights and a few photos that are always there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage
import sklearn
from blake3 import blake3
from PIL import Image

from retrieval.encoders.mini.encoder import WEIGHTS, MiniEncoder
from retrieval.errors import ModelError

ROOT = Path(__file__).resolve().parents[1]
SKIMAGE = Path(skimage.__file__).parent / "data"
SKLEARN = Path(sklearn.__file__).parent / "datasets" / "images"
PHOTOS = {
    SKIMAGE / "astronaut.png": "an astronaut with a helmet and a flag",
    SKIMAGE / "chelsea.png": "a close-up of a cat",
    SKIMAGE / "coffee.png": "a cup of coffee on a table",
    SKIMAGE / "rocket.jpg": "a rocket on its launch pad",
    SKLEARN / "china.jpg": "an old Chinese palace",
    SKLEARN / "flower.jpg": "a flower in bloom",
}


@pytest.fixture(scope="module")
def encoder() -> MiniEncoder:
    return MiniEncoder()


@pytest.fixture(scope="module")
def embedded(encoder: MiniEncoder) -> np.ndarray:
    prepared = []
    for path in PHOTOS:
        with Image.open(path) as photo:
            prepared.append(encoder.prepare(photo))
    return encoder.encode_images(prepared)


def assert_unit_rows(rows: np.ndarray, count: int, dim: int) -> None:
    assert rows.shape == (count, dim)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-5)


def test_photos_become_unit_rows(encoder: MiniEncoder, embedded: np.ndarray) -> None:
    assert_unit_rows(embedded, len(PHOTOS), encoder.dim)


def test_texts_become_unit_rows(encoder: MiniEncoder) -> None:
    assert_unit_rows(encoder.encode_texts(["a dog", "", "ein Hund 🐕"]), 3, encoder.dim)


@pytest.mark.parametrize("which", range(len(PHOTOS)))
def test_a_plain_description_finds_its_photo(
    encoder: MiniEncoder, embedded: np.ndarray, which: int
) -> None:
    description = list(PHOTOS.values())[which]
    scores = embedded @ encoder.encode_texts([description])[0]
    assert int(scores.argmax()) == which


def test_the_company_in_a_batch_does_not_change_a_text(encoder: MiniEncoder) -> None:
    texts = ["a cat", "two children run along a long sandy beach at sunset with a dog", "rain"]
    alone = np.concatenate([encoder.encode_texts([text]) for text in texts])
    np.testing.assert_allclose(encoder.encode_texts(texts), alone, atol=1e-5)


def test_the_company_in_a_batch_does_not_change_a_photo(
    encoder: MiniEncoder, embedded: np.ndarray
) -> None:
    with Image.open(next(iter(PHOTOS))) as photo:
        alone = encoder.encode_images([encoder.prepare(photo)])[0]
    assert float(alone @ embedded[0]) > 0.999


def test_preparing_keeps_the_whole_photo(encoder: MiniEncoder) -> None:
    wide = Image.new("RGB", (1200, 300), "white")
    wide.paste("red", (0, 0, 60, 300))
    prepared = encoder.prepare(wide)
    assert prepared.dtype == np.uint8
    assert prepared.shape[0] == prepared.shape[1] and prepared.shape[2] == 3
    assert prepared[100, 2].tolist() == [255, 0, 0], "the left edge is still there"
    assert prepared[100, -2].tolist() == [255, 255, 255]


def test_a_photo_that_was_not_prepared_is_refused(encoder: MiniEncoder) -> None:
    with pytest.raises(ValueError, match="prepare"):
        encoder.encode_images([np.zeros((10, 10, 3), np.uint8)])


def test_no_texts_and_no_photos_give_no_rows(encoder: MiniEncoder) -> None:
    assert encoder.encode_texts([]).shape == (0, encoder.dim)
    assert encoder.encode_images([]).shape == (0, encoder.dim)


def test_a_very_long_text_is_cut(encoder: MiniEncoder) -> None:
    long = encoder.encode_texts(["dog " * 5000, "dog " * 126])
    np.testing.assert_allclose(long[0], long[1], atol=1e-5)


def test_texts_need_no_torch() -> None:
    code = (
        "import sys; from retrieval.encoders.mini.encoder import MiniEncoder; "
        "MiniEncoder().encode_texts(['a dog']); "
        "sys.exit(int(any(name in sys.modules for name in ('torch', 'timm', 'transformers'))))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0


def test_the_fingerprint_is_that_of_the_weights_file(encoder: MiniEncoder) -> None:
    file = (WEIGHTS / "model.safetensors").read_bytes()
    assert encoder.fingerprint == blake3(file).hexdigest()[:16]


def test_the_packaged_files_stay_small() -> None:
    assert sum(path.stat().st_size for path in WEIGHTS.iterdir()) <= 40 * 2**20


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_missing_or_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "mini"
    shutil.copytree(WEIGHTS, folder)
    damaged = folder / name
    damaged.write_bytes(damaged.read_bytes()[:-1000] if "model" in name else b"{")
    with pytest.raises(ModelError, match=name):
        MiniEncoder(folder)
    damaged.unlink()
    with pytest.raises(ModelError, match=name):
        MiniEncoder(folder)
