"""The hyper-parameters of `retrieval train`. docs/mini.md has those of `mini` itself.

The defaults were chosen on Flickr8k's validation photos. Which photos to train on is in `options`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self

from retrieval.errors import QueryError

TUNE = {"heads": (0, 0), "top": (6, 3), "all": (10**6, 10**6)}
"""For each `--tune`: how many last blocks (photo tower) and layers (text tower) are trained."""


@dataclass(frozen=True)
class Recipe:
    """Hyper-parameters. Rates are learning rates of AdamW; shares and dropouts are from 0 to 1."""

    blocks: int = 6
    """How many of the photo tower's last blocks are trained (0: only its head)."""
    layers: int = 3
    """How many of the text tower's last layers are trained (0: only its head)."""
    epochs: int = 16
    batch: int = 400
    views: int = 6
    """Augmented copies of each photo, if part of the photo tower is frozen and computed once."""
    captions: int = 2
    """Captions drawn for each photo at every step."""
    head_rate: float = 1e-3
    photo_rate: float = 2e-4
    text_rate: float = 1e-4
    layer_decay: float = 0.8
    """The rate of a layer, relative to that of the next layer."""
    weight_decay: float = 0.1
    warmup: float = 0.1
    photo_dropout: float = 0.3
    text_dropout: float = 0.2
    path_dropout: float = 0.1
    """How often the last residual block of the photo tower is left out; earlier ones less often."""
    average: float = 0.98
    """The decay of the exponential moving average of the weights."""
    loss: Literal["contrastive", "sigmoid"] = "contrastive"
    temperature: float = 0.05
    soft: float = 0.2
    """Share of the target that is distributed by the similarity of the captions."""
    soft_temperature: float = 0.1
    hard: float = 0.0
    """Share of a batch that is hard negatives: near neighbours of the rest."""
    class_loss: float = 0.3
    """Weight of the loss for agreement with the ImageNet classifier."""
    gate: float = 1.0
    """Factor of the classifier's share in the written model: above 1, more of what photos show but
    captions do not mention is kept, at a small cost on the captions of the data set."""
    bits: int = 8
    """Bits of the photo tower's weights in the written model, 8 or 16. With 8, indexing is a third
    faster; 16 is for models whose weights will be averaged (`model_soup`)."""
    keep_loss: float = 1.0
    """Weight of the loss that preserves the similarities between texts before training."""
    crop: float = 0.5
    """The smallest share of a photo's area in a random crop."""
    colour: float = 0.3
    """The largest relative change of brightness, contrast and saturation."""
    distort: float = 0.3
    """How often one more random distortion is applied (from RandAugment)."""
    patience: int = 5
    """Epochs without a better recall on the held-out photos before training stops."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "views", "captions", "patience"):
            if getattr(self, name) < 1:
                raise QueryError(f"{name} is {getattr(self, name)}. It must be 1 or more.")
        if self.batch < 2:
            raise QueryError(
                "A batch of one photo has no negatives to compare with. Use --set batch=2 or more."
            )
        if self.bits not in (8, 16):
            raise QueryError(f"Weights of {self.bits} bits are not supported. Use 8 or 16.")
        if self.loss not in ("contrastive", "sigmoid"):
            raise QueryError(f"There is no loss '{self.loss}'. Use contrastive or sigmoid.")

    @classmethod
    def parse(cls, changes: Mapping[str, str]) -> Self:
        """The default recipe with some values changed.

        Raises QueryError for an unknown name or a bad value.
        """
        known: dict[str, Any] = {f.name: type(f.default) for f in fields(cls)}
        values: dict[str, Any] = {}
        for name, text in changes.items():
            if name not in known:
                raise QueryError(f"The recipe has no '{name}'. Choose from: {', '.join(known)}.")
            try:
                values[name] = known[name](text)
            except ValueError:
                raise QueryError(f"{name}={text} is no value for {name}.") from None
        return cls(**values)

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def parse_recipe(tune: str, epochs: int, settings: Sequence[str]) -> Recipe:
    """The recipe of the command line. tune: a key of TUNE; settings: NAME=VALUE for the rest.

    Raises QueryError.
    """
    if tune not in TUNE:
        raise QueryError(f"There is no --tune {tune!r}. Choose one of {', '.join(TUNE)}.")
    blocks, layers = TUNE[tune]
    changes = {"blocks": str(blocks), "layers": str(layers), "epochs": str(epochs)}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise QueryError(f"--set {setting} is not NAME=VALUE, as in --set head_rate=3e-4.")
        changes[name] = value
    return Recipe.parse(changes)
