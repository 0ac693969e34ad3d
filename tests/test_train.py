"""`retrieval train`, with real captioned photos.

What has to hold for any weights is tested with a tiny model, and once more with `mini` in the slow
tests.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from retrieval.encoders.mini.encoder import MiniEncoder
from retrieval.encoders.mini.model_folder import WEIGHTS
from retrieval.encoders.registry import load_encoder
from retrieval.training import losses, model_soup
from retrieval.training.config import Recipe
from retrieval.training.dual_encoder import DualEncoder
from retrieval.training.mini import train
from retrieval.training.options import TrainOptions
from tests.conftest import Run, needs_extra, shared

SIZES = ["tiny", pytest.param("mini", marks=pytest.mark.slow)]


@pytest.fixture(scope="module", params=SIZES)
def dual(request: pytest.FixtureRequest, tiny_mini: Path) -> DualEncoder:
    return DualEncoder.read(tiny_mini if request.param == "tiny" else WEIGHTS).eval()


def test_the_module_that_learns_computes_what_the_encoder_computes(
    dual: DualEncoder, originals: Path, tmp_path: Path
) -> None:
    dual.write(tmp_path)  # in 16 bits, which are next to nothing
    encoder = MiniEncoder(tmp_path)
    texts = ["a dog on the beach", "two people ride bicycles down a long street at night"]
    files = [originals / "chelsea.png", originals / "rocket.jpg"]
    prepared = [encoder.prepare(Image.open(file).convert("RGB")) for file in files]
    with torch.inference_mode():
        rows = dual.embed_texts(dual.tokenize(texts)).numpy()
        classes = dual.embed_classes(dual.class_sentences())
        photos = torch.from_numpy(np.stack(prepared))
        whole = dual.embed_photos(photos, 0, classes).numpy()
        begin = len(dual.image.tower.blocks) * 2 // 3
        cut = dual.embed_photos(dual.frozen_features(photos, begin), begin, classes).numpy()
    assert (rows * encoder.encode_texts(texts)).sum(1).min() > 0.999
    assert (whole * encoder.encode_images(prepared)).sum(1).min() > 0.999
    assert max(rows[0] @ rows[1], whole[0] @ whole[1]) < 0.99, "inputs differ"
    np.testing.assert_allclose(cut, whole, atol=1e-4)


def test_a_model_that_is_written_and_read_again_is_the_same(
    dual: DualEncoder, tmp_path: Path
) -> None:
    dual.write(tmp_path / "model")
    again = DualEncoder.read(tmp_path / "model")
    assert again.config == dual.config and again.bits == 16
    texts = dual.tokenize(["a cat", "a bus in the rain"])
    with torch.inference_mode():
        before, after = dual.embed_texts(texts), again.eval().embed_texts(texts)
    assert (before * after).sum(1).min() > 0.9999
    assert before[0] @ before[1] < 0.99, "texts differ"
    # Rows of 8 bits are within half a step of what was written, the rest within float16.
    for name, value in dual.state_dict().items():
        torch.testing.assert_close(
            again.state_dict()[name], value, rtol=2e-3, atol=float(value.abs().max()) / 250
        )


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


@pytest.mark.parametrize("size", SIZES)
def test_a_trained_model_indexes_and_searches(
    run: Run, few: Path, some: tuple[Path, Path], tiny_mini: Path, tmp_path: Path, size: str
) -> None:
    out = tmp_path / "my-model"
    start = tiny_mini if size == "tiny" else "mini"
    ask = ("train", some[0], "--images", some[1], "--model", start, "--out", out)
    ask = (*ask, "--set", "views=1", "--epochs")
    trained = run(*ask, 1)
    assert trained.code == 0, trained.messages
    assert "R@1" in trained.out and f"--model {out}" in trained.out
    assert not list((out / "training").glob("*.npy")), "gigabytes of features are not left behind"
    assert load_encoder(str(out)).fingerprint != load_encoder(str(start)).fingerprint
    assert DualEncoder.read(out).bits == 8
    written = (out / "model.safetensors").read_bytes()
    assert run(*ask, 1).code == 0, "a finished run is left as it is"
    assert (out / "model.safetensors").read_bytes() == written
    assert run("index", few, "--model", out).code == 0
    assert (
        json.loads(run("info", "--json", "--index", few / ".retrieval").raw)["made"]["model"]
        == f"trained:{out.resolve()}"
    )
    found = run("search", "a close-up of a cat", "-f", "json", cwd=few)
    assert sorted(found.names) == sorted(path.name for path in few.glob("*.*g"))
    if size == "mini":
        assert found.names[0] == "chelsea.png", "it still knows what it knew"
    again = run(*ask, 2)
    assert again.code == 1 and "other settings" in again.messages
    out.rename(tmp_path / "elsewhere")
    gone = run("search", "a cat", cwd=few)
    assert gone.code == 1 and "is missing" in gone.messages


@needs_extra("plot", "matplotlib")
def test_training_draws_its_curve(some: tuple[Path, Path], tiny_mini: Path, tmp_path: Path) -> None:
    recipe = Recipe(blocks=0, layers=0, epochs=1, views=1, captions=1)
    options = TrainOptions(
        dataset=some[0], out=tmp_path / "out", model=str(tiny_mini), recipe=recipe, images=some[1]
    )
    trained = train(options)
    assert trained.curve == tmp_path / "out" / "training" / "curve.png"
    with Image.open(trained.curve) as curve:
        assert curve.format == "PNG" and curve.width > 1000


@pytest.mark.parametrize(("blocks", "layers"), [(0, 0), (2, 1), (10, 10)])
def test_a_run_that_was_stopped_ends_like_one_that_was_not(
    some: tuple[Path, Path], tiny_mini: Path, tmp_path: Path, blocks: int, layers: int
) -> None:
    data, images = some
    recipe = Recipe(blocks, layers, epochs=3, views=1, captions=1, batch=16)
    model = str(tiny_mini)

    def stop(what: str, done: int, total: int) -> None:
        if what == "Epoch 2":
            raise KeyboardInterrupt

    whole_run, stopped_run = (
        TrainOptions(dataset=data, out=tmp_path / name, model=model, recipe=recipe, images=images)
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
    start = DualEncoder.read(tiny_mini).state_dict()
    for name, value in whole["average"].items():
        torch.testing.assert_close(stopped["average"][name], value)
    assert any(not torch.equal(value, start[name]) for name, value in whole["average"].items())


def test_the_mean_of_two_runs_is_a_model(
    some: tuple[Path, Path], tiny_mini: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, images = some
    runs = [tmp_path / "one", tmp_path / "two"]
    name = "image.head.linear.weight"
    for factor, out in enumerate(runs, start=1):
        model = DualEncoder.read(tiny_mini)
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
    result = run("train", shared("coco_cc"), "--out", tmp_path / "model", *options)
    assert result.code == 1
    assert words in result.messages
    assert not (tmp_path / "model").exists()


def test_too_few_photos_are_refused(run: Run, tmp_path: Path, originals: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    line = json.dumps({"image": "chelsea.png", "captions": ["a photo"]})
    (data / "images").mkdir()
    (data / "images" / "chelsea.png").write_bytes((originals / "chelsea.png").read_bytes())
    (data / "captions.jsonl").write_text(line)
    result = run("train", data, "--out", tmp_path / "model")
    assert result.code == 1 and "At least 20" in result.messages


def test_photos_that_cannot_be_read_are_left_out_if_wanted(
    run: Run, some: tuple[Path, Path], tiny_mini: Path, tmp_path: Path
) -> None:
    listed, images = some
    lines = [json.loads(line) for line in listed.read_text().splitlines()]
    split = ["train"] * 30 + ["val"] * 10
    listed.write_text(
        "\n".join(json.dumps(line | {"split": s}) for line, s in zip(lines, split, strict=True))
    )
    folder = tmp_path / "photos"
    folder.mkdir()
    names = [line["image"] for line in lines]
    for name in names:
        (folder / Path(name).name).write_bytes((images / Path(name).name).read_bytes())
    for name in names[:3]:
        bad = folder / Path(name).name
        bad.write_bytes(bad.read_bytes()[:300])
    command = ("train", listed, "--images", folder, "--model", tiny_mini, "--epochs", 1)
    command = (*command, "--set", "views=1", "--out", tmp_path / "model")
    refused = run(*command)
    assert refused.code == 1 and f"{names[0]} cannot be read" in refused.messages
    trained = run(*command, "--skip-bad")
    assert trained.code == 0, trained.messages
    assert "Left out 3 photos that cannot be read" in trained.messages
    for name in names[3:15]:
        bad = folder / Path(name).name
        bad.write_bytes(bad.read_bytes()[:300])
    few = run(*command[:-1], tmp_path / "other", "--skip-bad")
    assert few.code == 1 and "15 captioned photos to train on" in few.messages
