"""`retrieval train`: from captioned photos and a model to the folder of a new model.

Chooses the photos, the model to start from and the device; the loop is in `trainer`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from indexes.errors import RetrievalError
from retrieval.datasets.captioned import CaptionedSet
from retrieval.encoders.mini.encoder import squash
from retrieval.encoders.mini.model_folder import WEIGHTS
from retrieval.encoders.registry import model_folder
from retrieval.errors import DataSetError, ModelError
from retrieval.photos.decoder_processes import DecoderProcesses
from retrieval.training.captioned_images import captioned_images, readable_photos
from retrieval.training.held_out import require_enough, training_and_held_out
from retrieval.training.history import Epoch
from retrieval.training.options import Log, Progress, TrainOptions
from retrieval.training.run import TrainingRun


@dataclass(frozen=True)
class TrainedModel:
    """The result of `train`. before, after: R@1, R@5 and R@10 in percent, text to photo, on the
    held-out photos; curve: a PNG file, None without matplotlib."""

    folder: Path
    before: list[float]
    after: list[float]
    epochs: int
    curve: Path | None


def train(
    options: TrainOptions, log: Log = lambda _: None, progress: Progress = lambda *_: None
) -> TrainedModel:
    """Train a model on captioned photos; the folder `options.out` is then a model for `--model`.

    A stopped run continues after its last whole epoch if it is started again with the same options.
    Raises RetrievalError.
    """
    out, recipe = options.out, options.recipe
    start = WEIGHTS if options.model == "mini" else model_folder(options.model)
    if start is None:
        raise ModelError(
            f"{options.model} cannot be trained here, only the built-in model mini or a folder "
            "that `retrieval train` wrote. Leave --model out to start from mini."
        )
    if (out / "model.safetensors").exists() and not (out / "training").exists():
        raise RetrievalError(f"{out} already holds a model. Name another folder with --out.")
    training, held_out = training_and_held_out(options, log)
    log(
        f"{training.name}: training on {len(training.photos):,} photos, measuring on "
        f"{len(held_out.photos):,} others"
    )
    texts = _read_lines(options.texts) if options.texts else []

    from indexes.lazy_imports import load_torch
    from retrieval.training.curve import draw_model_curve
    from retrieval.training.dual_encoder import DualEncoder
    from retrieval.training.trainer import Trainer

    torch = load_torch()
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(options.seed)
    model = DualEncoder.read(start)
    size = model.config["image"]["size"]

    def on_epoch(epoch: Epoch) -> None:
        one, five, ten = epoch.text_to_photo
        name = f"Epoch {epoch.epoch + 1}: loss {epoch.loss:.3f}," if epoch.epoch >= 0 else "Before:"
        log(f"{name} R@1 {one:.1f}, R@5 {five:.1f}, R@10 {ten:.1f} ({epoch.seconds:.0f} s)")

    if options.skip_bad:
        training, held_out = (
            readable_photos(captioned, size, log, progress) for captioned in (training, held_out)
        )
        require_enough(training.name, len(training.photos))
    run = TrainingRun(out, recipe, options.seed, device, progress)
    with DecoderProcesses() as processes:
        trainer = Trainer(
            model,
            captioned_images(training, size, processes),
            captioned_images(held_out, size, processes),
            run,
            extra_texts=texts,
            on_epoch=on_epoch,
        )
        history = trainer.run()
    if recipe.bits == 8:
        quantize_model(out, training)
    curve = run.folder / "curve.png"
    drawn = draw_model_curve(history.epochs, curve)
    for features in run.folder.glob("*.npy"):  # gigabytes that a finished run does not need
        features.unlink()
    return TrainedModel(
        out,
        history.epochs[0].text_to_photo,
        history.best.text_to_photo,
        len(history.epochs) - 1,
        curve if drawn else None,
    )


def quantize_model(folder: Path, captioned: CaptionedSet) -> None:
    """Write the photo tower of the model in `folder` in 8 bits, if it is not yet.

    captioned: photos from which the ranges are measured.
    """
    from retrieval.training.dual_encoder import DualEncoder
    from retrieval.training.quantization import SAMPLE_PHOTOS

    model = DualEncoder.read(folder)
    if model.bits == 8:
        return
    size = model.config["image"]["size"]
    with DecoderProcesses() as processes:
        photos = captioned_images(captioned, size, processes).photos
        chosen = np.linspace(0, len(photos) - 1, min(SAMPLE_PHOTOS, len(photos)), dtype=int)
        sample = np.stack([np.asarray(squash(photos[i](), size)) for i in chosen])
    model.write(folder, photos=sample)


def _read_lines(file: Path) -> list[str]:
    """The lines of a text file that are not empty, cut at 1,000 characters."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise DataSetError(
            f"{file} cannot be read ({error.strerror}). Name a text file with one text per line."
        ) from error
    return [line.strip()[:1000] for line in lines if line.strip()]
