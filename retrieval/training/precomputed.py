"""What the frozen parts of the model give for a training run, computed once before the first epoch.

Results are stored in the folder of the run, so that a stopped run does not compute them again. They
are from the model before training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from indexes.arrays import Array, Ints
from indexes.atomic_write import atomic_write
from indexes.lazy_imports import load_torch
from retrieval.training.augmentation import Views, make_views, unaugmented_views
from retrieval.training.captioned_images import CaptionedImages, LoadImage
from retrieval.training.config import Recipe
from retrieval.training.dual_encoder import DualEncoder
from retrieval.training.options import Progress

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = load_torch()

Tokens = Sequence[list[int]]


@dataclass(frozen=True)
class Precomputed:
    """Inputs of the loop. Sentences are unit rows of the text tower before training, (n, C).

    views: augmented training photos; held_out_views: held-out photos as they are, [n, ...];
    tokens: of all captions, photo after photo; those of photo i are at offsets[i] to
    offsets[i + 1], offsets: int64 [n + 1]; photo_sentences: the mean sentence of each photo's
    captions; extra_sentences: of the texts without photos; class_probabilities: what the ImageNet
    classifier saw in each training photo, (n, classes).
    """

    views: Views
    held_out_views: Array
    tokens: Tokens
    held_out_tokens: Tokens
    offsets: Ints
    sentences: Tensor
    held_out_sentences: Tensor
    extra_sentences: Tensor
    photo_sentences: Tensor
    class_probabilities: Tensor


def precompute(
    model: DualEncoder,
    training: CaptionedImages,
    held_out: CaptionedImages,
    extra_tokens: Tokens,
    recipe: Recipe,
    seed: int,
    begin: int,
    folder: Path,
    device: str,
    progress: Progress,
) -> Precomputed:
    """Compute everything, or read it from `folder`; begin: the first trained block.

    Raises DataSetError for a photo that cannot be read, RetrievalError if the disk is too small.
    """
    model.eval()
    views = make_views(model, training.photos, recipe, seed, begin, folder, device, progress)

    def as_they_are(photos: Sequence[LoadImage], name: str) -> Array:
        file = folder / f"{name}.npy"
        return unaugmented_views(model, photos, recipe, begin, file, device, progress)

    def sentences(tokens: Tokens, name: str, what: str) -> Tensor:
        file = folder / f"{name}.npy"
        return _sentences(model, tokens, file, device, lambda n: progress(what, n, len(tokens)))

    unaugmented = as_they_are(training.photos, "clean")
    held_out_views = as_they_are(held_out.photos, "held-out")
    tokens = [ids for captions in training.captions for ids in model.tokenize(captions)]
    held_out_tokens = [ids for captions in held_out.captions for ids in model.tokenize(captions)]
    offsets = np.cumsum([0, *(len(captions) for captions in training.captions)])
    of_captions = sentences(tokens, "meaning", "Reading captions")
    means = [of_captions[a:b].mean(0) for a, b in pairwise(offsets)]
    return Precomputed(
        views,
        held_out_views,
        tokens,
        held_out_tokens,
        offsets,
        of_captions,
        sentences(held_out_tokens, "held-meaning", "Reading held-out captions"),
        sentences(extra_tokens, "more-meaning", "Reading texts"),
        torch.nn.functional.normalize(torch.stack(means), dim=1),
        _class_probabilities(model, unaugmented, begin, folder / "seen.npy", device, progress),
    )


def _sentences(
    model: DualEncoder, tokens: Tokens, file: Path, device: str, progress: Callable[[int], None]
) -> Tensor:
    """Sentence embeddings by the text tower, (n, C) unit rows."""
    if file.exists():
        return torch.from_numpy(np.load(file, allow_pickle=False)).to(device)
    tower = model.text.tower
    with torch.inference_mode():
        rows = encode_by_length(tower, tokens, tower.words.shape[1], progress)
    _save(file, rows.cpu().numpy())
    return rows.clone().to(device)  # cloned outside of inference mode, so that autograd accepts it


def _class_probabilities(
    model: DualEncoder,
    views: NDArray[np.float16],
    begin: int,
    file: Path,
    device: str,
    progress: Progress,
) -> Tensor:
    """What the ImageNet classifier sees in every photo: (n, classes)."""
    if not file.exists():
        classifier, rows = model.image.head.classifier, []
        with torch.inference_mode():
            for start in range(0, len(views), 100):
                x = torch.from_numpy(np.array(views[start : start + 100])).to(device)
                mean = model.features(x, begin).mean(1)
                rows.append(classifier(mean).softmax(1).half().cpu().numpy())
                progress("Classifying photos", start + len(x), len(views))
        _save(file, np.concatenate(rows))
    return torch.from_numpy(np.load(file, allow_pickle=False)).to(device)


def encode_by_length(
    encode: Callable[[list[list[int]]], Tensor],
    tokens: Tokens,
    width: int,
    progress: Callable[[int], None] = lambda _: None,
) -> Tensor:
    """Encode texts, (n, width) in their own order, batched by length to need little padding."""
    order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
    rows = torch.empty(0, width)
    for start in range(0, len(order), 250):
        chosen = order[start : start + 250]
        part = encode([tokens[i] for i in chosen])
        if not start:
            rows = part.new_empty(len(tokens), width)
        rows[chosen] = part
        progress(start + len(chosen))
    return rows


def _save(file: Path, rows: Array) -> None:
    with atomic_write(file) as temporary, temporary.open("wb") as written:
        np.save(written, rows, allow_pickle=False)
