"""`mini`, the built-in encoder, with its real weights and a few photos that are always there."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import skimage
import sklearn
from blake3 import blake3
from PIL import Image
from safetensors.numpy import load_file, save_file

from retrieval.encoders.mini.encoder import MiniEncoder
from retrieval.encoders.mini.model_folder import WEIGHTS
from retrieval.encoders.mini.text import Int8Matrix
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


@pytest.mark.parametrize("rows", [384, 128, 200, 3])
def test_a_matrix_in_blocks_is_the_matrix_transposed(rows: int) -> None:
    random = np.random.default_rng(rows)
    codes = random.integers(-127, 128, (rows, 5), np.int8)
    matrix = Int8Matrix(codes, random.random(rows, np.float32))
    blocks = matrix.transposed_blocks()
    assert blocks.flags.c_contiguous and blocks.dtype == np.float32
    np.testing.assert_array_equal(np.concatenate(list(blocks), axis=1), matrix.dequantize().T)


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


def test_the_fingerprint_is_that_of_the_weights_file(encoder: MiniEncoder, tmp_path: Path) -> None:
    copy = tmp_path / "mini"
    shutil.copytree(WEIGHTS, copy)
    weights = copy / "model.safetensors"
    assert encoder.fingerprint == blake3(weights.read_bytes()).hexdigest()[:16]
    assert encoder.fingerprint == MiniEncoder(copy).fingerprint, "wherever the file is"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert encoder.fingerprint != MiniEncoder(copy).fingerprint


def rewrite_json(name: str, **changes: object) -> Callable[[Path], None]:
    """Set entries of a JSON file, `part__name` for one inside `part`."""

    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        for key, value in changes.items():
            *parts, last = key.split("__")
            place = content
            for part in parts:
                place = place[part]
            place[last] = value
        (folder / name).write_text(json.dumps(content))

    return change


def rewrite_tensors(**changes: object) -> Callable[[Path], None]:
    """Replace tensors (None removes one); `__` stands for a dot. A function gets the old one."""

    def change(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        for key, value in changes.items():
            name = key.replace("__", ".")
            old = tensors.pop(name, None)
            if value is not None:
                new = value(old) if callable(value) else value
                tensors[name] = np.ascontiguousarray(new)
        save_file(tensors, folder / "model.safetensors")

    return change


def filled(value: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda old: np.full_like(old, value)


def stretch(name: str, size: int) -> Callable[[Path], None]:
    """Make a file far longer than it is, without taking room on the disk."""
    return lambda folder: os.truncate(folder / name, size)


def claim_terabytes(folder: Path) -> None:
    """A safetensors file of a terabyte, sparse, whose header agrees with its size."""
    entry = {"dtype": "I8", "shape": [1 << 38, 4], "data_offsets": [0, 1 << 40]}
    header = json.dumps({"text.tower.words": entry}).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + (1 << 40))


def add_token(folder: Path) -> None:
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["vocab"]["a"] = 4_000_000_000
    file.write_text(json.dumps(content))


def point_special_token(folder: Path) -> None:
    """The template that puts [CLS] before a text names an id of its own."""
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    content["post_processor"]["special_tokens"]["[CLS]"]["ids"] = [99_999]
    file.write_text(json.dumps(content))


def deep(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text('{"a":' * 100_000)


BAD_FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "deep config": (deep("config.json"), "config.json"),
    "deep tokenizer": (deep("tokenizer.json"), "tokenizer.json"),
    "config of a terabyte": (stretch("config.json", 1 << 40), "config.json.*bytes"),
    "tokenizer of a terabyte": (stretch("tokenizer.json", 1 << 40), "tokenizer.json.*bytes"),
    "weights of a terabyte": (claim_terabytes, "model.safetensors.*bytes"),
    "list for a config": (lambda f: (f / "config.json").write_text("[2]"), "config.json"),
    "zero heads": (rewrite_json("config.json", text__heads=0), "heads is 0"),
    "heads that do not divide": (rewrite_json("config.json", text__heads=3), "3 heads"),
    "no longest": (rewrite_json("config.json", text={"heads": 2}), "longest is None"),
    "longest beyond the table": (rewrite_json("config.json", text__longest=64), "places"),
    "no size": (rewrite_json("config.json", image={}), "size is None"),
    "size of a million": (rewrite_json("config.json", image__size=10**6), "size is 1000000"),
    "a number as text": (rewrite_json("config.json", dim="32"), "dim is 32"),
    "endless stages": (rewrite_json("config.json", image__stages=[[10**9, 3, 1, 6, 8]]), "repeats"),
    "stages too large": (
        rewrite_json("config.json", image__size=2048, image__stem=4096), "too large"
    ),
    "even kernel": (rewrite_json("config.json", image__stages=[[1, 4, 1, 1, 8]]), "odd"),
    "a key is missing": (rewrite_tensors(text__tower__layers__0__up__bias=None), "up.bias"),
    "no words": (rewrite_tensors(text__tower__words=None), "has no text.tower.words"),
    "no layers": (rewrite_tensors(text__tower__layers__0__qkv__weight=None), "layers.0.qkv"),
    "no scale": (rewrite_tensors(text__tower__words__scale=None), "words.scale"),
    "the image tower lacks one": (rewrite_tensors(image__tower__top__bias=None), "top.bias"),
    "an unknown key": (rewrite_tensors(image__tower__extra=np.zeros(3, np.float32)), "no place"),
    "another shape": (rewrite_tensors(text__head__up__weight=lambda a: a[:, 1:]), "up.weight is"),
    "another type": (
        rewrite_tensors(text__tower__words=lambda a: a.astype(np.int32)), "words is I32"
    ),
    "NaN in the text tower": (
        rewrite_tensors(text__tower__norm__weight=filled(np.nan)), "not a number"
    ),
    "an endless weight": (rewrite_tensors(text__head__up__bias=filled(np.inf)), "not a number"),
    "a token beyond the table": (add_token, "token 4000000000"),
    "a special token beyond the table": (point_special_token, "token 99999"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_a_folder_that_is_no_model_gets_a_sentence(
    tiny_mini: Path, tmp_path: Path, case: str
) -> None:
    damage, reason = BAD_FOLDERS[case]
    folder = Path(shutil.copytree(tiny_mini, tmp_path / "model"))
    damage(folder)
    with pytest.raises(ModelError, match=reason):
        MiniEncoder(folder)


@pytest.mark.parametrize("value", [np.nan, 60000.0])
def test_weights_that_compute_no_numbers_get_a_sentence(
    tiny_mini: Path, tmp_path: Path, value: float
) -> None:
    """NaN is seen in the file; weights that are only too large, in what they compute."""
    folder = Path(shutil.copytree(tiny_mini, tmp_path / "model"))
    rewrite_tensors(
        image__head__linear__bias=filled(value), image__head__gate=filled(value),
        image__head__log_sharpness=filled(value),
    )(folder)  # fmt: skip
    encoder = MiniEncoder(folder)
    with pytest.raises(ModelError, match=r"not a number|not of length one"):
        encoder.encode_images([np.zeros((64, 64, 3), np.uint8)])


def test_words_that_the_tokenizer_cannot_take_get_a_sentence(
    tiny_mini: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_mini, tmp_path / "model"))
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    del content["model"]["vocab"]["[UNK]"]
    file.write_text(json.dumps(content))
    encoder = MiniEncoder(folder)
    assert encoder.encode_texts(["a photo"]).shape == (1, encoder.dim)
    with pytest.raises(ModelError, match="tokenizer fails"):
        encoder.encode_texts(["\N{COLLISION SYMBOL}"])


def test_texts_that_overflow_get_a_sentence(tiny_mini: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_mini, tmp_path / "model"))
    rewrite_tensors(text__tower__norm__weight=filled(3e38))(folder)
    with pytest.raises(ModelError, match="not of length one"):
        MiniEncoder(folder).encode_texts(["a cat"])


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
