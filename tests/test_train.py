"""`retrieval train`, with the real model and real captioned photos."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from retrieval.encoders.mini.encoder import WEIGHTS, MiniEncoder
from retrieval.encoders.registry import load_encoder
from retrieval.training import losses, model_soup
from retrieval.training.config import Recipe
from retrieval.training.dual_encoder import DualEncoder
from retrieval.training.mini import train
from retrieval.training.options import TrainOptions
from tests.conftest import Run, shared

QUICK = Recipe(blocks=0, layers=0, epochs=2, views=1, captions=1)


@pytest.fixture(scope="module")
def dual() -> DualEncoder:
    return DualEncoder.read(WEIGHTS).eval()


def test_the_module_that_learns_computes_what_the_encoder_computes(
    dual: DualEncoder, originals: Path, tmp_path: Path
) -> None:
    dual.write(tmp_path)  # in 16 bits, which are next to nothing
    encoder = MiniEncoder(tmp_path)
    texts = ["a dog on the beach", "two people ride bicycles down a long street at night"]
    files = [originals / "chelsea.png", originals / "coffee.png"]
    prepared = [encoder.prepare(Image.open(file).convert("RGB")) for file in files]
    with torch.inference_mode():
        rows = dual.embed_texts(dual.tokenize(texts)).numpy()
        classes = dual.embed_classes(dual.class_sentences())
        photos = torch.from_numpy(np.stack(prepared))
        whole = dual.embed_photos(photos, 0, classes).numpy()
        cut = dual.embed_photos(dual.frozen_features(photos, 15), 15, classes).numpy()
    assert (rows * encoder.encode_texts(texts)).sum(1).min() > 0.999
    assert (whole * encoder.encode_images(prepared)).sum(1).min() > 0.999
    np.testing.assert_allclose(cut, whole, atol=1e-4)


def test_a_model_that_is_written_and_read_again_is_the_same(
    dual: DualEncoder, tmp_path: Path
) -> None:
    dual.write(tmp_path / "model")
    texts = ["a cat", "a bus in the rain"]
    again = MiniEncoder(tmp_path / "model").encode_texts(texts)
    assert (again * MiniEncoder().encode_texts(texts)).sum(1).min() > 0.9999


def test_pairs_that_fit_have_the_lower_loss() -> None:
    rows = torch.nn.functional.normalize(torch.randn(8, 16, generator=torch.manual_seed(0)), dim=1)
    scale, bias = torch.tensor(20.0), torch.tensor(-10.0)
    other = rows.roll(1, 0)
    eye = torch.eye(8)
    assert losses.contrastive(rows, rows, eye, scale) < losses.contrastive(rows, other, eye, scale)
    assert losses.sigmoid(rows, rows, scale, bias) < losses.sigmoid(rows, other, scale, bias)
    assert losses.similarity_preservation(rows, rows).item() == pytest.approx(0, abs=1e-5)
    assert losses.similarity_preservation(other, rows).item() > 0.1


@pytest.fixture
def some(tmp_path: Path) -> tuple[Path, Path]:
    """A list of 40 real photos with two captions each, and the folder of the photos."""
    data = shared("coco_cc")
    lines = [json.loads(line) for line in (data / "captions.jsonl").read_text().splitlines()[:40]]
    listed = tmp_path / "captions.jsonl"
    few = [{"image": line["image"], "captions": line["captions"][:2]} for line in lines]
    listed.write_text("\n".join(map(json.dumps, few)))
    return listed, data / "images"


def test_a_trained_model_indexes_and_searches(
    run: Run, few: Path, some: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "my-model"
    ask = ("train", some[0], "--images", some[1], "--out", out, "--set", "views=1", "--epochs")
    trained = run(*ask, 1)
    assert trained.code == 0, trained.talk
    assert "R@1" in trained.out and f"--model {out}" in trained.out
    assert (out / "training" / "curve.png").stat().st_size > 5000
    assert not list((out / "training").glob("*.npy")), "gigabytes of features are not left behind"
    assert load_encoder(str(out)).fingerprint != load_encoder("mini").fingerprint
    assert DualEncoder.read(out).bits == 8
    written = (out / "model.safetensors").read_bytes()
    assert run(*ask, 1).code == 0, "a finished run is left as it is"
    assert (out / "model.safetensors").read_bytes() == written
    assert run("index", few, "--model", out).code == 0
    assert (
        json.loads(run("info", "--json", "--index", few / ".retrieval").raw)["made"]["model"]
        == f"trained:{out.resolve()}"
    )
    found = run("search", "a close-up of a cat", "-k", 1, "-f", "json", cwd=few)
    assert found.names == ["chelsea.png"]
    again = run(*ask, 2)
    assert again.code == 1 and "other settings" in again.talk
    out.rename(tmp_path / "elsewhere")
    gone = run("search", "a cat", cwd=few)
    assert gone.code == 1 and "is missing" in gone.talk


def test_a_run_that_was_stopped_ends_like_one_that_was_not(
    some: tuple[Path, Path], tmp_path: Path
) -> None:
    data, images = some

    def stop(what: str, done: int, total: int) -> None:
        if what == "Epoch 2":
            raise KeyboardInterrupt

    whole_run, stopped_run = (
        TrainOptions(dataset=data, out=tmp_path / name, recipe=QUICK, images=images)
        for name in ("whole", "stopped")
    )
    train(whole_run)
    with pytest.raises(KeyboardInterrupt):
        train(stopped_run, progress=stop)
    train(stopped_run)
    names = ("whole", "stopped")
    whole, stopped = (
        torch.load(tmp_path / name / "training" / "checkpoint.pt", weights_only=True)
        for name in names
    )
    assert whole["average"].keys() == stopped["average"].keys()
    for name, value in whole["average"].items():
        torch.testing.assert_close(stopped["average"][name], value)


def test_the_mean_of_two_runs_is_a_model(
    some: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, images = some
    runs = [tmp_path / "one", tmp_path / "two"]
    name = "image.head.linear.weight"
    for factor, out in enumerate(runs, start=1):
        model = DualEncoder.read(WEIGHTS)
        model.state_dict()[name].mul_(factor)
        model.write(out)
    one, two = (DualEncoder.read(out).state_dict() for out in runs)
    mean = model_soup.average_models(runs).state_dict()
    assert not torch.equal(one[name], two[name])
    torch.testing.assert_close(mean[name], (one[name] + two[name]) / 2)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "images").symlink_to(images)
    (tmp_path / "set" / "captions.jsonl").write_bytes(data.read_bytes())
    ask = [str(tmp_path / "set"), *map(str, runs), "--out", str(tmp_path / "mean")]
    model_soup.main(ask)
    assert DualEncoder.read(tmp_path / "mean").bits == 8
    with pytest.raises(SystemExit):
        model_soup.main(ask)
    assert "already holds a model" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="nowhere"):
        model_soup.main([*ask[:2], str(tmp_path / "nowhere"), "--out", str(tmp_path / "other")])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--set", "speed=3"], "no 'speed'"),
        (["--set", "batch=many"], "no value"),
        (["--set", "batch"], "NAME=VALUE"),
        (["--set", "bits=4"], "Use 8 or 16"),
        (["--model", "ViT-B-32:openai"], "cannot be trained"),
        (["--held-out", "test"], "no split 'test'"),
        (["--texts", "nowhere.txt"], "nowhere.txt"),
    ],
)
def test_what_cannot_be_trained_is_said_in_a_sentence(
    run: Run, tmp_path: Path, options: list[str], words: str
) -> None:
    excluded_ids = run("train", shared("coco_cc"), "--out", tmp_path / "model", *options)
    assert excluded_ids.code == 1
    assert words in excluded_ids.talk
    assert not (tmp_path / "model").exists()


def test_too_few_photos_are_refused(run: Run, tmp_path: Path, originals: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    line = json.dumps({"image": "chelsea.png", "captions": ["a photo"]})
    (data / "images").mkdir()
    (data / "images" / "chelsea.png").write_bytes((originals / "chelsea.png").read_bytes())
    (data / "captions.jsonl").write_text(line)
    excluded_ids = run("train", data, "--out", tmp_path / "model")
    assert excluded_ids.code == 1 and "20 at least" in excluded_ids.talk
