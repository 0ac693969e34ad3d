"""The hyper-parameters. docs/mini.md has those of `mini` itself.

The defaults were chosen on Flickr8k's validation photos.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self

from retrieval.errors import QueryError

TUNE = {"heads": (0, 0), "top": (6, 3), "all": (10**6, 10**6)}
"""By `--tune`: how many last blocks of the photo tower and last layers of the text tower learn."""


@dataclass(frozen=True)
class Recipe:
    """Hyper-parameters. Rates are of AdamW; shares and dropouts are from 0 to 1."""

    blocks: int = 6
    """The last so many blocks of the photo tower learn (0: its heads alone)."""
    layers: int = 3
    """The last so many layers of the text tower learn (0: its head alone)."""
    epochs: int = 16
    batch: int = 400
    views: int = 6
    """Augmented copies of each photo, where the frozen part of the tower is computed once."""
    captions: int = 2
    """Captions drawn for a photo at every step."""
    head_rate: float = 1e-3
    photo_rate: float = 2e-4
    text_rate: float = 1e-4
    layer_decay: float = 0.8
    """A layer learns at this share of the rate of the one after it."""
    weight_decay: float = 0.1
    warmup: float = 0.1
    photo_dropout: float = 0.3
    text_dropout: float = 0.2
    path_dropout: float = 0.1
    """How often a residual block of the photo tower is left out, at the last one."""
    average: float = 0.98
    """The share of the averaged weights that a step keeps (exponential moving average)."""
    loss: Literal["contrastive", "sigmoid"] = "contrastive"
    temperature: float = 0.05
    soft: float = 0.2
    """Share of the target that goes by how near the captions are to each other."""
    soft_temperature: float = 0.1
    hard: float = 0.0
    """Share of a batch that is near neighbours of the rest: hard negatives."""
    class_loss: float = 0.3
    """Weight of agreeing with the ImageNet classifier about its classes' texts."""
    gate: float = 1.0
    """What the share of the classifier is multiplied with in the model that is written: above 1 it
    keeps more of what photos show that no caption named, at a small cost on such captions."""
    bits: int = 8
    """Of the photo tower's weights in the model that is written, 8 or 16. With 8, indexing is a
    third faster; 16 is for a model whose weights are averaged with others'."""
    keep_loss: float = 1.0
    """Weight of keeping texts as near to each other as the untrained tower has them."""
    crop: float = 0.5
    """The smallest share of a photo that a random crop keeps."""
    colour: float = 0.3
    """How much brightness, contrast and saturation change at most."""
    distort: float = 0.3
    """How often one more random change is made (RandAugment's kinds)."""
    patience: int = 5
    """Epochs without a better recall on the held-out photos before training stops."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "views", "captions", "patience"):
            if getattr(self, name) < 1:
                raise QueryError(f"{name} is {getattr(self, name)}; it has to be 1 or more.")
        if self.batch < 2:
            raise QueryError(
                "A batch of one photo has nothing to tell apart; use --batch 2 or more."
            )
        if self.bits not in (8, 16):
            raise QueryError(f"Weights of {self.bits} bits are not known here. Use 8 or 16.")
        if self.loss not in ("contrastive", "sigmoid"):
            raise QueryError(f"There is no loss '{self.loss}'. Use contrastive or sigmoid.")

    @classmethod
    def parse(cls, changes: Mapping[str, str]) -> Self:
        """The recipe with some values changed; raises QueryError for what is no name or value."""
        known: dict[str, Any] = {f.name: type(f.default) for f in fields(cls)}
        values: dict[str, Any] = {}
        for name, text in changes.items():
            if name not in known:
                raise QueryError(f"The recipe has no '{name}'. It has: {', '.join(known)}.")
            try:
                values[name] = known[name](text)
            except ValueError:
                raise QueryError(f"{name}={text} is no value for {name}.") from None
        return cls(**values)

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def recipe_of(tune: str, epochs: int, settings: Sequence[str]) -> Recipe:
    """The recipe of the command line: what learns, how long, and NAME=VALUE for the rest."""
    blocks, layers = TUNE[tune]
    changes = {"blocks": str(blocks), "layers": str(layers), "epochs": str(epochs)}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise QueryError(f"--set {setting} is not NAME=VALUE, as in --set head_rate=3e-4.")
        changes[name] = value
    return Recipe.parse(changes)
