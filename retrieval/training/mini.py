"""`retrieval train`: from a captioned photo set and a model to a model folder.

What is trained on, what is held out and where it goes is settled here; the loop is `trainer`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from indexes.errors import RetrievalError
from retrieval.datasets.captioned import (
    ALL,
    CaptionedPhoto,
    CaptionedSet,
    read_captioned,
    select_split,
)
from retrieval.encoders.mini.encoder import WEIGHTS, squash
from retrieval.encoders.registry import model_folder
from retrieval.errors import DataSetError, ModelError
from retrieval.photos.decode import default_max_megapixels, open_photo
from retrieval.training.config import Recipe
from retrieval.training.examples import Examples

HELD_OUT = 0.1
"""The share of the photos that is held out where the data set has no split for it."""
FEWEST = 20


@dataclass(frozen=True)
class Trained:
    """What came of a run: R@1, R@5 and R@10 in percent, text to photo, on the held-out photos."""

    folder: Path
    before: list[float]
    after: list[float]
    epochs: int
    curve: Path | None


def train(
    dataset: Path,
    out: Path,
    model: str = "mini",
    recipe: Recipe = Recipe(),
    split: str | None = None,
    held_out: str | None = None,
    images: Path | None = None,
    skip_bad: bool = False,
    texts: Path | None = None,
    device: str = "auto",
    seed: int = 0,
    log: Callable[[str], None] = lambda _: None,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Trained:
    """Train `model` on a captioned photo set; the folder `out` is then a model for `--model`.

    split: what to learn from, 'train' if the set has it, else all; held_out: what to measure on,
    'val' if there is one, else a tenth of the photos, drawn by the seed; texts: a file of more
    texts, a line each, whose meaning is to be kept. A run that was stopped goes on where it was.
    Raises RetrievalError.
    """
    start = WEIGHTS if model == "mini" else model_folder(model)
    if start is None:
        raise ModelError(
            f"{model} cannot be trained here: only the built-in model mini, or a folder that "
            "`retrieval train` made. Leave --model out."
        )
    if (out / "model.safetensors").exists() and not (out / "training").exists():
        raise RetrievalError(f"{out} holds a model already. Name another folder with --out.")
    learn, held = train_and_held_out(dataset, split, held_out, images, skip_bad, seed, log)
    log(
        f"{learn.name}: learning from {len(learn.photos):,} photos, measured on "
        f"{len(held.photos):,} others"
    )
    lines = _lines(texts) if texts else []

    from indexes.lazy_imports import load_torch
    from retrieval.training.curve import draw
    from retrieval.training.dual_encoder import DualEncoder
    from retrieval.training.trainer import Epoch, Trainer

    torch = load_torch()
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(seed)
    dual = DualEncoder.read(start)

    def after(epoch: Epoch) -> None:
        one, five, ten = epoch.text_to_photo
        what = "Before" if epoch.epoch < 0 else f"Epoch {epoch.epoch + 1}: loss {epoch.loss:.3f},"
        log(f"{what} R@1 {one:.1f}, R@5 {five:.1f}, R@10 {ten:.1f} ({epoch.seconds:.0f} s)")

    trainer = Trainer(
        dual,
        _examples(learn, dual.config["image"]["size"]),
        _examples(held, dual.config["image"]["size"]),
        out,
        recipe,
        seed,
        device,
        texts=lines,
        progress=progress,
        after=after,
    )
    history = trainer.go()
    if recipe.bits == 8:
        to_8_bits(out, learn)
    curve = trainer.state / "curve.png"
    drawn = draw(history.epochs, curve)
    for kept in trainer.state.glob("*.npy"):  # gigabytes, and of no use to a finished run
        kept.unlink()
    best = history.best.text_to_photo
    first = history.epochs[0].text_to_photo
    return Trained(out, first, best, len(history.epochs) - 1, curve if drawn else None)


def to_8_bits(folder: Path, learn: CaptionedSet) -> None:
    """Write the photo tower of the model in `folder` in 8 bits, unless it is: ranges by `learn`."""
    from retrieval.training.dual_encoder import DualEncoder
    from retrieval.training.quantization import PHOTOS

    dual = DualEncoder.read(folder)
    if dual.bits == 8:
        return
    size = dual.config["image"]["size"]
    photos = _examples(learn, size).photos
    chosen = np.linspace(0, len(photos) - 1, min(PHOTOS, len(photos)), dtype=int)
    dual.write(folder, photos=np.stack([np.asarray(squash(photos[i](), size)) for i in chosen]))


def train_and_held_out(
    dataset: Path,
    split: str | None,
    held_out: str | None,
    images: Path | None,
    skip_bad: bool,
    seed: int,
    log: Callable[[str], None],
) -> tuple[CaptionedSet, CaptionedSet]:
    """What to learn from and what to measure on; no photo is in both."""
    whole = read_captioned(dataset, ALL, images, skip_bad, log)
    there = {photo.split for photo in whole.photos}
    split = split or ("train" if "train" in there else ALL)
    learn = select_split(whole, split)
    held_out = held_out or ("val" if "val" in there and split != ALL else None)
    if held_out is not None:
        held = select_split(whole, held_out)
        names = {photo.name for photo in held.photos}
        learn = replace(learn, photos=tuple(p for p in learn.photos if p.name not in names))
    else:
        order = np.random.default_rng(seed).permutation(len(learn.photos))
        some = set(order[: max(int(len(order) * HELD_OUT), 1)].tolist())
        held = replace(learn, photos=tuple(p for i, p in enumerate(learn.photos) if i in some))
        learn = replace(learn, photos=tuple(p for i, p in enumerate(learn.photos) if i not in some))
    if len(learn.photos) < FEWEST:
        raise DataSetError(
            f"{learn.name} has {len(learn.photos)} captioned photos to learn from; it takes "
            f"{FEWEST} at least, and thousands to gain much. Add more."
        )
    return learn, held


def _examples(captioned: CaptionedSet, size: int) -> Examples:
    limit = default_max_megapixels(4)

    def opener(photo: CaptionedPhoto) -> Callable[[], Image.Image]:
        def load() -> Image.Image:
            try:
                with photo.open() as file:
                    return open_photo(file, photo.path, limit, size)[0]
            except (RetrievalError, OSError) as error:
                raise DataSetError(
                    f"{photo.name} cannot be read ({error}). Correct it or take it out of the "
                    "captions."
                ) from error

        return load

    return Examples(
        [opener(photo) for photo in captioned.photos], [p.captions for p in captioned.photos]
    )


def _lines(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise DataSetError(
            f"{file} cannot be read ({error.strerror}). Name a text file, a text on each line."
        ) from error
    return [line.strip()[:1000] for line in lines if line.strip()]
