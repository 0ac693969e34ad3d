"""The photo tower in 8 bits: nearly the same embeddings, computed by integers.

With a tiny model, and in the slow tests with `mini`.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file

from retrieval import Compute
from retrieval.encoders.mini.encoder import MiniEncoder
from retrieval.encoders.mini.image import SameConv, build_model
from retrieval.encoders.mini.model_folder import WEIGHTS
from retrieval.encoders.mini.quantization import Quantization, input_quantization
from retrieval.encoders.mini.text import strip_prefix
from retrieval.errors import ModelError
from retrieval.training.dual_encoder import DualEncoder
from retrieval.training.quantization import LARGEST_CODE, round_to_levels
from tests.conftest import shared
from tests.test_engines import openvino


def photos(count: int, skip: int = 0) -> list[Image.Image]:
    files = sorted((shared("coco_cc") / "images").iterdir())[skip : skip + count]
    return [Image.open(file).convert("RGB") for file in files]


@pytest.fixture(scope="module", params=["tiny", pytest.param("mini", marks=pytest.mark.slow)])
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_mini: Path
) -> tuple[Path, Path]:
    """A model at a small size, in 16 bits and in 8."""
    folder = tmp_path_factory.mktemp("models")
    dual = DualEncoder.read(tiny_mini if request.param == "tiny" else WEIGHTS).eval()
    dual.config["image"] = {**dual.config["image"], "size": 64 if request.param == "tiny" else 96}
    dual.write(folder / "halves")
    seen = np.stack([MiniEncoder(folder / "halves").prepare(photo) for photo in photos(24)])
    dual.write(folder / "bytes", photos=seen)
    return folder / "halves", folder / "bytes"


def test_a_tower_in_8_bits_is_half_as_large_and_reads_as_what_it_was(
    made: tuple[Path, Path],
) -> None:
    halves, eight = (load_file(folder / "model.safetensors") for folder in made)
    size = {k: sum(v.nbytes for n, v in w.items() if n.startswith("image.tower")) for k, w in
            (("halves", halves), ("eight", eight))}  # fmt: skip
    # Next to the few weights of tiny towers, scales and ranges take room.
    large = size["halves"] > 10**6
    assert size["eight"] < (0.55 if large else 0.8) * size["halves"]
    for name in [n for n in halves if n.startswith("image.tower") and n.endswith(".weight")]:
        assert eight[name].dtype == np.int8 and eight[name].shape == halves[name].shape
        assert np.abs(eight[name].astype(int)).max() == LARGEST_CODE, "no product overflows 16 bits"
        scale = eight[f"{name}.scale"].reshape(-1, 1, 1, 1)
        error = np.abs(eight[name] * scale - halves[name].astype(np.float32))
        assert (error <= 0.501 * scale).all()
    again = DualEncoder.read(made[1])
    assert again.bits == 8 and DualEncoder.read(made[0]).bits == 16


def test_a_model_of_the_earlier_format_is_read(made: tuple[Path, Path], tmp_path: Path) -> None:
    for file in made[0].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"format": 1}))
    old, new = MiniEncoder(tmp_path), MiniEncoder(made[0])
    prepared = [new.prepare(photo) for photo in photos(2)]
    np.testing.assert_array_equal(old.encode_images(prepared), new.encode_images(prepared))
    (tmp_path / "config.json").write_text(json.dumps(config | {"format": 3}))
    with pytest.raises(ModelError, match="format 3"):
        MiniEncoder(tmp_path)


@openvino
def test_embeddings_hardly_change_and_integers_compute_them(made: tuple[Path, Path]) -> None:
    from indexes.lazy_imports import load_openvino
    from retrieval.encoders.mini.image_openvino import build_graph
    from retrieval.encoders.mini.model_folder import read_tensors

    said: list[str] = []
    encoders = [MiniEncoder(folder, log=said.append) for folder in made]
    prepared = [encoders[0].prepare(photo) for photo in photos(20, skip=100)]
    before, after = (encoder.encode_images(prepared) for encoder in encoders)
    assert not said, "OpenVINO takes the graph"
    cosines = (before * after).sum(1)
    assert cosines.mean() > 0.985 and cosines.min() > 0.95

    shape = json.loads((made[1] / "config.json").read_text())["image"]
    model = build_graph(read_tensors(made[1] / "model.safetensors", "image."), shape)
    compiled = (
        load_openvino().Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    )
    kinds = [op.get_rt_info() for op in compiled.get_runtime_model().get_ops()]
    precisions = [
        info["runtimePrecision"].value for info in kinds if info["layerType"].value == "Convolution"
    ]
    layers = [name for name in load_file(made[1] / "model.safetensors") if name.endswith(".input")]
    assert len(precisions) >= len(layers) > 10
    assert set(precisions) <= {"u8", "i8"}, "no convolution is left in floats"


@openvino
def test_openvino_rounds_as_the_levels_say(made: tuple[Path, Path]) -> None:
    weights = strip_prefix(load_file(made[1] / "model.safetensors"), "image.")
    shape = json.loads((made[1] / "config.json").read_text())["image"]
    module = build_model(weights, shape)
    for name, layer in module.named_modules():
        if isinstance(layer, SameConv):
            levels = input_quantization(weights, name)
            assert levels is not None
            layer.register_forward_pre_hook(
                lambda _, given, levels=levels: round_to_levels(given[0], levels)
            )
    encoder = MiniEncoder(made[1], Compute("openvino"))
    prepared = [encoder.prepare(photo) for photo in photos(20, skip=100)]
    with torch.inference_mode():
        expected = module(torch.from_numpy(np.stack(prepared))).numpy()
    cosines = (expected * encoder.encode_images(prepared)).sum(1)
    # A number between two levels may go to either; later layers carry that on.
    assert np.median(cosines) > 0.999 and cosines.min() > 0.99
    by_torch = MiniEncoder(made[1], Compute("torch")).encode_images(prepared)
    assert (by_torch * encoder.encode_images(prepared)).sum(1).min() > 0.98


def test_levels_hold_their_ends_and_zero() -> None:
    levels = Quantization(0.5, 128)
    x = torch.tensor([-100.0, -64.0, -0.2, 0.0, 0.3, 63.5, 100.0])
    assert round_to_levels(x, levels).tolist() == [-64, -64, 0, 0, 0.5, 63.5, 63.5]
    assert (levels.low, levels.high) == (-64, 63.5)
    stored = {"a.input": levels.as_tensor()}
    assert input_quantization(stored, "a") == levels and input_quantization(stored, "b") is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image.tower.stem.input", np.array([np.nan, 0], np.float32)),
        ("image.tower.stem.input", np.array([-1, 0], np.float32)),
        ("image.tower.stem.input", np.array([1, np.inf], np.float32)),
        ("image.tower.stem.input", np.array([1, 400], np.float32)),
        ("image.tower.stem.input", np.zeros(3, np.float32)),
        ("image.tower.stem.weight.scale", np.ones(5, np.float32)),
        ("image.tower.stem.weight", np.zeros((2, 2), np.int8)),
    ],
)
def test_a_damaged_file_is_refused_in_a_sentence(
    made: tuple[Path, Path], tmp_path: Path, name: str, value: np.ndarray
) -> None:
    weights = load_file(made[1] / "model.safetensors")
    assert name in weights
    save_file(weights | {name: value}, tmp_path / "model.safetensors")
    for file in ("config.json", "tokenizer.json"):
        (tmp_path / file).write_bytes((made[1] / file).read_bytes())
    with pytest.raises(ModelError, match="cannot be read"):  # at once, or with the first photos
        encoder = MiniEncoder(tmp_path)
        encoder.encode_images([encoder.prepare(photos(1)[0])])
