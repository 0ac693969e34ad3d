"""Which parameters of the dual encoder are trained, and at which rates.

The last blocks of the photo tower and the last layers of the text tower are trained, the rest is
frozen. The batches and the losses are the trainer's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from indexes.lazy_imports import load_torch
from retrieval.training.config import Recipe
from retrieval.training.dual_encoder import DualEncoder

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
else:
    torch = load_torch()
    nn = torch.nn


def freeze(model: DualEncoder, recipe: Recipe) -> int:
    """Freeze what the recipe does not train and set the dropouts, in place.

    Returns the number of frozen blocks of the photo tower: the first block that is trained.
    """
    tower, text = model.image.tower, model.text.tower
    begin = max(len(tower.blocks) - recipe.blocks, 0)
    text.frozen = max(len(text.layers) - recipe.layers, 0)
    tower.requires_grad_(False)
    text.requires_grad_(False)
    if recipe.blocks:
        tower.top.requires_grad_(True)
        tower.blocks[begin:].requires_grad_(True)
        if begin == 0:
            tower.stem.requires_grad_(True)
    for layer in text.layers[text.frozen :]:
        layer.requires_grad_(True)
    if recipe.layers > len(text.layers):
        text.requires_grad_(True)
    model.image.head.dropout = recipe.photo_dropout
    model.text.head.dropout = recipe.text_dropout
    trained = range(begin, len(tower.blocks))
    for place, number in enumerate(trained):
        rate = recipe.path_dropout * (place + 1) / len(trained)
        if tower.blocks[number].residual and rate:
            project = cast(nn.Module, tower.blocks[number].project)
            project.register_forward_hook(_DropPath(rate))
    return begin


class _DropPath:
    """Leaves out a residual branch for some photos while training (Huang et al., 2016)."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def __call__(self, module: nn.Module, _: Any, out: Tensor) -> Tensor:
        if not module.training:
            return out
        keep = torch.rand(len(out), 1, 1, 1, device=out.device) >= self.rate
        return out * (keep / (1 - self.rate))


def parameter_groups(
    model: DualEncoder, recipe: Recipe, scalars: Sequence[nn.Parameter]
) -> list[dict[str, Any]]:
    """The trained parameters with their rates: the later a layer, the higher its rate.

    Only matrices and convolutions have weight decay. scalars: scale and bias of the loss.
    """
    tower, text = model.image.tower, model.text.tower
    blocks, layers = len(tower.blocks), len(text.layers)
    parts: list[tuple[nn.Module, float]] = [
        (model.image.head, recipe.head_rate),
        (model.text.head, recipe.head_rate),
        (tower.top, recipe.photo_rate),
        (tower.stem, recipe.photo_rate * recipe.layer_decay ** (blocks + 1)),
        (text.norm, recipe.text_rate * recipe.layer_decay ** (layers + 1)),
    ]
    for number, block in enumerate(tower.blocks):
        parts.append((block, recipe.photo_rate * recipe.layer_decay ** (blocks - number)))
    for number, layer in enumerate(text.layers):
        parts.append((layer, recipe.text_rate * recipe.layer_decay ** (layers - 1 - number)))
    groups = []
    for part, rate in parts:
        trained = [p for p in part.parameters() if p.requires_grad]
        for is_matrix, decay in ((True, recipe.weight_decay), (False, 0.0)):
            chosen = [p for p in trained if (p.ndim > 1) == is_matrix]
            if chosen:
                groups.append({"params": chosen, "lr": rate, "weight_decay": decay})
    if text.words.requires_grad:
        rate = recipe.text_rate * recipe.layer_decay ** (layers + 1)
        groups.append({"params": [text.words, text.places], "lr": rate, "weight_decay": 0.0})
    return [*groups, {"params": list(scalars), "lr": recipe.head_rate, "weight_decay": 0.0}]


def cosine_schedule(step: int, steps: int, warmup: float) -> float:
    """The factor of the rate at a step: a linear warm-up, then half a cosine down to zero."""
    rise = max(int(steps * warmup), 1)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + float(np.cos(np.pi * min((step - rise) / max(steps - rise, 1), 1.0))))
