"""The benchmarks of speed: not how fast, but that they measure what they say."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import peers, sample_photos
from retrieval import Compute
from retrieval.encoders.mini.encoder import MiniEncoder
from retrieval.encoders.registry import load_encoder
from retrieval.photos.decode import load_photo
from tests.conftest import Run, needs_extra

THROUGHPUT = (
    *("benchmark", "throughput", "--megapixels", 0.1, "--photos", 32, "--repeats", 1),
    "--no-peers",
)
STARTUP = ("benchmark", "startup", "--photos", 50, "--repeats", 1)


@pytest.mark.parametrize("megapixels", [0.2, 2.0])
def test_sample_photos_have_the_size_and_are_all_different(
    tmp_path: Path, megapixels: float
) -> None:
    paths = sample_photos.make(tmp_path, megapixels, 20)
    sizes = [Image.open(path).size for path in paths]
    assert [w * h / 1e6 for w, h in sizes] == pytest.approx([megapixels] * 20, rel=0.02)
    assert len({path.read_bytes() for path in paths}) == 20


def test_sample_photos_can_be_made_from_a_folder(originals: Path, tmp_path: Path) -> None:
    (path,) = sample_photos.make(tmp_path, 0.1, 1, originals)
    assert load_photo(path, 100).mode == "RGB"


@pytest.mark.parametrize("model", ["mini", "open_clip"])
def test_torch_as_a_peer_gives_the_embeddings_of_the_engine(
    tmp_path: Path, model: str, random_clip: str
) -> None:
    embeddings_agree("torch", tmp_path, model, random_clip)


@needs_extra("bench", "onnx", "onnxruntime")
@pytest.mark.parametrize("model", ["mini", "open_clip"])
def test_onnx_runtime_as_a_peer_gives_the_embeddings_of_the_engine(
    tmp_path: Path, model: str, random_clip: str
) -> None:
    embeddings_agree("onnx", tmp_path, model, random_clip)


def embeddings_agree(kind: str, tmp_path: Path, model: str, random_clip: str) -> None:
    # torch, since peers compute in floats where OpenVINO computes mini by integers.
    encoder = load_encoder("mini" if model == "mini" else random_clip, compute=Compute("torch"))
    paths = sample_photos.make(tmp_path / "photos", 0.1, 9)
    ours = encoder.encode_images(
        [encoder.prepare(load_photo(path, encoder.image_size)) for path in paths]
    )
    exported = peers.onnx_runtime(encoder, tmp_path) if kind == "onnx" else None
    assert (exported is not None) == (kind == "onnx")
    rows = peers.embed(exported or peers.torch_eager(encoder), encoder, paths)
    assert np.sum(rows * ours, axis=1).min() > 0.999


def test_throughput_tells_every_way(run: Run) -> None:
    told = run(*THROUGHPUT, "--json")
    speeds = {speed["way"]: speed for speed in told.json["speeds"]}
    assert set(speeds) == {"decode", "encode", "index"}
    assert all(speed["photos_per_second"] > 0 and speed["cpu"] > 0 for speed in speeds.values())
    slower = min(speeds[way]["photos_per_second"] for way in ("decode", "encode"))
    share = speeds["index"]["photos_per_second"] / slower
    assert told.json["of_the_slower"]["0.1"] == pytest.approx(share)


@needs_extra("plot", "matplotlib")
@pytest.mark.parametrize("command", [THROUGHPUT, STARTUP])
def test_speeds_are_drawn(run: Run, tmp_path: Path, command: tuple[object, ...]) -> None:
    chart = tmp_path / "chart.png"
    assert run(*command, "--plot", chart).code == 0
    with Image.open(chart) as drawn:
        assert drawn.format == "PNG" and drawn.width > 500


def test_without_onnx_runtime_its_peer_is_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert peers.onnx_runtime(MiniEncoder(), tmp_path) is None


def test_startup_measures_a_search_without_torch(run: Run) -> None:
    told = run(*STARTUP, "--json").json
    assert told["photos"] == 50 and told["model"] == "mini"
    assert told["torch"] is False, "a search by words with mini imports no torch"
    assert 0 < told["query_seconds"] < told["search_seconds"]
