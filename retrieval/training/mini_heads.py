"""Training the two heads of `mini` with a symmetric contrastive loss on frozen features.

The only part of the model that learns from captioned photos; about a minute on two cores.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from indexes.native import load_torch
from retrieval.encoders.mini_image import ImageHead

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional
else:
    torch = load_torch()
    nn = torch.nn
    functional = torch.nn.functional


@dataclass(frozen=True)
class Recipe:
    """Hyper-parameters, chosen by the recalls on Flickr8k's validation photos."""

    epochs: int = 24
    batch: int = 1000
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    queries: int = 0
    hidden: int = 768
    image_dropout: float = 0.5
    text_dropout: float = 0.2
    temperature: float = 0.05
    gate: float = 2.0
    """Weight at first of what the ImageNet classifier saw, beside the learned linear map."""
    class_loss: float = 0.3
    """Weight of the second loss: agree with the ImageNet classifier about its classes' texts."""


@dataclass
class Features:
    """Tensors to learn from: grids (n, cells, channels), texts (n, captions, width)."""

    grids: list[Tensor]
    """The photos' grids, then those of the same photos mirrored."""
    texts: Tensor
    classes: Tensor
    """(1000, width), the sentence vectors of the ImageNet classes."""
    val_grid: Tensor
    val_texts: Tensor


class TextHead(nn.Module):
    """normalise(s + W2 gelu(W1 s + b1) + b2): starts close to the sentence vector s itself."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        self.dropout = dropout
        nn.init.uniform_(self.up.weight, -4 / width**0.5, 4 / width**0.5)
        nn.init.normal_(self.down.weight, std=0.002)

    def forward(self, sentence: Tensor) -> Tensor:
        """(B, width) -> (B, width), unit rows."""
        hidden = functional.gelu(self.up(sentence))
        moved = self.down(functional.dropout(hidden, self.dropout, self.training))
        return functional.normalize(sentence + moved, dim=1)


@dataclass
class Heads:
    """Both heads, and the recalls that chose them."""

    image: ImageHead
    text: TextHead
    recalls: dict[str, list[float]] = field(default_factory=dict)


def train_heads(
    features: Features, classifier: dict[str, NDArray[Any]], recipe: Recipe, seed: int
) -> Heads:
    """Heads of the epoch with the best validation recalls; the same seed gives the same heads."""
    torch.manual_seed(seed)
    chance = np.random.default_rng(seed)
    heads = _fresh(features, classifier, recipe)
    log_scale = nn.Parameter(torch.tensor(float(-np.log(recipe.temperature))))
    learned = [p for m in (heads.image, heads.text) for p in m.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(
        [
            {"params": [p for p in learned if p.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for p in learned if p.ndim <= 1] + [log_scale], "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
        betas=(0.9, 0.98),
    )
    photos, captions, _ = features.texts.shape
    steps = recipe.epochs * (photos // recipe.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.learning_rate, total_steps=steps + 1, pct_start=0.15
    )
    best, best_score = heads, -1.0
    for epoch in range(recipe.epochs):
        heads.image.train()
        heads.text.train()
        order = torch.from_numpy(chance.permutation(photos))
        for start in range(0, photos - recipe.batch + 1, recipe.batch):
            chosen = order[start : start + recipe.batch]
            view = features.grids[int(chance.integers(len(features.grids)))]
            caption = torch.from_numpy(chance.integers(0, captions, len(chosen)))
            loss = _loss(
                heads,
                view[chosen].float(),
                features.texts[chosen, caption],
                features.classes,
                log_scale.exp().clamp(max=100.0),
                recipe.class_loss,
            )
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            schedule.step()
        if epoch % 2 or epoch == recipe.epochs - 1:
            heads.recalls = evaluate(heads, features)
            score = sum(heads.recalls["text to photo"]) + sum(heads.recalls["photo to text"]) / 2
            if score > best_score:
                best, best_score = copy.deepcopy(heads), score
    return best


def _loss(
    heads: Heads, grid: Tensor, text: Tensor, classes: Tensor, scale: Tensor, class_loss: float
) -> Tensor:
    """InfoNCE both ways (Radford et al., CLIP, 2021), and the cross-entropy with the classifier."""
    concepts = heads.text(classes)
    photo = heads.image(grid, concepts)
    logits = photo @ heads.text(text).T * scale  # (B, B)
    target = torch.arange(len(logits))
    loss = functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)
    with torch.no_grad():
        seen = heads.image.classifier(grid.mean(1)).softmax(1)
    agree = functional.cross_entropy(photo @ concepts.T * scale, seen)
    total: Tensor = loss / 2 + class_loss * agree
    return total


def evaluate(heads: Heads, features: Features) -> dict[str, list[float]]:
    """R@1, R@5 and R@10 in percent on the validation photos, both ways."""
    heads.image.eval()
    heads.text.eval()
    with torch.inference_mode():
        concepts = heads.text(features.classes)
        parts = [
            heads.image(grid.float(), concepts) for grid in torch.split(features.val_grid, 250)
        ]
        texts = heads.text(features.val_texts.flatten(0, 1))
        return recalls(torch.cat(parts).numpy(), texts.numpy())


def recalls(photos: NDArray[np.float32], texts: NDArray[np.float32]) -> dict[str, list[float]]:
    """Recalls at 1, 5, 10 in percent, as CLIP papers count: any right item among the first k.

    Ties count against the model.

    `photos` [n, dim] and `texts` [n * captions, dim], each photo's captions one after another.
    """
    each = len(texts) // len(photos)
    similarity = texts @ photos.T
    owner = np.arange(len(texts)) // each
    right = similarity[np.arange(len(texts)), owner]
    other = owner[:, None] != np.arange(len(photos))
    of_text = ((similarity >= right[:, None]) & other).sum(1)
    best = right.reshape(-1, each).max(1)
    of_photo = ((similarity >= best[None, :]) & other).sum(0)
    return {
        "text to photo": [round(100 * float((of_text < k).mean()), 1) for k in (1, 5, 10)],
        "photo to text": [round(100 * float((of_photo < k).mean()), 1) for k in (1, 5, 10)],
    }


def _fresh(features: Features, classifier: dict[str, NDArray[Any]], recipe: Recipe) -> Heads:
    """Untrained heads; the classifier is given and stays as it is."""
    channels, width = features.val_grid.shape[-1], features.classes.shape[1]
    image = ImageHead(channels, recipe.queries, width, len(features.classes))
    image.dropout = recipe.image_dropout
    nn.init.constant_(image.gate, recipe.gate)
    nn.init.normal_(image.linear.weight, std=0.3 / image.linear.in_features**0.5)
    image.classifier.load_state_dict({k: torch.from_numpy(v) for k, v in classifier.items()})
    image.classifier.requires_grad_(False)
    return Heads(image, TextHead(width, recipe.hidden, recipe.text_dropout))
