"""One model, several ways to compute it: they give the same embeddings, and one is always there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

import retrieval
from retrieval import Compute
from retrieval.encoders import openvino_runner
from retrieval.encoders.mini.encoder import MiniEncoder
from retrieval.encoders.mini.model_folder import WEIGHTS
from retrieval.encoders.openclip import OpenClipEncoder
from retrieval.errors import ModelError, QueryError
from tests.conftest import Run

ROOT = Path(__file__).resolve().parents[1]
openvino = pytest.mark.skipif(
    sys.platform == "darwin", reason="OpenVINO is not installed on this platform"
)


def prepared(encoder: Any, folder: Path) -> list[np.ndarray]:
    photos = []
    for path in sorted(folder.iterdir()):
        with Image.open(path) as photo:
            photos.append(encoder.prepare(photo.convert("RGB")))
    return photos


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    np.testing.assert_allclose(np.linalg.norm([*a, *b], axis=1), 1.0, atol=1e-5)
    return np.sum(a * b, axis=1)


@openvino
def test_the_engines_give_the_same_embeddings_of_mini(originals: Path) -> None:
    messages: list[str] = []
    by_torch, by_openvino = (
        MiniEncoder(compute=Compute(engine), log=messages.append)  # type: ignore[arg-type]
        for engine in ("torch", "openvino")
    )
    photos = prepared(by_torch, originals)
    same = cosines(by_torch.encode_images(photos), by_openvino.encode_images(photos))
    # torch does not round what enters a convolution of 8 bits; drawings and scans show that most.
    assert np.median(same) > 0.998 and same.min() > 0.95
    assert not messages


@openvino
def test_the_engines_give_the_same_embeddings_of_mini_in_floats(
    originals: Path, tmp_path: Path
) -> None:
    from retrieval.training.dual_encoder import DualEncoder

    messages: list[str] = []
    DualEncoder.read(WEIGHTS).write(tmp_path)
    by_torch, by_openvino = (
        MiniEncoder(tmp_path, Compute(engine), messages.append)  # type: ignore[arg-type]
        for engine in ("torch", "openvino")
    )
    photos = prepared(by_torch, originals)
    assert cosines(by_torch.encode_images(photos), by_openvino.encode_images(photos)).min() > 0.9999
    assert not messages


@openvino
@pytest.mark.parametrize("size", [64, 75, 97])
def test_the_engines_agree_on_any_shape_of_mini(size: int) -> None:
    from retrieval.encoders.mini.image import ImageEncoder, ImageHead, ImageTower
    from retrieval.encoders.mini.image_openvino import GraphEncoder

    stages = [[1, 3, 1, 1, 8], [2, 5, 2, 6, 16], [2, 3, 2, 6, 24]]
    shape = {"size": size, "stem": 8, "stages": stages, "top": 64, "queries": 3}
    tower = ImageTower(shape["stem"], stages, shape["top"])
    modules = {"tower.": tower, "head.": ImageHead(64, 3, 32, 10)}
    random = np.random.default_rng(size)
    weights = {
        f"{prefix}{name}": random.normal(0, 0.3, tuple(value.shape)).astype(np.float32)
        for prefix, module in modules.items()
        for name, value in module.state_dict().items()
    }
    for name, width in (("classifier.weight", 64), ("concepts", 32)):
        weights[f"head.{name}"] = random.integers(-127, 128, (10, width), dtype=np.int8)
        weights[f"head.{name}.scale"] = random.uniform(0.001, 0.01, 10).astype(np.float32)
    photos = random.integers(0, 256, (5, size, size, 3), dtype=np.uint8)
    rows = [kind(weights, shape).encode(photos) for kind in (ImageEncoder, GraphEncoder)]
    assert cosines(*rows).min() > 0.9999
    assert abs(rows[0][0] @ rows[0][1]) < 0.999, "different photos differ"


@openvino
@pytest.mark.parametrize(
    "model", ["random_clip", pytest.param("random_vit_s", marks=pytest.mark.slow)]
)
def test_the_engines_give_the_same_embeddings_of_an_open_clip_model(
    request: pytest.FixtureRequest, model: str, originals: Path
) -> None:
    messages: list[str] = []
    name = request.getfixturevalue(model)
    by_torch, by_openvino = (
        OpenClipEncoder(name, Compute(engine), messages.append)  # type: ignore[arg-type]
        for engine in ("torch", "openvino")
    )
    photos = prepared(by_torch, originals)[:11]  # not a multiple of what a core takes at once
    rows = by_torch.encode_images(photos)
    assert cosines(rows, by_openvino.encode_images(photos)).min() > 0.999
    assert (rows @ rows.T).min() < 0.99, "different photos differ"
    assert by_torch.fingerprint == by_openvino.fingerprint
    assert not messages


@openvino
def test_a_conversion_that_computes_something_else_is_refused() -> None:
    torch = pytest.importorskip("torch")
    from retrieval.encoders.openvino_convert import convert

    class FrozenByTracing(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, photos: Any) -> Any:
            lengths = torch.tensor([float(photo.abs().sum()) for photo in photos])
            rows = photos.flatten(1)[:, :16] + 100 * torch.sin(lengths)[: len(photos), None]
            return torch.nn.functional.normalize(rows, dim=1)

    with pytest.raises(RuntimeError):
        convert(FrozenByTracing().eval(), 16)


@openvino
def test_photos_are_encoded_without_torch() -> None:
    code = (
        "import sys, numpy; from retrieval.encoders.mini.encoder import MiniEncoder; "
        "mini = MiniEncoder(); "
        "size = mini.image_size; mini.encode_images([numpy.zeros((size, size, 3), numpy.uint8)]); "
        "sys.exit('torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0


@openvino
def test_loading_openvino_tells_nobody(tmp_path: Path) -> None:
    code = (
        "import socket, sys, threading\n"
        "def refuse(*_): raise AssertionError('the network was asked for')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from indexes.lazy_imports import load_openvino\n"
        "load_openvino().Core()\n"
        "import openvino\n"
        "assert threading.active_count() == 1\n"
        "assert not any('telemetry' in name for name in sys.modules), sys.modules\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0
    assert list(tmp_path.iterdir()) == [], "no identity is created for the user"


def test_without_openvino_torch_computes(monkeypatch: pytest.MonkeyPatch, originals: Path) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)  # as if it were not installed
    messages: list[str] = []
    silent = MiniEncoder(log=messages.append)
    photos = prepared(silent, originals)[:2]
    assert silent.encode_images(photos).shape == (2, silent.dim)
    assert not messages
    wanted = MiniEncoder(compute=Compute("openvino"), log=messages.append)
    assert wanted.encode_images(photos).shape == (2, silent.dim)
    assert len(messages) == 1 and "pip install openvino" in messages[0]


@openvino
def test_where_openvino_breaks_torch_computes(
    monkeypatch: pytest.MonkeyPatch, originals: Path
) -> None:
    def broken() -> None:
        raise RuntimeError("Cannot load library libopenvino_intel_cpu_plugin.so")

    monkeypatch.setattr(openvino_runner, "load_openvino", broken)
    messages: list[str] = []
    encoder = MiniEncoder(compute=Compute("openvino"), log=messages.append)
    assert len(encoder.encode_images(prepared(encoder, originals)[:2])) == 2
    assert len(messages) == 1 and "intel_cpu_plugin" in messages[0] and "torch" in messages[0]


@pytest.mark.parametrize("engine", ["torch", pytest.param("openvino", marks=openvino)])
def test_weights_that_no_layer_takes_are_refused(tmp_path: Path, engine: Any) -> None:
    for file in WEIGHTS.iterdir():
        if file.name != "model.safetensors":
            (tmp_path / file.name).symlink_to(file)
    more = load_file(WEIGHTS / "model.safetensors") | {"image.head.more": np.zeros(3, np.float32)}
    save_file(more, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"model\.safetensors .*image\.head\.more has no place"):
        MiniEncoder(tmp_path, Compute(engine))


def test_engine_and_device_are_chosen_on_the_command_line(
    few: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, batches = [], []
    encode = MiniEncoder.encode_images

    def counted(self: MiniEncoder, photos: Any) -> np.ndarray:
        chosen.append(type(self._image_encoder()).__name__)
        batches.append(len(photos))
        return encode(self, photos)

    monkeypatch.setattr(MiniEncoder, "encode_images", counted)
    assert run("index", few, "--model", "mini", "--engine", "torch", "--batch-size", 3).code == 0
    assert set(chosen) == {"ImageEncoder"} and batches == [3, 1]
    again = run("index", few, "--rebuild", "--device", "cpu")
    assert again.code == 0 and "4 added" in again.out
    odd = run("index", few, "--engine", "openvino", "--device", "cuda")
    assert odd.code == 1 and "--device cpu" in odd.messages


def test_a_gpu_that_is_not_there_is_one_sentence(few: Path, run: Run) -> None:
    from indexes.lazy_imports import has_nvidia_driver

    if has_nvidia_driver():
        pytest.skip("this machine has an NVIDIA driver")
    done = run("index", few, "--model", "mini", "--device", "cuda")
    assert done.code == 0
    assert "no NVIDIA GPU" in done.messages


def test_there_is_no_other_engine() -> None:
    with pytest.raises(QueryError, match="openvino"):
        Compute("tensorrt")  # type: ignore[arg-type]


def test_the_size_of_a_batch_changes_no_embedding(few: Path, tmp_path: Path) -> None:
    scores = []
    for size in (1, 3, 64):
        index, options = tmp_path / f"by {size}", retrieval.Options(batch_size=size)
        assert retrieval.index(few, index=index, model="mini", options=options).encoded == 4
        with retrieval.open(index) as photos:
            scores.append([hit.score for hit in photos.similar(few / "chelsea.png", k=3)])
    np.testing.assert_allclose(scores[1:], [scores[0]] * 2, atol=1e-5)
