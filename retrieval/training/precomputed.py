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
from retrieval.training.captioned_images import CaptionedImages
from retrieval.training.dual_encoder import DualEncoder
from retrieval.training.run import TrainingRun

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
    begin: int,
    run: TrainingRun,
) -> Precomputed:
    """Compute everything, or read it from the run's folder; begin: the first trained block.

    Raises DataSetError for a photo that cannot be read, RetrievalError if the disk is too small.
    """
    model.eval()
    views = make_views(model, training.photos, begin, run)
    unaugmented = unaugmented_views(model, training.photos, begin, "clean.npy", run)
    held_out_views = unaugmented_views(model, held_out.photos, begin, "held-out.npy", run)
    tokens = [ids for captions in training.captions for ids in model.tokenize(captions)]
    held_out_tokens = [ids for captions in held_out.captions for ids in model.tokenize(captions)]
    offsets = np.cumsum([0, *(len(captions) for captions in training.captions)])
    of_captions = _sentences(model, tokens, "meaning.npy", "Reading captions", run)
    means = [of_captions[a:b].mean(0) for a, b in pairwise(offsets)]
    return Precomputed(
        views,
        held_out_views,
        tokens,
        held_out_tokens,
        offsets,
        of_captions,
        _sentences(model, held_out_tokens, "held-meaning.npy", "Reading held-out captions", run),
        _sentences(model, extra_tokens, "more-meaning.npy", "Reading texts", run),
        torch.nn.functional.normalize(torch.stack(means), dim=1),
        _class_probabilities(model, unaugmented, begin, run),
    )


def _sentences(
    model: DualEncoder, tokens: Tokens, name: str, what: str, run: TrainingRun
) -> Tensor:
    """Sentence embeddings by the text tower, (n, C) unit rows; what: the words of the progress."""
    file = run.folder / name
    if file.exists():
        return torch.from_numpy(np.load(file, allow_pickle=False)).to(run.device)
    tower = model.text.tower
    with torch.inference_mode():
        rows = encode_by_length(
            tower, tokens, tower.words.shape[1], lambda n: run.progress(what, n, len(tokens))
        )
    _save(file, rows.cpu().numpy())
    return rows.clone().to(
        run.device
    )  # cloned outside of inference mode, so that autograd accepts it


def _class_probabilities(
    model: DualEncoder, views: NDArray[np.float16], begin: int, run: TrainingRun
) -> Tensor:
    """What the ImageNet classifier sees in every photo: (n, classes)."""
    file = run.folder / "seen.npy"
    if not file.exists():
        classifier, rows = model.image.head.classifier, []
        with torch.inference_mode():
            for start in range(0, len(views), 100):
                x = torch.from_numpy(np.array(views[start : start + 100])).to(run.device)
                mean = model.features(x, begin).mean(1)
                rows.append(classifier(mean).softmax(1).half().cpu().numpy())
                run.progress("Classifying photos", start + len(x), len(views))
        _save(file, np.concatenate(rows))
    return torch.from_numpy(np.load(file, allow_pickle=False)).to(run.device)


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
